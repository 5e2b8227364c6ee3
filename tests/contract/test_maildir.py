"""Maildir keeps the contract, and reads nothing that it should not."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from email_router.mail.maildir import CONNECTOR
from email_router.mail.maildir.settings import MaildirSettings
from email_router.mail.maildir.source import MaildirSource
from email_router.model.errors import NeedsOperator
from email_router.model.mailbox import SourceAction
from email_router.model.message import DeliveryKey, RawMessage
from email_router.ports.mail import Batch, Cursor, Limit, Source, SourceContext, Usage
from tests.contract.sources import ALL, SourceContract, SourceRig, bodies, keys, letter

WHEN = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)


class Remembering:
    """What the store does: it remembers what was handed out, and each cursor names how much of it."""

    def __init__(self, rig: MaildirRig, source: MaildirSource) -> None:
        self._rig = rig
        self._source = source

    async def receive(self, cursor: Cursor, limit: Limit) -> Batch:
        noted = int(cursor or "0")
        if noted != len(self._rig.noted):
            del self._rig.noted[noted:]
            self._source._listed = False
        batch = await self._source.receive("", limit)
        self._rig.noted += [k.item for k in (*keys(batch), *(k for k, _ in batch.unreadable), *batch.passed)]
        return replace(batch, cursor=str(len(self._rig.noted)))

    async def fetch(self, keys: Sequence[DeliveryKey]) -> Sequence[RawMessage]:
        return await self._source.fetch(keys)

    async def acknowledge(self, keys: Sequence[DeliveryKey], action: SourceAction, move_to: str = "") -> None:
        await self._source.acknowledge(keys, action, move_to)

    async def usage(self) -> Usage:
        return await self._source.usage()


class MaildirRig(SourceRig):
    connector = CONNECTOR
    can = frozenset({"delete", "usage", "threshold"})
    folder = "archive"

    def __init__(self, directory: Path) -> None:
        self.spool_directory = directory
        self.maildir = directory / "Maildir"
        for name in ("cur", "new", "tmp"):
            (self.maildir / name).mkdir(parents=True)
        self.settings = MaildirSettings(path=str(self.maildir))
        self.noted: list[str] = []
        self.count = 0

    def context(self, *, since: datetime | None = None, secret: str | None = None) -> SourceContext:
        async def known(items: Sequence[str]) -> Collection[str]:
            return set(items) & set(self.noted)

        return replace(super().context(since=since, secret=secret), known=known)

    def open(self, *, since: datetime | None = None, secret: str | None = None, settings: Any = None) -> Any:
        @asynccontextmanager
        async def remembering() -> AsyncIterator[Source]:
            assert CONNECTOR.source is not None
            async with CONNECTOR.source(settings or self.settings, self.context(since=since)) as source:
                assert isinstance(source, MaildirSource)
                yield Remembering(self, source)

        return remembering()

    def deliver(self, message: bytes, received: datetime | None = None) -> None:
        self.count += 1
        when = int(received.timestamp()) if received else 1_700_000_000 + self.count
        place = ("cur", ":2,S") if self.count % 2 else ("new", "")
        (self.maildir / place[0] / f"{when}.M{self.count}P1.host{place[1]}").write_bytes(message)

    def _all(self) -> list[Path]:
        files = [p for name in ("cur", "new") for p in (self.maildir / name).iterdir()]
        return sorted(files, key=lambda p: p.name.split(".M")[1].split("P")[0].zfill(9))

    def bodies(self, folder: str = "") -> list[bytes]:
        return [path.read_bytes() for path in self._all()]

    def remove(self, index: int) -> None:
        self._all()[index].unlink()


@pytest.fixture
def rig(tmp_path: Path) -> MaildirRig:
    return MaildirRig(tmp_path)


class TestMaildir(SourceContract):
    async def test_a_flag_changes_the_name_and_not_the_message(self, rig: MaildirRig) -> None:
        rig.deliver(letter(1))
        async with rig.open() as source:
            first = await source.receive("", ALL)
            [path] = rig._all()
            path.rename(path.with_name(path.name.replace(":2,S", ":2,FS")))
            assert (await source.receive(first.cursor, ALL)).items == ()
            assert bodies(await source.fetch(keys(first))) == [letter(1)]

    async def test_times_are_those_of_the_topmost_received_field_else_of_the_name(self, rig: MaildirRig) -> None:
        stamp = f"Received: from a by b; {WHEN - timedelta(days=1):%a, %d %b %Y %H:%M:%S +0000}\r\n".encode()
        rig.deliver(letter(1), WHEN)
        rig.deliver(stamp + letter(2), WHEN)
        async with rig.open() as source:
            batch = await source.receive("", ALL)
        assert [item.received for item in batch.items] == [WHEN - timedelta(days=1), WHEN]

    async def test_links_are_not_followed(self, rig: MaildirRig, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(b"root:x:0:0")
        (rig.maildir / "cur" / "1.link:2,").symlink_to(secret)
        rig.deliver(letter(1))
        async with rig.open() as source:
            assert bodies(await source.receive("", ALL)) == [letter(1)]

    async def test_a_plain_directory_of_eml_files(self, rig: MaildirRig, tmp_path: Path) -> None:
        plain = tmp_path / "plain"
        plain.mkdir()
        (plain / "a.eml").write_bytes(letter(1))
        (plain / "notes.txt").write_bytes(b"no mail")
        async with rig.open(settings=MaildirSettings(path=str(plain))) as source:
            assert bodies(await source.receive("", ALL)) == [letter(1)]

    async def test_a_name_in_another_charset_harms_nobody(self, rig: MaildirRig, tmp_path: Path) -> None:
        old = tmp_path / "old"
        old.mkdir()
        for n, name in enumerate((b"caf\xe9.eml", "café.eml".encode())):
            (old / os.fsdecode(name)).write_bytes(letter(n))
        async with rig.open(settings=MaildirSettings(path=str(old))) as source:
            batch = await source.receive("", ALL)
            assert sorted(key.item for key in keys(batch)) == ["caf\\xe9.eml", "café.eml"]
            assert sorted(bodies(await source.fetch(keys(batch)))) == [letter(0), letter(1)]

    async def test_a_directory_that_is_not_there_says_the_cure(self, rig: MaildirRig, tmp_path: Path) -> None:
        async with rig.open(settings=MaildirSettings(path=str(tmp_path / "gone"))) as source:
            with pytest.raises(NeedsOperator) as caught:
                await source.receive("", ALL)
        assert "gone" in str(caught.value)
        assert "to cure it" in str(caught.value)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    async def test_a_file_that_may_not_be_read_is_unreadable(self, rig: MaildirRig) -> None:
        rig.deliver(letter(1))
        rig._all()[0].chmod(0)
        async with rig.open() as source:
            batch = await source.receive("", ALL)
        assert len(batch.unreadable) == 1
