"""POP3 against a real Dovecot, and against servers that misbehave."""

from __future__ import annotations

import asyncio
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
from email_router.model.errors import NeedsOperator, Permanent, Transient
from email_router.model.mailbox import SourceAction
from email_router.model.message import DeliveryKey, RawMessage
from email_router.model.settings import AuthMechanism, TlsMode
from email_router.ports.mail import Batch, Cursor, Limit, Source, SourceContext, Usage
from tests.contract.sources import ALL, SourceContract, SourceRig, bodies, keys, letter, receive_all
from tests.fixtures.dovecot import Dovecot
from tests.servers.scripted import HANG_UP, Scripted

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


async def received(script: Sequence[str], tmp_path: Path) -> Batch:
    async with Scripted(script) as server:
        return await received_from(server.port, tmp_path)


async def received_from(port: int, tmp_path: Path, **changes: Any) -> Batch:
    async with rig_for(port, tmp_path, **changes).open() as source:
        batch: Batch = await source.receive("", ALL)
        return batch


def rig_for(port: int, tmp_path: Path, **changes: Any) -> Pop3Rig:
    settings = Pop3Settings(host="127.0.0.1", port=port, tls=TlsMode.NONE, timeout=2, connect_timeout=2)
    rig = object.__new__(Pop3Rig)
    rig.noted, rig.spool_directory, rig.username, rig.mailbox, rig.folder = [], tmp_path, "u", "u@router.test", "IN"
    rig.settings = dataclasses.replace(settings, **changes)
    return rig


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


async def test_ids_that_repeat_are_told_apart_by_content(tmp_path: Path) -> None:
    """Not by their order: if that changed, a deletion would hit a message that has no outcome yet."""
    listing = (*HELLO, "LIST>+OK\r\n1 4\r\n2 4\r\n3 4\r\n.", "UIDL>+OK\r\n1 same\r\n2 other\r\n3 same\r\n.")
    script = (*listing, "RETR 1>+OK\r\nhi\r\n.", "RETR 3>+OK\r\nho\r\n.")
    reading = ("RETR 1>+OK\r\nhi\r\n.", "RETR 2>+OK\r\nhe\r\n.", "RETR 3>+OK\r\nho\r\n.", "QUIT>+OK")
    batch = await received((*script, *reading), tmp_path)
    named = {key.item: body for key, body in zip(keys(batch), bodies(batch), strict=True)}
    assert named == {f"same#{digest(b'hi')}": b"hi\r\n", "other": b"he\r\n", f"same#{digest(b'ho')}": b"ho\r\n"}


def digest(line: bytes) -> str:
    return hashlib.sha256(line + b"\r\n").hexdigest()


async def test_ids_that_are_none_are_named_by_their_hash(tmp_path: Path) -> None:
    ids = ["a b", "x" * 300 + "1", "x" * 300 + "2", "\x1b[2J", "\x00", "caf\xe9", "\x0c2 z"]
    lines = "\r\n".join(f"{n} {uid}" for n, uid in enumerate(ids, 1))
    sizes = "\r\n".join(f"{n} 4" for n in range(1, len(ids) + 1))
    retr = [f"RETR {n}>+OK\r\n{n}\r\n." for n in range(1, len(ids) + 1)]
    batch = await received(
        (*HELLO, f"LIST>+OK\r\n{sizes}\r\n.", f"UIDL>+OK\r\n{lines}\r\n.", *retr, "QUIT>+OK"), tmp_path
    )
    named = [key.item for key in keys(batch)]
    assert named[0] == "a b"
    assert all(name.startswith("sha256-") and len(name) == 71 for name in named[1:])
    assert len(set(named)) == len(ids)


@pytest.mark.parametrize("piece", [1, 2, 3, 1000, 65_536])
async def test_lines_of_any_length_come_whole_however_they_are_cut(tmp_path: Path, piece: int) -> None:
    """A line of more than what is read at once lost its middle."""
    long = b"A" * (10 if piece < 1000 else 700_000)
    message = b".dot\r\n" + long + b"\r\n..\r\n.\r" + long
    stuffed = b"..dot\r\n" + long + b"\r\n...\r\n..\r" + long + b"\r\n"
    async with Pieces((*HELLO, "LIST>+OK\r\n1 40\r\n.", ONE[1], "RETR>", "QUIT>+OK"), stuffed, piece) as server:
        batch = await received_from(server.port, tmp_path, timeout=20)
    assert bodies(batch) == [message + b"\r\n"]


