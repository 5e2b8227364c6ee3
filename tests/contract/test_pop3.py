"""POP3 against a real Dovecot, and against servers that misbehave."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from email_router.mail.pop3 import CONNECTOR
from email_router.mail.pop3.settings import Pop3Settings
from email_router.mail.pop3.source import Pop3Source
from email_router.model.errors import NeedsOperator, Transient
from email_router.model.mailbox import SourceAction
from email_router.model.message import DeliveryKey, RawMessage
from email_router.model.settings import AuthMechanism, TlsMode
from email_router.ports.mail import Batch, Cursor, Limit, Source, SourceContext, Usage
from tests.contract.sources import ALL, SourceContract, SourceRig, bodies, keys, letter, receive_all
from tests.fixtures.dovecot import Dovecot
from tests.servers.scripted import Scripted

_numbers = itertools.count(1)


class Remembering:
    """What the store does for POP3: it remembers what was handed out, and each cursor names how much of it."""

    def __init__(self, rig: Pop3Rig, source: Pop3Source) -> None:
        self._rig = rig
        self._source = source

    async def receive(self, cursor: Cursor, limit: Limit) -> Batch:
        noted = int(cursor or "0")
        if noted != len(self._rig.noted):
            del self._rig.noted[noted:]
            await self._source.close()
        batch = await self._source.receive("", limit)
        self._rig.noted += [k.item for k in (*keys(batch), *(k for k, _ in batch.unreadable), *batch.passed)]
        return replace(batch, cursor=str(len(self._rig.noted)))

    async def fetch(self, keys: Sequence[DeliveryKey]) -> Sequence[RawMessage]:
        return await self._source.fetch(keys)

    async def acknowledge(self, keys: Sequence[DeliveryKey], action: SourceAction, move_to: str = "") -> None:
        await self._source.acknowledge(keys, action, move_to)

    async def usage(self) -> Usage:
        return await self._source.usage()


class Pop3Rig(SourceRig):
    connector = CONNECTOR
    can = frozenset({"delete", "usage", "password", "network", "tls", "restart"})

    def __init__(self, dovecot: Dovecot, spool_directory: Path) -> None:
        self.dovecot = dovecot
        self.username = f"pop{next(_numbers)}"
        self.mailbox = f"{self.username}@router.test"
        self.folder = "INBOX"
        self.spool_directory = spool_directory
        self.noted: list[str] = []
        self.settings = Pop3Settings(
            host="localhost", port=dovecot.ports.pop3, tls=TlsMode.STARTTLS, ca_file=str(dovecot.ca_file), timeout=20
        )

    def context(self, *, since: datetime | None = None, secret: str | None = None) -> SourceContext:
        async def known(items: Sequence[str]) -> Collection[str]:
            return set(items) & set(self.noted)

        return replace(super().context(since=since, secret=secret), known=known)

    def open(self, *, since: datetime | None = None, secret: str | None = None, settings: Any = None) -> Any:
        @asynccontextmanager
        async def remembering() -> AsyncIterator[Source]:
            assert CONNECTOR.source is not None
            context = self.context(since=since, secret=secret)
            async with CONNECTOR.source(settings or self.settings, context) as source:
                assert isinstance(source, Pop3Source)
                yield Remembering(self, source)

        return remembering()

    def deliver(self, message: bytes, received: datetime | None = None) -> None:
        self.dovecot.deliver(self.username, message, "INBOX", received)

    def bodies(self, folder: str = "") -> list[bytes]:
        return [stored.body for stored in self.dovecot.messages(self.username, folder or "INBOX")]

    def remove(self, index: int) -> None:
        uid = self.dovecot.messages(self.username, "INBOX")[index].uid
        self.dovecot.remove(self.username, [uid], "INBOX")

    def restart(self) -> None:
        self.dovecot.restart()

    def untrusted(self) -> Pop3Settings:
        return replace(self.settings, ca_file="")


@pytest.fixture
def rig(dovecot: Dovecot, tmp_path: Path) -> Pop3Rig:
    return Pop3Rig(dovecot, tmp_path)


def stamped(n: int, when: datetime, padding: int = 0) -> bytes:
    """A letter with the Received field of the server that took it at `when`, above a forged one."""
    return (
        f"Received: from client.test by mx.router.test; {when:%a, %d %b %Y %H:%M:%S +0000}\r\n"
        "Received: from forged.test by forged.test; Mon, 1 Jan 2040 00:00:00 +0000\r\n"
    ).encode() + letter(n, padding=padding)


@pytest.mark.servers
class TestPop3(SourceContract):
    async def test_more_than_ten_thousand_messages(self, rig: Pop3Rig) -> None:
        rig.dovecot.deliver_many(rig.username, [letter(n) for n in range(10_500)])
        async with rig.open() as source:
            items, cursor = await receive_all(source, limit=Limit(count=500))
            nothing = await source.receive(cursor, ALL)
        assert sorted(bodies(items)) == sorted(letter(n) for n in range(10_500))
        assert nothing.items == ()

    async def test_the_threshold_counts_by_the_topmost_received_field(self, rig: Pop3Rig) -> None:
        since = datetime(2026, 11, 1, tzinfo=UTC)
        for n, padding in enumerate((0, 100_000)):
            rig.deliver(stamped(n, since - timedelta(seconds=1), padding))
            rig.deliver(stamped(n + 10, since, padding))
        async with rig.open(since=since) as source:
            batch = await source.receive("", ALL)
            again = await source.receive(batch.cursor, ALL)
        assert bodies(batch) == [stamped(10, since), stamped(11, since, 100_000)]
        assert [item.received for item in batch.items] == [since, since]
        assert (batch.older, len(batch.passed)) == (2, 2)
        assert (again.items, again.older) == ((), 0)

    async def test_a_mailbox_that_is_in_use_is_tried_again(self, rig: Pop3Rig) -> None:
        rig.deliver(letter(0))
        async with rig.open() as source:
            await source.receive("", Limit(count=1))
            await source.usage()  # the session that was read from has ended, or this would be refused
        assert len(rig.bodies()) == 1

    async def test_without_uidl_messages_are_told_apart_by_content_and_deleted(self, rig: Pop3Rig) -> None:
        for n in (1, 2, 2, 3):
            rig.deliver(letter(n))
        settings = replace(rig.settings, uidl=False)
        async with rig.open(settings=settings) as source:
            batch = await source.receive("", ALL)
            assert bodies(batch) == [letter(n) for n in (1, 2, 2, 3)]
            assert batch.items[0].key.item == hashlib.sha256(letter(1)).hexdigest()
            assert bodies(await source.fetch(keys(batch)[1:2])) == [letter(2)]
            await source.acknowledge([keys(batch)[0], keys(batch)[2]], SourceAction.DELETE)
        assert rig.bodies() == [letter(2), letter(3)]

    @pytest.mark.parametrize("auth", [AuthMechanism.PLAIN, AuthMechanism.LOGIN, AuthMechanism.AUTO])
    async def test_logins(self, rig: Pop3Rig, auth: AuthMechanism) -> None:
        rig.deliver(letter(1))
        async with rig.open(settings=replace(rig.settings, auth=auth)) as source:
            assert bodies(await source.receive("", ALL)) == [letter(1)]

    async def test_a_bearer_token(self, rig: Pop3Rig) -> None:
        rig.deliver(letter(1))
        settings = replace(rig.settings, auth=AuthMechanism.XOAUTH2)
        async with rig.open(settings=settings, secret=rig.dovecot.jwt(rig.username)) as source:
            assert bodies(await source.receive("", ALL)) == [letter(1)]
        async with rig.open(settings=settings, secret="not a token") as source:
            with pytest.raises(NeedsOperator):
                await source.receive("", ALL)

    async def test_implicit_tls(self, rig: Pop3Rig) -> None:
        rig.deliver(letter(1))
        settings = replace(rig.settings, tls=TlsMode.IMPLICIT, port=rig.dovecot.ports.pop3s)
        async with rig.open(settings=settings) as source:
            assert bodies(await source.receive("", ALL)) == [letter(1)]


def test_what_pop3_cannot_do_is_said_at_set_up() -> None:
    assert CONNECTOR.check is not None
    settings = Pop3Settings(host="pop.example.com")
    assert CONNECTOR.check(settings, SourceAction.LEAVE) == ""
    assert CONNECTOR.check(settings, SourceAction.DELETE) == ""
    assert "cannot move" in CONNECTOR.check(settings, SourceAction.MOVE)
    assert "cannot mark" in CONNECTOR.check(settings, SourceAction.SEEN)
    assert "without UIDL" in CONNECTOR.check(replace(settings, uidl=False), SourceAction.LEAVE)
    assert CONNECTOR.check(replace(settings, uidl=False), SourceAction.DELETE) == ""


# -- servers that misbehave


HELLO = ("+OK ready", "CAPA>+OK\r\nUSER\r\nUIDL\r\nPIPELINING\r\nTOP\r\n.", "USER>+OK", "PASS>+OK")
ONE = ("LIST>+OK\r\n1 40\r\n.", "UIDL>+OK\r\n1 abc\r\n.")


async def received(script: Sequence[str], tmp_path: Path, **changes: Any) -> Batch:
    async with Scripted(script) as server:
        settings = Pop3Settings(host="127.0.0.1", port=server.port, tls=TlsMode.NONE, timeout=2, connect_timeout=2)
        rig = object.__new__(Pop3Rig)
        rig.noted, rig.spool_directory, rig.username, rig.mailbox, rig.folder = [], tmp_path, "u", "u@router.test", "IN"
        rig.settings = dataclasses.replace(settings, **changes)
        async with rig.open() as source:
            return await source.receive("", ALL)


async def test_dots_at_line_starts_come_back(tmp_path: Path) -> None:
    body = "Subject: dots\\r\\n\\r\\n..\\r\\n...\\r\\nx..\\r\\n..end\\r\\n.".replace("\\r\\n", "\r\n")
    batch = await received((*HELLO, *ONE, f"RETR>+OK\r\n{body}", "QUIT>+OK"), tmp_path)
    assert bodies(batch) == [b"Subject: dots\r\n\r\n.\r\n..\r\nx..\r\n.end\r\n"]


async def test_an_empty_message(tmp_path: Path) -> None:
    batch = await received((*HELLO, *ONE, "RETR>+OK\r\n.", "QUIT>+OK"), tmp_path)
    assert bodies(batch) == [b""]


async def test_a_message_that_the_server_does_not_give_is_set_aside(tmp_path: Path) -> None:
    script = (*HELLO, "LIST>+OK\r\n1 4\r\n2 4\r\n.", "UIDL>+OK\r\n1 a\r\n2 b\r\n.")
    batch = await received((*script, "RETR 1>-ERR corrupted", "RETR 2>+OK\r\nhi\r\n.", "QUIT>+OK"), tmp_path)
    assert bodies(batch) == [b"hi\r\n"]
    assert [(key.item, said) for key, said in batch.unreadable] == [("a", "corrupted")]


async def test_ids_that_repeat_are_told_apart(tmp_path: Path) -> None:
    script = (*HELLO, "LIST>+OK\r\n1 4\r\n2 4\r\n.", "UIDL>+OK\r\n1 same\r\n2 same\r\n.")
    batch = await received((*script, "RETR>+OK\r\nhi\r\n.", "RETR>+OK\r\nho\r\n.", "QUIT>+OK"), tmp_path)
    assert [key.item for key in keys(batch)] == ["same", "same#2"]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ("-ERR [IN-USE] mailbox locked", Transient, "busy"),
        ("-ERR [LOGIN-DELAY] wait a minute", Transient, "busy"),
        ("-ERR [SYS/TEMP] backend away", Transient, "busy"),
        ("-ERR maildrop already locked", Transient, "busy"),
        ("-ERR [AUTH] invalid", NeedsOperator, "user name and password"),
        ("-ERR no", NeedsOperator, "user name and password"),
        ("* OK this is IMAP", Transient, "no POP3"),
    ],
)
async def test_refusals_at_login(answer: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        await received((*HELLO[:3], f"PASS>{answer}"), tmp_path)
    assert words in str(caught.value)
    assert "to cure it" in str(caught.value)


async def test_a_server_without_uidl_says_the_cure(tmp_path: Path) -> None:
    with pytest.raises(NeedsOperator) as caught:
        await received((*HELLO, ONE[0], "UIDL>-ERR unknown command"), tmp_path)
    assert "uidl = false" in str(caught.value)


@pytest.mark.parametrize(
    "script",
    [
        ("SSH-2.0-OpenSSH",),
        ("+OK",),
        (*HELLO, "LIST>+OK\r\n1 40\r\n"),
        (*HELLO, *ONE, "RETR>+OK\r\nhalf a mess"),
        (*HELLO, *ONE, "RETR>" + "x" * 20_000),
        (*HELLO, "LIST>+OK\r\n1 4\r\n.", "UIDL>+OK\r\n1 a\r\n.", "RETR>+OK\r\n" + "flood\r\n" * 800_000),
    ],
    ids=["another protocol", "silence", "half a list", "half a message", "endless line", "flood"],
)
async def test_broken_servers_are_transient(script: Sequence[str], tmp_path: Path) -> None:
    with pytest.raises(Transient):
        await received(script, tmp_path)
