"""IMAP against a real Dovecot, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import tracemalloc
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from email_router.mail.imap import CONNECTOR
from email_router.mail.imap.settings import ImapSettings
from email_router.mail.imap.source import ImapSource
from email_router.model.errors import NeedsOperator
from email_router.model.mailbox import SourceAction
from email_router.model.settings import AuthMechanism, TlsMode
from email_router.ports.mail import Limit, Notifier, Source
from tests.contract.sources import ALL, WHEN, SourceContract, SourceRig, bodies, keys, letter
from tests.fixtures.dovecot import QUOTAS, Dovecot

_numbers = itertools.count(1)


class ImapRig(SourceRig):
    connector = CONNECTOR
    can = frozenset({"seen", "move", "delete", "usage", "threshold", "flags", "password", "network", "tls", "restart"})

    def __init__(self, dovecot: Dovecot, spool_directory: Path, user: str = "", folder: str = "") -> None:
        self.dovecot = dovecot
        self.username = user or f"imap{next(_numbers)}"
        self.mailbox = f"{self.username}@router.test"
        self.folder = folder
        self.spool_directory = spool_directory
        self.settings = ImapSettings(
            host="localhost", port=dovecot.ports.imap, tls=TlsMode.STARTTLS, ca_file=str(dovecot.ca_file), timeout=20
        )

    @property
    def _folder(self) -> str:
        return self.folder or "INBOX"

    def deliver(self, message: bytes, received: datetime | None = None) -> None:
        self.dovecot.deliver(self.username, message, self._folder, received)

    def bodies(self, folder: str = "") -> list[bytes]:
        return [stored.body for stored in self.dovecot.messages(self.username, folder or self._folder)]

    def flags(self) -> list[frozenset[str]]:
        return [stored.flags for stored in self.dovecot.messages(self.username, self._folder)]

    def remove(self, index: int) -> None:
        uid = self.dovecot.messages(self.username, self._folder)[index].uid
        self.dovecot.remove(self.username, [uid], self._folder)

    def restart(self) -> None:
        self.dovecot.restart()

    def untrusted(self) -> ImapSettings:
        return ImapSettings(host="localhost", port=self.dovecot.ports.imap, tls=TlsMode.STARTTLS)


@pytest.fixture
def rig(dovecot: Dovecot, tmp_path: Path) -> ImapRig:
    return ImapRig(dovecot, tmp_path)


@pytest.mark.servers
class TestImap(SourceContract):
    async def test_a_new_numbering_lists_again_and_old_keys_name_nothing(self, rig: ImapRig) -> None:
        for n in range(3):
            rig.deliver(letter(n), WHEN)
        async with rig.open(since=WHEN) as source:
            first = await source.receive("", ALL)
        rig.dovecot.reset_uidvalidity(rig.username)
        async with rig.open(since=WHEN) as source:
            assert list(await source.fetch(keys(first))) == []
            await source.acknowledge(keys(first), SourceAction.DELETE)
            again = await source.receive(first.cursor, ALL)
            nothing = await source.receive(again.cursor, ALL)
        assert bodies(again) == [letter(n) for n in range(3)]
        assert set(keys(again)).isdisjoint(keys(first))
        assert nothing.items == ()

    async def test_idle_wakes(self, rig: ImapRig) -> None:
        async with rig.open() as source, asyncio.timeout(20):
            notifier = as_notifier(source)
            assert await notifier.changed(0.1) is True  # just connected: there may be news
            cursor = (await source.receive("", ALL)).cursor
            assert await notifier.changed(0.1) is False
            waiting = asyncio.create_task(notifier.changed(15))
            await asyncio.to_thread(rig.deliver, letter(1))
            assert await waiting is True
            assert bodies(await source.receive(cursor, ALL)) == [letter(1)]
            assert await notifier.changed(0.1) is False

    async def test_idle_gives_way_and_goes_on(self, rig: ImapRig) -> None:
        rig.deliver(letter(0))
        async with rig.open() as source, asyncio.timeout(20):
            first = await source.receive("", ALL)
            waiting = asyncio.create_task(as_notifier(source).changed(15))
            for _ in range(3):
                assert bodies(await source.fetch(keys(first))) == [letter(0)]
            assert not waiting.done()
            await asyncio.to_thread(rig.deliver, letter(1))
            assert await waiting is True

    async def test_without_idle_it_asks_at_the_end(self, rig: ImapRig) -> None:
        rig.settings = replace(rig.settings, idle=False)
        async with rig.open() as source, asyncio.timeout(20):
            await source.receive("", ALL)
            waiting = asyncio.create_task(as_notifier(source).changed(1.0))
            await asyncio.to_thread(rig.deliver, letter(1))
            assert await waiting is True

    @pytest.mark.parametrize("auth", [AuthMechanism.PLAIN, AuthMechanism.LOGIN, AuthMechanism.AUTO])
    async def test_passwords_by_every_mechanism(self, rig: ImapRig, auth: AuthMechanism) -> None:
        rig.settings = replace(rig.settings, auth=auth)
        async with rig.open() as source:
            assert (await source.receive("", ALL)).items == ()

    async def test_tls_from_the_start(self, rig: ImapRig) -> None:
        rig.settings = replace(rig.settings, tls=TlsMode.IMPLICIT, port=rig.dovecot.ports.imaps)
        rig.deliver(letter(1))
        async with rig.open() as source:
            assert bodies(await source.receive("", ALL)) == [letter(1)]

    async def test_xoauth2(self, rig: ImapRig) -> None:
        rig.settings = replace(rig.settings, auth=AuthMechanism.XOAUTH2)
        rig.deliver(letter(1))
        async with rig.open(secret=rig.dovecot.jwt(rig.username)) as source:
            assert bodies(await source.receive("", ALL)) == [letter(1)]
        async with rig.open(secret=rig.dovecot.jwt(rig.username, expires_in=-100)) as source:
            with pytest.raises(NeedsOperator) as caught:
                await source.receive("", ALL)
        assert caught.value.scope == "mailbox"

    async def test_fifty_megabytes_never_lie_in_memory(self, rig: ImapRig) -> None:
        sent = letter(1, padding=50_000_000)
        rig.deliver(sent)
        tracemalloc.start()
        try:
            async with rig.open() as source:
                batch = await source.receive("", ALL)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 5_000_000
        assert batch.items[0].content.size == len(sent)
        digest = hashlib.sha256()
        with batch.items[0].content.open() as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
        assert digest.digest() == hashlib.sha256(sent).digest()

    async def test_five_thousand_messages_in_batches(self, rig: ImapRig) -> None:
        sent = [letter(n, padding=700) for n in range(5000)]
        rig.dovecot.deliver_many(rig.username, sent)
        received: list[bytes] = []
        async with rig.open() as source:
            cursor, more = "", True
            while more:
                batch = await source.receive(cursor, Limit())
                assert 0 < len(batch.items) <= 100
                received += bodies(batch)
                cursor, more = batch.cursor, batch.more
        assert received == sent

    async def test_a_folder_with_any_name(self, dovecot: Dovecot, tmp_path: Path) -> None:
        rig = ImapRig(dovecot, tmp_path, folder='Kunden & Überfälle "neu"')
        rig.deliver(letter(1))
        async with rig.open() as source:
            batch = await source.receive("", ALL)
            await source.acknowledge(keys(batch), SourceAction.MOVE, "Erledigt – 完了 & so")
        assert bodies(batch) == [letter(1)]
        assert keys(batch)[0].folder == 'Kunden & Überfälle "neu"'
        assert rig.bodies() == []
        assert rig.bodies("Erledigt – 完了 & so") == [letter(1)]

    @pytest.mark.parametrize("folder", ["No such folder", 'INBOX"\r\nR9 DELETE "x', "a\\b{5}", "\0"])
    async def test_a_folder_that_is_not_there(self, dovecot: Dovecot, tmp_path: Path, folder: str) -> None:
        rig = ImapRig(dovecot, tmp_path, folder=folder)
        async with rig.open() as source:
            with pytest.raises(NeedsOperator) as caught:
                await source.receive("", ALL)
        assert "folder" in caught.value.cure

    @pytest.mark.parametrize("username", ['x" "secret"\r\nR2 LOGOUT', "a\r\nb", "é", 'quo"te\\'])
    @pytest.mark.parametrize("auth", [AuthMechanism.PLAIN, AuthMechanism.LOGIN])
    async def test_user_names_cannot_give_commands(self, rig: ImapRig, username: str, auth: AuthMechanism) -> None:
        rig.username = username
        rig.settings = replace(rig.settings, auth=auth)
        async with rig.open(secret='wr"ong\r\nR3 NOOP') as source:
            with pytest.raises(NeedsOperator):
                await source.receive("", ALL)

    async def test_the_quota_is_told(self, dovecot: Dovecot, tmp_path: Path) -> None:
        rig = ImapRig(dovecot, tmp_path, user="small")
        rig.deliver(letter(1, padding=100_000))
        async with rig.open() as source:
            usage = await source.usage()
        assert (usage.messages, usage.quota) == (1, QUOTAS["small"])
        assert 98_000 < usage.bytes < 103_000

    async def test_a_shared_mailbox_keeps_the_deletions_of_others(self, rig: ImapRig) -> None:
        for n in range(2):
            rig.deliver(letter(n))
        with rig.dovecot.login(rig.username, "INBOX") as client:
            client.delete_messages(client.search()[:1])
        async with rig.open() as source:
            batch = await source.receive("", ALL)
            await source.acknowledge(keys(batch)[1:], SourceAction.DELETE)
        assert rig.bodies() == [letter(0)]

    async def test_the_next_batch_while_acknowledging_the_last(self, rig: ImapRig) -> None:
        for n in range(6):
            rig.deliver(letter(n))
        async with rig.open() as source:
            first = await source.receive("", Limit(count=2))
            second, _, again = await asyncio.gather(
                source.receive(first.cursor, Limit(count=2)),
                source.acknowledge(keys(first), SourceAction.SEEN),
                source.fetch(keys(first)),
            )
            third = await source.receive(second.cursor, Limit(count=2))
        assert bodies(first) + bodies(second) + bodies(third) == [letter(n) for n in range(6)]
        assert bodies(again) == bodies(first)


def as_notifier(source: Source) -> Notifier:
    assert isinstance(source, ImapSource)
    return source