class Pieces(Scripted):
    """Gives one message in pieces of a few bytes."""

    def __init__(self, script: Sequence[str], message: bytes, piece: int) -> None:
        super().__init__(script)
        self._message = b"+OK\r\n" + message + b".\r\n"
        self._piece = piece

    async def answer(self, writer: asyncio.StreamWriter, answer: str) -> None:
        if answer:
            await super().answer(writer, answer)
            return
        for start in range(0, len(self._message), self._piece):
            writer.write(self._message[start : start + self._piece])
            await writer.drain()
            await asyncio.sleep(0)


async def test_a_message_that_ends_every_session_is_set_aside(tmp_path: Path) -> None:
    script = (*HELLO, "LIST>+OK\r\n1 4\r\n2 4\r\n3 4\r\n.", "UIDL>+OK\r\n1 a\r\n2 b\r\n3 c\r\n.")
    crashing = (*script, "RETR 1>+OK\r\nhi\r\n.", f"RETR 2>{HANG_UP}")
    again = (*script, f"RETR 2>{HANG_UP}")
    last = (*script, "RETR 3>+OK\r\nho\r\n.", "QUIT>+OK")
    got: list[bytes] = []
    unreadable: list[tuple[str, str]] = []
    failures = 0
    async with Scripted((*crashing, *again, *again, *last)) as server:
        rig = rig_for(server.port, tmp_path)
        async with rig.open() as source:
            cursor, more = "", True
            while more:
                try:
                    batch = await source.receive(cursor, ALL)
                except Transient:
                    failures += 1
                    continue
                cursor, more = batch.cursor, batch.more
                got += bodies(batch)
                unreadable += [(key.item, said) for key, said in batch.unreadable]
    assert got == [b"hi\r\n", b"ho\r\n"]
    assert unreadable == [("b", "the session was lost 3 times while this message was read")]
    assert failures == 2


async def test_a_message_that_never_comes_again_holds_up_nobody(tmp_path: Path) -> None:
    listing = (*HELLO, "UIDL>+OK\r\n1 a\r\n2 b\r\n.", "LIST>+OK\r\n1 4\r\n2 4\r\n.")
    crash = (*listing, f"RETR 1>{HANG_UP}")
    script = (
        *crash,
        *crash,
        *crash,
        *listing,
        HANG_UP,
        *listing,
        HANG_UP,
        *listing,
        "RETR 2>+OK\r\nho\r\n.",
        "QUIT>+OK",
    )
    a, b = (DeliveryKey("u@router.test", "IN", item) for item in "ab")
    async with Scripted(script) as server, rig_for(server.port, tmp_path).open() as source:
        for _ in range(3):
            with pytest.raises(Transient):
                await source.fetch([a, b])
        with pytest.raises(Permanent, match="3 times"):
            await source.fetch([a, b])
        with pytest.raises(Permanent, match="3 times"):
            await source.fetch([a])
        assert [raw.key for raw in await source.fetch([b])] == [b]


async def test_a_deletion_that_is_refused_holds_up_no_other(tmp_path: Path) -> None:
    script = (
        *HELLO,
        "UIDL>+OK\r\n1 a\r\n2 b\r\n3 c\r\n.",
        "DELE 1>+OK",
        "DELE 2>-ERR locked",
        "DELE 3>+OK",
        "QUIT>+OK",
    )
    items = [DeliveryKey("u@router.test", "IN", item) for item in "abc"]
    async with Scripted(script) as server, rig_for(server.port, tmp_path).open() as source:
        with pytest.raises(Transient) as caught:
            await source.acknowledge(items, SourceAction.DELETE)
        assert server.heard[-1] == "QUIT"
    assert "locked" in caught.value.said


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


async def test_a_server_that_repeats_the_password_does_not_tell_it(tmp_path: Path) -> None:
    secret = "secret"
    with pytest.raises(NeedsOperator) as caught:
        await received((*HELLO[:3], f"PASS>-ERR what is PASS {secret}?"), tmp_path)
    assert secret not in str(caught.value)
    assert "what is PASS …?" in caught.value.said


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
