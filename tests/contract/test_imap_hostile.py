"""IMAP against servers that lie, fall silent, break off or refuse: no hang, no secret in clear, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from email_router.mail.imap import CONNECTOR, transport
from email_router.mail.imap.probe import ImapProbe
from email_router.mail.imap.settings import ImapSettings
from email_router.mail.imap.source import STRIKES, ImapSource
from email_router.model.errors import NeedsOperator, Permanent, RouterError, Transient
from email_router.model.mailbox import SourceAction
from email_router.model.settings import AuthMechanism, TlsMode
from email_router.net.spool import Spool
from email_router.ports.mail import Batch, Limit, Login, SourceContext
from tests.contract.sources import ALL, bodies, keys, letter
from tests.fixtures.dovecot import make_certificates, server_context
from tests.servers.imap import CAPABILITIES, Answer, FakeImap, Session, body_line, fetch_line

LETTERS = {n: letter(n) for n in range(1, 6)}


class Rig:
    """A source for a fake server; every call has a limit, so that a hang is a failure."""

    def __init__(self, directory: Path, server: FakeImap, **settings: Any) -> None:
        self.directory = directory
        self.settings = replace(
            ImapSettings(host=server.host, port=server.port, tls=TlsMode.NONE, timeout=5, auth=AuthMechanism.PLAIN),
            **settings,
        )

    def context(self, since: datetime | None = None) -> SourceContext:
        async def secret() -> str:
            return "hush-hush"

        return SourceContext("u@router.test", "", Login("u", secret), since, lambda: Spool(self.directory))

    @asynccontextmanager
    async def open(self, since: datetime | None = None) -> AsyncIterator[ImapSource]:
        assert CONNECTOR.source is not None
        async with asyncio.timeout(20), CONNECTOR.source(self.settings, self.context(since)) as source:
            assert isinstance(source, ImapSource)
            yield source


@pytest.fixture
def rig(tmp_path: Path) -> Callable[..., Rig]:
    return lambda server, **settings: Rig(tmp_path, server, **settings)


def says(*lines: bytes, close: bool = False) -> Answer:
    """An answer of fixed lines; `TAG` stands for the tag."""

    async def answer(session: Session, tag: bytes, arguments: bytes) -> None:
        with contextlib.suppress(OSError):
            await session.say(*[line.replace(b"TAG", tag) for line in lines])
        if close:
            session.close()

    return answer


def spooled(directory: Path) -> list[Path]:
    return list(directory.glob("spool-*"))


async def silent(session: Session, tag: bytes, arguments: bytes) -> None:
    await session.silence()


async def receive_until_all(
    source: ImapSource, cursor: str = "", calls: int = 10
) -> tuple[list[bytes], list[Batch], list[Transient]]:
    """Receive as the router does: on with the cursor, again after a Transient."""
    got: list[bytes] = []
    batches: list[Batch] = []
    errors: list[Transient] = []
    for _ in range(calls):
        try:
            batch = await source.receive(cursor, ALL)
        except Transient as error:
            errors.append(error)
            continue
        got += bodies(batch)
        batches.append(batch)
        cursor = batch.cursor
        if not batch.more:
            break
    return got, batches, errors


# -- the polite server itself


async def test_a_polite_server(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server, rig(server).open() as source:
        batch = await source.receive("", ALL)
        assert bodies(batch) == list(LETTERS.values())
        assert batch.cursor == "7:5"
        assert (await source.receive(batch.cursor, ALL)).items == ()  # n:* answers the last message again
        assert any(line.endswith(b'EXAMINE "INBOX"') for line in server.heard)
        assert not any(b"SELECT" in line or b"STORE" in line for line in server.heard)


# -- TLS and the login


async def test_a_refused_starttls_sends_no_secret(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["STARTTLS"] = says(b"TAG NO not today")
        async with rig(server, tls=TlsMode.STARTTLS).open() as source:
            with pytest.raises(NeedsOperator) as caught:
                await source.receive("", ALL)
        assert caught.value.scope == "profile"
        assert [line.split(b" ")[1] for line in server.heard][:1] == [b"STARTTLS"]
        assert not any(b"AUTHENTICATE" in line or b"LOGIN" in line for line in server.heard)


@pytest.mark.parametrize("greeting", [b"* PREAUTH welcome", b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] no TLS here"])
async def test_no_tls_is_no_way_in(rig: Callable[..., Rig], greeting: bytes) -> None:
    async with FakeImap(LETTERS, greeting=greeting) as server:
        server.on["STARTTLS"] = says(b"TAG BAD unknown command")
        async with rig(server, tls=TlsMode.STARTTLS).open() as source:
            with pytest.raises(NeedsOperator):
                await source.receive("", ALL)
        assert not any(b"AUTHENTICATE" in line or b"LOGIN" in line for line in server.heard)


async def test_data_smuggled_before_tls_ends_it(rig: Callable[..., Rig], tmp_path: Path) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["STARTTLS"] = says(b"TAG OK go\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN")
        async with rig(server, tls=TlsMode.STARTTLS).open() as source:
            with pytest.raises(RouterError) as caught:
                await source.receive("", ALL)
        assert "tampering" in caught.value.what
        assert not any(b"AUTHENTICATE" in line for line in server.heard)


async def test_capabilities_in_clear_are_forgotten(rig: Callable[..., Rig], tmp_path: Path) -> None:
    make_certificates(tmp_path)
    greeting = b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] clear"
    async with FakeImap(LETTERS, greeting=greeting, tls=server_context(tmp_path)) as server:
        settings = {"tls": TlsMode.STARTTLS, "host": "localhost", "ca_file": str(tmp_path / "ca.pem")}
        async with rig(server, **settings).open() as source:
            assert len((await source.receive("", ALL)).items) == 5
        verbs = [line.split(b" ")[1] for line in server.heard]
        assert verbs[:3] == [b"STARTTLS", b"CAPABILITY", b"AUTHENTICATE"]


@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        (b"NO [UNAVAILABLE] Temporary authentication failure", 60.0),
        (b"NO throttled", 60.0),
        (b"NO [AUTHENTICATIONFAILED] LOGIN rate limit hit, throttled", 60.0),
        (b"BAD Request is throttled. Suggested Backoff Time: 92415 milliseconds", 92.415),
        (b"NO [LIMIT] Maximum number of connections from user+IP exceeded", 60.0),
        (b"NO [ALERT] Too many simultaneous connections. (Failure)", 60.0),
        (b"NO [INUSE] busy, try again in 5 minutes", 300.0),
    ],
)
async def test_a_busy_server_is_no_wrong_password(rig: Callable[..., Rig], answer: bytes, wait: float) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["AUTHENTICATE"] = says(b"TAG " + answer)
        async with rig(server).open() as source:
            with pytest.raises(Transient) as caught:
                await source.receive("", ALL)
    assert caught.value.retry_after == pytest.approx(wait)
    assert caught.value.said


@pytest.mark.parametrize(
    "answer",
    [
        b"NO [AUTHENTICATIONFAILED] Invalid credentials",
        b"NO AUTHENTICATE failed.",
        b"NO [EXPIRED] x",
        b"NO LOGIN failed",
    ],
)
async def test_a_wrong_password_is_one(rig: Callable[..., Rig], answer: bytes) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["AUTHENTICATE"] = says(b"TAG " + answer)
        async with rig(server).open() as source:
            with pytest.raises(NeedsOperator) as caught:
                await source.receive("", ALL)
        assert caught.value.scope == "mailbox"
        assert caught.value.said.startswith("NO ")
        assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize("auth", [AuthMechanism.PLAIN, AuthMechanism.LOGIN])
async def test_a_server_that_repeats_the_password_does_not_tell_it(
    rig: Callable[..., Rig], auth: AuthMechanism
) -> None:
    async def repeat(session: Session, tag: bytes, arguments: bytes) -> None:
        await session.say(tag + b" BAD what is " + arguments)

    async with FakeImap(LETTERS) as server, rig(server, auth=auth).open() as source:
        server.on["LOGIN"] = server.on["AUTHENTICATE"] = repeat
        with pytest.raises(RouterError) as caught:
            await source.receive("", ALL)
    assert "hush" not in str(caught.value)
    assert b64encode(b"\0u\0hush-hush").decode() not in str(caught.value)
    assert "BAD what is" in caught.value.said


async def test_a_password_as_literal_waits_for_leave(rig: Callable[..., Rig]) -> None:
    """LOGIN of a password with a line break, to a server without LITERAL+."""
    got: list[bytes] = []

    async def login(session: Session, tag: bytes, arguments: bytes) -> None:
        await session.say(b"+ go on")
        got.append(arguments)
        got.append(await session.reader.readexactly(len(b"a\r\nR9 LOGOUT")))
        await session.line()
        await session.ok(tag)

    async def secret() -> str:
        return "a\r\nR9 LOGOUT"

    async with FakeImap(LETTERS, capabilities="IMAP4rev1") as server:
        server.on["LOGIN"] = login
        made = rig(server, auth=AuthMechanism.LOGIN)
        async with asyncio.timeout(10):
            source = ImapSource(made.settings, replace(made.context(), login=Login("u", secret)))
            assert len((await source.receive("", ALL)).items) == 5
            await source.close()
    assert got == [b'"u" {12}', b"a\r\nR9 LOGOUT"]


# -- silence, garbage, floods


@pytest.mark.parametrize("verb", ["CAPABILITY", "AUTHENTICATE", "EXAMINE", "NOOP", "UID SEARCH", "UID FETCH"])
async def test_silence_ends_in_transient(rig: Callable[..., Rig], verb: str) -> None:
    async with FakeImap(LETTERS) as server:
        server.on[verb] = silent
        async with rig(server, timeout=0.2).open() as source:
            with pytest.raises(Transient) as caught:
                await source.receive("", ALL)
    assert "did not answer in time" in caught.value.what
    assert str(server.port) in caught.value.where


@pytest.mark.parametrize("greeting", [b"220 mail.test ESMTP", b"* NO", b"", b"* BYE too many", b"\xff\xfe\0"])
async def test_no_imap_at_all(rig: Callable[..., Rig], greeting: bytes) -> None:
    async with FakeImap(LETTERS, greeting=greeting) as server, rig(server, timeout=0.5).open() as source:
        with pytest.raises(Transient):
            await source.receive("", ALL)
        assert server.heard == []


@pytest.mark.parametrize(
    "lines",
    [
        (b"R999 OK who asked?",),
        (b"gibberish",),
        (b"TAG MAYBE",),
        (b"* SEARCH {99999999999999}", b"x"),
        (b"* SEARCH 1", b"TAG OK done", b"TAG OK twice"),
    ],
)
async def test_garbage_ends_in_transient(rig: Callable[..., Rig], lines: tuple[bytes, ...]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["UID SEARCH"] = says(*lines)
        async with rig(server, timeout=1).open() as source:
            with pytest.raises(Transient):
                await source.receive("", ALL)


async def test_a_line_without_end(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_LINE", 200_000)

    async def endless(session: Session, tag: bytes, arguments: bytes) -> None:
        session.writer.write(b"* SEARCH")
        while True:
            session.writer.write(b" 1" * 30_000)
            await session.writer.drain()

    async with FakeImap(LETTERS) as server:
        server.on["UID SEARCH"] = endless
        async with rig(server).open() as source:
            with pytest.raises(Transient) as caught:
                await source.receive("", ALL)
    assert "without end" in caught.value.what


async def test_a_flood_of_answers(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER", 500_000)

    async def flood(session: Session, tag: bytes, arguments: bytes) -> None:
        while True:
            await session.say(*[b"* SEARCH 1 2 3"] * 1000)

    async with FakeImap(LETTERS) as server:
        server.on["UID SEARCH"] = flood
        async with rig(server).open() as source:
            with pytest.raises(Transient) as caught:
                await source.receive("", ALL)
    assert "far more than was asked" in caught.value.what


async def test_a_trickle_has_a_hard_end(rig: Callable[..., Rig]) -> None:
    async def trickle(session: Session, tag: bytes, arguments: bytes) -> None:
        while True:
            await session.say(b"* OK still here")
            await asyncio.sleep(0.02)

    async with FakeImap(LETTERS) as server:
        server.on["UID SEARCH"] = trickle
        async with rig(server, timeout=0.3).open() as source:
            with pytest.raises(Transient):
                await source.receive("", ALL)


async def test_a_message_literal_beyond_all_bounds(rig: Callable[..., Rig], tmp_path: Path) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["UID FETCH"] = says(fetch_line(1, 1, b"x"), b"* 1 FETCH (UID 1 BODY[] {9999999999}", b"x" * 5000)
        async with rig(server, timeout=1).open() as source:
            with pytest.raises(Transient):
                await source.receive("", ALL)
    assert spooled(tmp_path) == []


async def test_numbers_without_end(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["UID SEARCH"] = says(
            b"* SEARCH " + b"9" * 5000 + b" -1 x 1", b"* " + b"9" * 5000 + b" EXISTS", b"TAG OK"
        )
        async with rig(server).open() as source:
            assert bodies(await source.receive("", ALL)) == [letter(1)]


@pytest.mark.parametrize("validity", ["\N{SUPERSCRIPT TWO}", "-1", "9" * 30])
async def test_a_numbering_that_is_no_number(rig: Callable[..., Rig], validity: str) -> None:
    async with FakeImap(LETTERS) as server, rig(server).open() as source:
        server.on["EXAMINE"] = says(f"* OK [UIDVALIDITY {validity}] valid".encode(), b"TAG OK")
        with pytest.raises(NeedsOperator, match="no lasting message numbers"):
            await source.receive("", ALL)


async def test_a_wrong_answer_does_not_hide_all_mail_to_come(rig: Callable[..., Rig]) -> None:
    """One search that named a message far beyond: the cursor followed it, and nothing was ever new again."""
    async with FakeImap(LETTERS) as server, rig(server).open() as source:
        server.on["UID SEARCH"] = says(b"* SEARCH 1 2 3 4 5 4294967290", b"TAG OK")
        server.on["UID FETCH"] = fetch_but(4294967290, says(b"TAG NO no such message"))
        got, batches, _ = await receive_until_all(source)
        assert (got, batches[-1].cursor) == (list(LETTERS.values()), "7:4294967290")
        server.on.clear()
        server.messages[6] = letter(6)
        server.on["NOOP"] = says(close=True)  # the connection is made anew some time
        with pytest.raises(Transient):
            await source.receive(batches[-1].cursor, ALL)
        server.on.clear()
        got, batches, _ = await receive_until_all(source, batches[-1].cursor)
        assert got == [*LETTERS.values(), letter(6)]  # what has receipts is passed over by whoever noted it
        assert batches[-1].cursor == "7:6"


# -- single messages that cannot be had


def fetch_but(bad: int, answer: Answer) -> Answer:
    """Bodies as always, but for one message."""

    async def fetch(session: Session, tag: bytes, arguments: bytes) -> None:
        uid_set, _, items = arguments.partition(b" ")
        uids = session.server.uids(uid_set)
        if b"BODY" not in items:
            await session.say(*[fetch_line(uid, uid, session.server.messages[uid]) for uid in uids])
            await session.ok(tag)
            return
        for uid in uids:
            if uid == bad:
                await answer(session, tag, arguments)
                if session.writer.is_closing():
                    return
            else:
                await session.say(body_line(uid, uid, session.server.messages[uid]))
        if bad not in uids or answer is not _refuse:
            await session.ok(tag)
        else:
            await session.say(tag + b" NO [SERVERBUG] Internal error occurred")

    return fetch


async def _refuse(session: Session, tag: bytes, arguments: bytes) -> None:
    """Nothing for this message; the command ends with NO."""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(b"* 3 FETCH (UID 3 BODY[] NIL)"), "nothing for this message"),
        (says(b'* 3 FETCH (UID 3 BODY[] "broken'), "no IMAP"),
        (says(b"* 3 FETCH (UID 3 ENVELOPE ((((("), "no IMAP"),
        (says(), "nothing for this message"),
        (_refuse, "Internal error occurred"),
    ],
)
async def test_one_bad_message_harms_only_itself(rig: Callable[..., Rig], answer: Answer, reason: str) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["UID FETCH"] = fetch_but(3, answer)
        async with rig(server).open() as source:
            batch = await source.receive("", ALL)
    assert bodies(batch) == [letter(n) for n in (1, 2, 4, 5)]
    assert [key.item for key, _ in batch.unreadable] == ["7:3"]
    assert reason in batch.unreadable[0][1]
    assert (batch.cursor, batch.more) == ("7:5", False)


async def test_a_message_as_quoted_string(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["UID FETCH"] = fetch_but(3, says(b'* 3 FETCH (BODY[] "Subject: a \\"b\\"" UID 3)'))
        async with rig(server).open() as source:
            batch = await source.receive("", ALL)
    assert bodies(batch)[2] == b'Subject: a "b"'
    assert batch.unreadable == ()


async def test_one_message_without_size_harms_only_itself(rig: Callable[..., Rig]) -> None:
    async def fetch(session: Session, tag: bytes, arguments: bytes) -> None:
        uid_set, _, items = arguments.partition(b" ")
        for uid in session.server.uids(uid_set):
            if uid == 2 and b"SIZE" in items:
                await session.say(b'* 2 FETCH (UID 2 INTERNALDATE "yesterday" RFC822.SIZE ?)')
                continue
            line = body_line if b"BODY" in items else fetch_line
            await session.say(line(uid, uid, session.server.messages[uid]))
        await session.ok(tag)

    async with FakeImap(LETTERS) as server:
        server.on["UID FETCH"] = fetch
        async with rig(server).open() as source:
            batch = await source.receive("", ALL)
    assert bodies(batch) == [letter(n) for n in (1, 3, 4, 5)]
    assert [key.item for key, _ in batch.unreadable] == ["7:2"]


async def test_a_message_that_kills_the_connection_is_set_aside(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["UID FETCH"] = fetch_but(3, says(b"* BYE crashed", close=True))
        async with rig(server).open() as source:
            got, batches, errors = await receive_until_all(source)
        assert server.connections == 1 + STRIKES
    assert got == [letter(n) for n in (1, 2, 4, 5)]
    assert [key.item for batch in batches for key, _ in batch.unreadable] == ["7:3"]
    assert len(errors) == STRIKES - 1  # the first time, what had arrived was a batch
    assert "crashed" in errors[0].said


async def test_a_connection_lost_half_way_loses_nothing(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        broken = fetch_but(4, says(b"* 4 FETCH (UID 4 BODY[] {5000}", b"half", close=True))

        async def once(session: Session, tag: bytes, arguments: bytes) -> None:
            if b"BODY" in arguments:
                del server.on["UID FETCH"]
            await broken(session, tag, arguments)

        server.on["UID FETCH"] = once
        async with rig(server).open() as source:
            first = await source.receive("", ALL)
            assert (bodies(first), first.cursor, first.more) == ([letter(n) for n in (1, 2, 3)], "7:3", True)
            second = await source.receive(first.cursor, ALL)
            third = await source.receive(second.cursor, ALL)
    assert bodies(second) + bodies(third) == [letter(4), letter(5)]


async def test_when_nothing_can_be_read_the_server_is_to_blame(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["UID FETCH"] = says(b"TAG NO [SERVERBUG] Internal error occurred")
        async with rig(server).open() as source:
            for _ in range(STRIKES - 1):
                with pytest.raises(Transient) as caught:
                    await source.receive("", ALL)
                assert "Internal error" in caught.value.said
            del server.on["UID FETCH"]
            got, _, _ = await receive_until_all(source)
    assert got == list(LETTERS.values())


async def test_a_throttled_fetch_waits(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["UID FETCH"] = says(b"TAG NO Request is throttled. Suggested Backoff Time: 3000 milliseconds")
        async with rig(server).open() as source:
            with pytest.raises(Transient) as caught:
                await source.receive("", ALL)
    assert caught.value.retry_after == 3.0


async def test_throttled_half_way_loses_nothing(rig: Callable[..., Rig]) -> None:
    async def fetch(session: Session, tag: bytes, arguments: bytes) -> None:
        if b"BODY" not in arguments:
            await fetch_but(0, silent)(session, tag, arguments)
            return
        del session.server.on["UID FETCH"]
        await session.say(body_line(1, 1, letter(1)), body_line(2, 2, letter(2)), tag + b" NO throttled")

    async with FakeImap(LETTERS) as server:
        server.on["UID FETCH"] = fetch
        async with rig(server).open() as source:
            first = await source.receive("", ALL)
            assert (bodies(first), first.cursor, first.more) == ([letter(1), letter(2)], "7:2", True)
            assert bodies(await source.receive(first.cursor, ALL)) == [letter(3), letter(4), letter(5)]
        assert server.connections == 1


async def test_what_vanishes_meanwhile_is_no_error(rig: Callable[..., Rig]) -> None:
    async def search(session: Session, tag: bytes, arguments: bytes) -> None:
        await session.say(b"* SEARCH 1 2 3 4 5 6" if arguments == b"UID 1:*" else b"* SEARCH")
        await session.ok(tag)

    async with FakeImap(LETTERS) as server:
        server.on["UID SEARCH"] = search
        async with rig(server).open() as source:
            batch = await source.receive("", ALL)
    assert (bodies(batch), batch.unreadable, batch.more) == (list(LETTERS.values()), (), False)


async def test_a_message_that_is_too_large_is_named(rig: Callable[..., Rig]) -> None:
    async with FakeImap({1: letter(1), 2: letter(2, padding=50_000), 3: letter(3)}) as server:
        made = rig(server, maximum_message_bytes=10_000)
        async with made.open() as source:
            batch = await source.receive("", ALL)
            with pytest.raises(Permanent) as caught:
                await source.fetch([batch.unreadable[0][0]])
    assert bodies(batch) == [letter(1), letter(3)]
    assert [key.item for key, _ in batch.unreadable] == ["7:2"]
    assert "maximum_message_bytes of the profile is 10,000" in batch.unreadable[0][1]
    assert "maximum_message_bytes" in caught.value.cure


async def test_fetch_raises_for_what_is_there_but_does_not_come(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server, rig(server).open() as source:
        got = keys(await source.receive("", ALL))
        server.on["UID FETCH"] = fetch_but(3, _refuse)
        with pytest.raises(Transient) as caught:
            await source.fetch(got)
        assert "Internal error" in caught.value.said
        assert bodies(await source.fetch(got[:2])) == [letter(1), letter(2)]


@pytest.mark.parametrize("how", ["refuses", "hangs up"])
async def test_what_is_there_and_never_comes_holds_up_nobody(rig: Callable[..., Rig], how: str) -> None:
    answer = _refuse if how == "refuses" else says(b"* BYE crashed", close=True)
    async with FakeImap(LETTERS) as server, rig(server).open() as source:
        got = keys(await source.receive("", ALL))
        server.on["UID FETCH"] = fetch_but(3, answer)
        for _ in range(STRIKES):
            with pytest.raises(Transient):
                await source.fetch(got)
        with pytest.raises(Permanent):  # now each is asked for alone
            await source.fetch(got)
        with pytest.raises(Permanent, match="did not give this message") as caught:
            await source.fetch(got[2:3])
        assert "retry it" in caught.value.cure
        assert bodies(await source.fetch([*got[:2], *got[3:]])) == [letter(n) for n in (1, 2, 4, 5)]
        server.on.clear()
        assert bodies(await source.fetch(got)) == list(LETTERS.values())


# -- numbering


async def test_a_new_numbering_after_a_reconnect(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server, rig(server).open() as source:
        first = await source.receive("", Limit(count=2))
        server.on["NOOP"] = says(close=True)
        server.on["UID FETCH"] = says(close=True)
        with pytest.raises(Transient):
            await source.receive(first.cursor, ALL)
        server.on.clear()
        server.uidvalidity = 8
        _, batches, _ = await receive_until_all(source, first.cursor)
        assert [key.item for batch in batches for key in keys(batch)] == [f"8:{n}" for n in range(1, 6)]


async def test_a_new_numbering_seen_when_opened_for_changes(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server, rig(server).open() as source:
        first = await source.receive("", Limit(count=2))
        server.uidvalidity = 8
        await source.acknowledge(keys(first), SourceAction.DELETE)
        again = await source.receive(first.cursor, ALL)
        assert [key.item for key in keys(again)] == [f"8:{n}" for n in range(1, 6)]
        assert server.deleted == set()


async def test_a_folder_without_numbering(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["EXAMINE"] = says(b"* 5 EXISTS", b"TAG OK open")
        async with rig(server).open() as source:
            with pytest.raises(NeedsOperator) as caught:
                await source.receive("", ALL)
    assert "UIDVALIDITY" in caught.value.what


async def test_the_threshold_is_exact_whatever_search_says(rig: Callable[..., Rig]) -> None:
    """All were received on 1 May 2024 at 12:00 UTC."""
    async with FakeImap(LETTERS) as server:
        made = rig(server)
        async with made.open(since=datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)) as source:
            assert len((await source.receive("", ALL)).items) == 5
        async with made.open(since=datetime(2024, 5, 1, 12, 0, 1, tzinfo=UTC)) as source:
            batch = await source.receive("", ALL)
        assert (batch.items, batch.older, batch.cursor) == ((), 5, "7:5")
        assert any(line.endswith(b"UID SEARCH SINCE 30-Apr-2024") for line in server.heard)


# -- changing


@pytest.mark.parametrize(
    ("capabilities", "verbs", "left"),
    [
        (CAPABILITIES, [b"MOVE"], [1, 2, 3, 4, 5]),
        ("IMAP4rev1 SASL-IR AUTH=PLAIN UIDPLUS", [b"COPY", b"STORE", b"EXPUNGE"], [3, 4, 5]),
        ("IMAP4rev1 SASL-IR AUTH=PLAIN", [b"COPY", b"STORE"], [1, 2, 3, 4, 5]),
    ],
)
async def test_moving_by_what_the_server_can(
    rig: Callable[..., Rig], capabilities: str, verbs: list[bytes], left: list[int]
) -> None:
    async with FakeImap(LETTERS, capabilities=capabilities) as server, rig(server).open() as source:
        server.on["UID MOVE"] = says(b"TAG OK moved")
        got = keys(await source.receive("", ALL))
        await source.acknowledge(got[:2], SourceAction.MOVE, "Done")
        sent = [line.split(b" ")[2] for line in server.heard if line.split(b" ")[1] == b"UID"]
        assert [verb for verb in sent if verb in (b"MOVE", b"COPY", b"STORE", b"EXPUNGE")] == verbs
        assert sorted(server.messages) == left
        await source.acknowledge(got[:2], SourceAction.MOVE, "Done")
        assert server.copied in ({}, {b'"Done"': [1, 2]})  # never a second copy
        assert not any(line.split(b" ")[1] in (b"EXPUNGE", b"CLOSE") for line in server.heard)


@pytest.mark.parametrize("capabilities", [CAPABILITIES, CAPABILITIES.replace("MOVE ", "")])
async def test_a_search_that_answers_too_much_moves_no_more(rig: Callable[..., Rig], capabilities: str) -> None:
    async with FakeImap(LETTERS, capabilities=capabilities) as server, rig(server).open() as source:
        got = keys(await source.receive("", ALL))
        server.on["UID SEARCH"] = says(b"* SEARCH 1 2 3 4 5", b"TAG OK")
        server.on["UID MOVE"] = says(b"TAG OK")
        await source.acknowledge(got[1:3], SourceAction.MOVE, "Done")
        moved = [line for line in server.heard if b"UID MOVE" in line or b"UID COPY" in line]
        assert [line.split()[-2:] for line in moved] == [[b"2:3", b'"Done"']]


async def test_a_search_that_answers_too_much_is_not_asked_about(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server, rig(server).open() as source:
        got = keys(await source.receive("", ALL))
        server.on["UID SEARCH"] = says(b"* SEARCH " + b" ".join(b"%d" % n for n in range(1, 5000)), b"TAG OK")
        server.on["UID FETCH"] = fetch_but(3, _refuse)
        with pytest.raises(Transient):
            await source.fetch(got)
        assert len([line for line in server.heard if b"UID FETCH" in line]) < 10


async def test_a_copy_that_fails_deletes_nothing(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS, capabilities="IMAP4rev1 SASL-IR AUTH=PLAIN UIDPLUS") as server:
        server.on["UID COPY"] = says(b"TAG NO [OVERQUOTA] full")
        async with rig(server).open() as source:
            got = keys(await source.receive("", ALL))
            with pytest.raises(NeedsOperator) as caught:
                await source.acknowledge(got, SourceAction.MOVE, "Done")
        assert (server.deleted, len(server.messages)) == (set(), 5)
    assert "quota" in caught.value.cure


@pytest.mark.parametrize("action", [SourceAction.DELETE, SourceAction.MOVE])
async def test_an_expunge_that_was_lost_is_made_up_for(rig: Callable[..., Rig], action: SourceAction) -> None:
    async with FakeImap(LETTERS, capabilities="IMAP4rev1 SASL-IR AUTH=PLAIN UIDPLUS") as server:
        server.on["UID EXPUNGE"] = says(close=True)
        async with rig(server).open() as source:
            got = keys(await source.receive("", ALL))
            with pytest.raises(Transient):
                await source.acknowledge(got[:2], action, "Done")
            assert len(server.messages) == 5
            server.on.clear()
            await source.acknowledge(got[:2], action, "Done")
        assert sorted(server.messages) == [3, 4, 5]
        assert server.copied == ({b'"Done"': [1, 2]} if action is SourceAction.MOVE else {})


async def test_a_missing_target_is_made_once(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["UID MOVE"] = says(b"TAG NO [TRYCREATE] no such folder")
        async with rig(server).open() as source:
            got = keys(await source.receive("", ALL))
            with pytest.raises(NeedsOperator):
                await source.acknowledge(got, SourceAction.MOVE, "Done")
        assert [line.split(b" ")[1] for line in server.heard].count(b"CREATE") == 1


async def test_a_read_only_folder_cannot_be_changed(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["SELECT"] = says(b"* 5 EXISTS", b"* OK [UIDVALIDITY 7] ok", b"TAG OK [READ-ONLY] look only")
        async with rig(server).open() as source:
            got = keys(await source.receive("", ALL))
            with pytest.raises(NeedsOperator) as caught:
                await source.acknowledge(got, SourceAction.SEEN)
            assert bodies(await source.fetch(got[:1])) == [letter(1)]
    assert "write access" in caught.value.cure


async def test_moving_without_a_target(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server, rig(server).open() as source:
        got = keys(await source.receive("", ALL))
        with pytest.raises(NeedsOperator):
            await source.acknowledge(got, SourceAction.MOVE)


# -- IDLE


@pytest.mark.parametrize(
    ("idle", "words"),
    [
        (says(close=True), "closed the connection"),
        (says(b"+ idling", close=True), "closed the connection"),
        (says(b"+ idling", b"* BYE going down", close=True), "closed the connection"),
        (silent, "did not answer in time"),
    ],
)
async def test_a_dead_server_in_idle(rig: Callable[..., Rig], idle: Answer, words: str) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["IDLE"] = idle
        async with rig(server, timeout=0.3).open() as source:
            await source.receive("", ALL)
            with pytest.raises(Transient) as caught:
                await source.changed(600)
            assert words in caught.value.what
            server.on.clear()
            assert await source.changed(0.1) is True  # a new connection, and whatever came meanwhile


async def test_a_server_that_falls_silent_in_idle_is_noticed(rig: Callable[..., Rig]) -> None:
    async def deaf(session: Session, tag: bytes, arguments: bytes) -> None:
        await session.say(b"+ idling")
        await session.silence()

    async with FakeImap(LETTERS) as server:
        server.on["IDLE"] = deaf
        async with rig(server, timeout=0.2, idle_seconds=0.2).open() as source:
            await source.receive("", ALL)
            with pytest.raises(Transient) as caught:
                await source.changed(600)
    assert "did not answer in time" in caught.value.what


async def test_idle_is_asked_for_again(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server, rig(server, idle_seconds=0.05).open() as source:
        await source.receive("", ALL)
        assert await source.changed(0.4) is False
        assert [line.split(b" ")[-1] for line in server.heard].count(b"IDLE") >= 2


async def test_idle_news(rig: Callable[..., Rig]) -> None:
    async def news(session: Session, tag: bytes, arguments: bytes) -> None:
        await session.say(b"+ idling", b"* 5 FETCH (FLAGS (\\Seen))", b"* 5 EXISTS", b"* 6 EXISTS")
        assert await session.line() == b"DONE"
        await session.ok(tag)

    async with FakeImap(LETTERS) as server:
        server.on["IDLE"] = news
        async with rig(server).open() as source:
            await source.receive("", ALL)
            assert await source.changed(600) is True


async def test_a_refused_idle(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["IDLE"] = says(b"TAG NO not now")
        async with rig(server).open() as source:
            await source.receive("", ALL)
            with pytest.raises(Transient):
                await source.changed(600)


async def test_without_idle_a_poll(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS, capabilities="IMAP4rev1 SASL-IR AUTH=PLAIN") as server, rig(server).open() as source:
        await source.receive("", ALL)
        assert await source.changed(0.1) is False
        server.on["NOOP"] = says(b"* 6 EXISTS", b"TAG OK")
        assert await source.changed(0.1) is True


# -- broken off by ourselves


async def test_a_full_disk_is_named_and_loses_nothing(rig: Callable[..., Rig], tmp_path: Path) -> None:
    class FullDisk(Spool):
        def _put(self, data: bytes | memoryview) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    disks: list[type[Spool]] = [FullDisk]
    async with FakeImap(LETTERS) as server:
        made = rig(server)
        context = replace(made.context(), spool=lambda: disks[-1](tmp_path))
        async with asyncio.timeout(10):
            source = ImapSource(made.settings, context)
            for _ in range(STRIKES + 1):
                with pytest.raises(Transient) as caught:
                    await source.receive("", ALL)
            disks.append(Spool)
            got, _, _ = await receive_until_all(source)
            await source.close()
    assert (caught.value.scope, caught.value.said) == ("router", "No space left on device")
    assert "make room" in caught.value.cure
    assert got == list(LETTERS.values())


async def test_a_cancelled_call_leaves_the_source_usable(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["UID FETCH"] = silent
        async with rig(server).open() as source:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await source.receive("", ALL)
            server.on.clear()
            assert bodies(await source.receive("", ALL)) == list(LETTERS.values())
        assert server.connections == 2


async def test_the_probe_of_a_host_name_that_is_none(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        made = rig(server, host="a..b")
        steps = [step async for step in ImapProbe(made.settings, made.context()).probe()]
    assert [(step.name, step.ok) for step in steps] == [("resolve", False)]
    assert "host name" in steps[0].cure


async def test_the_probe_names_the_step_that_failed(rig: Callable[..., Rig]) -> None:
    async with FakeImap(LETTERS) as server:
        server.on["EXAMINE"] = says(b"TAG NO [NONEXISTENT] no such folder")
        made = rig(server)
        steps = [step async for step in ImapProbe(made.settings, made.context()).probe()]
    assert [(step.name, step.ok) for step in steps] == [
        ("resolve", True),
        ("connect", True),
        ("log in", True),
        ("open folder", False),
    ]
    assert "no such folder" in steps[-1].said
    assert "create the folder" in steps[-1].cure
