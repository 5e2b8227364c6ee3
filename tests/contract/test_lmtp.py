"""The LMTP listener with peers that are not ours: Python's smtplib, and a real Postfix."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from email_router.mail.lmtp import CONNECTOR
from email_router.mail.lmtp.settings import LmtpSettings
from email_router.model.errors import Transient
from email_router.model.mailbox import SourceAction
from email_router.net.spool import Spool
from email_router.ports.mail import Login, ProbeStep, SourceContext
from tests.fixtures.company import no_secret
from tests.fixtures.dovecot import free_ports, make_certificates
from tests.fixtures.postfix import SIZE_LIMIT, Postfix
from tests.servers.lmtp import ANN, HELP, Box, connected, listening

MESSAGE = b"From: Bob <bob@x.test>\r\nSubject: hi\r\n\r\n.one dot\r\n..two\r\nwords\r\n"


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
async def here(box: Box, tmp_path: Path) -> AsyncIterator[LmtpSettings]:
    async with listening(tmp_path, box) as settings:
        yield settings


@pytest.fixture
async def secured(box: Box, tmp_path: Path) -> AsyncIterator[LmtpSettings]:
    make_certificates(tmp_path)
    files = {"certificate_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    async with listening(tmp_path, box, require_tls=True, **files) as settings:
        yield settings


# -- smtplib


async def test_smtplib_delivers(here: LmtpSettings, box: Box) -> None:
    def deliver() -> dict[str, tuple[int, bytes]]:
        with smtplib.LMTP(here.host, here.port) as peer:
            assert peer.sendmail("bob@x.test", [HELP], MESSAGE) == {}
            options = ["SMTPUTF8", "BODY=8BITMIME"]
            peer.sendmail("bøb@x.test", [ANN], MESSAGE + "grün\r\n".encode(), mail_options=options)
            return peer.sendmail("bob@x.test", [HELP, "who@router.test"], MESSAGE)

    assert await asyncio.to_thread(deliver) == {
        "who@router.test": (550, b"5.1.1 <who@router.test>: no mailbox of that name is served here")
    }
    assert box.bodies == [MESSAGE, MESSAGE + "grün\r\n".encode(), MESSAGE]
    assert box.messages[1][1].startswith("Return-Path: <bøb@x.test>\r\n".encode())


async def test_smtplib_in_tls(secured: LmtpSettings, box: Box, tmp_path: Path) -> None:
    """Also 5 MB: flow control after the connection has changed under way."""
    big = MESSAGE + b"x" * 70 * 1024 + b"\r\n" * 1024 + (b"y" * 998 + b"\r\n") * 5000
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

    def deliver() -> tuple[int, bool]:
        with smtplib.LMTP(secured.host, secured.port, local_hostname="peer") as peer:
            peer._host = "localhost"  # type: ignore[attr-defined]  # the name in the certificate
            peer.ehlo_or_helo_if_needed()
            code, _ = peer.mail("bob@x.test")
            assert peer.has_extn("starttls")
            peer.starttls(context=context)
            peer.sendmail("bob@x.test", [HELP], big)
            return code, peer.has_extn("starttls")

    assert await asyncio.to_thread(deliver) == (530, False)
    assert box.bodies == [big]


async def test_smtplib_by_unix_socket(box: Box, tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    async with listening(tmp_path, box, socket=str(path)):

        def deliver() -> None:
            with smtplib.LMTP(str(path)) as peer:
                peer.sendmail("bob@x.test", [HELP], MESSAGE)

        await asyncio.to_thread(deliver)
    assert box.bodies == [MESSAGE]


async def test_words_in_clear_behind_starttls_are_not_obeyed(secured: LmtpSettings, box: Box) -> None:
    async with connected(secured, "LHLO p") as peer:
        await peer.send(b"STARTTLS\r\nMAIL FROM:<evil@x.test>\r\n")
        said = await peer.rest()
    assert said[-1] == "500 5.5.2 data in clear between STARTTLS and TLS"


async def test_what_is_no_tls_ends_the_connection(secured: LmtpSettings) -> None:
    async with connected(secured, "LHLO p", "NOOP") as peer:
        await peer.send(b"STARTTLS\r\n")
        assert await peer.codes(1) == ["220 2.0.0"]
        await peer.send(b"LHLO p\r\n" * 100)
        with contextlib.suppress(ConnectionError):
            await peer.rest()
    async with connected(secured, "LHLO p"):
        pass


# -- Test Access


async def steps(settings: LmtpSettings, mailbox: str, directory: Path) -> list[ProbeStep]:
    context = SourceContext(mailbox, "LMTP", Login("", no_secret), None, lambda: Spool(directory))
    assert CONNECTOR.probe_source is not None
    return [step async for step in CONNECTOR.probe_source(settings, context).probe()]


async def test_the_probe_of_a_listener_that_runs(here: LmtpSettings, box: Box, tmp_path: Path) -> None:
    found = await steps(here, HELP, tmp_path)
    assert [(step.name, step.ok) for step in found] == [("peers", True), ("listen", True), ("recipient", True)]
    assert found[0].said == "127.0.0.0/8, ::1/128"
    assert found[1].said.endswith("LMTP Email Router")
    found = await steps(here, "who@router.test", tmp_path)
    assert [(step.name, step.ok) for step in found][-1] == ("recipient", False)
    assert "550 5.1.1" in found[-1].said
    assert found[-1].cure
    assert box.messages == []


async def test_the_probe_of_a_listener_that_does_not_let_this_machine_in(box: Box, tmp_path: Path) -> None:
    async with listening(tmp_path, box, allowed_peers=("192.0.2.0/24",)) as here:
        found = await steps(here, HELP, tmp_path)
    assert [(step.name, step.ok) for step in found] == [("peers", True), ("listen", True)]
    assert "may not hand mail over" in found[1].said


async def test_the_probe_without_a_router(tmp_path: Path) -> None:
    free = LmtpSettings(port=free_ports(1)[0])
    found = await steps(free, HELP, tmp_path)
    assert [(step.name, step.ok) for step in found] == [("peers", True), ("listen", True)]
    assert found[1].said == "nobody now; the router will when it runs"
    found = await steps(LmtpSettings(host="192.0.2.1", port=free.port), HELP, tmp_path)
    assert [(step.name, step.ok) for step in found] == [("peers", True), ("listen", False)]
    assert found[1].cure
    found = await steps(LmtpSettings(socket=str(tmp_path / "no.sock")), HELP, tmp_path)
    assert [(step.name, step.ok) for step in found] == [("peers", True), ("listen", True)]


@pytest.mark.parametrize("greeting", [b"220 mx ESMTP Postfix\r\n", b"", b"\x00\xff\r\n"])
async def test_the_probe_of_a_port_that_somebody_else_has(tmp_path: Path, greeting: bytes) -> None:
    async def other(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    async with server:
        found = await steps(LmtpSettings(port=server.sockets[0].getsockname()[1]), HELP, tmp_path)
    assert [(step.name, step.ok) for step in found] == [("peers", True), ("listen", False)]
    assert "choose another port" in found[1].cure


async def test_the_probe_is_loud_about_peers_without_bounds(tmp_path: Path) -> None:
    [peers, _] = await steps(LmtpSettings(port=free_ports(1)[0], allowed_peers=("0.0.0.0/0",)), HELP, tmp_path)
    assert (peers.ok, peers.cure) == (False, "name only your own mail servers in allowed_peers")


def test_nothing_in_a_mailbox_can_be_changed() -> None:
    assert CONNECTOR.check is not None
    assert CONNECTOR.check(LmtpSettings(), SourceAction.LEAVE) == ""
    for action in (SourceAction.SEEN, SourceAction.MOVE, SourceAction.DELETE):
        assert "only leave" in CONNECTOR.check(LmtpSettings(), action)


# -- Postfix

PUSHED = "pushed.test"


def hand_in(postfix: Postfix, recipients: Sequence[str], message: bytes, sender: str = "bob@router.test") -> None:
    with smtplib.SMTP("127.0.0.1", postfix.smtp) as client:
        client.sendmail(sender, list(recipients), message)


async def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


@pytest.mark.servers
class TestPostfix:
    """Postfix hands over what it has for `pushed.test`."""

    @pytest.fixture(autouse=True)
    def nothing_waits(self, postfix: Postfix) -> None:
        postfix.empty()

    def at(
        self, postfix: Postfix, directory: Path, box: Box, **changes: object
    ) -> contextlib.AbstractAsyncContextManager[LmtpSettings]:
        return listening(directory, box, port=postfix.pushed, domain=PUSHED, **changes)

    async def test_every_byte_comes_over(self, postfix: Postfix, box: Box, tmp_path: Path) -> None:
        letter = MESSAGE + b"long " * 190 + b"\r\n" + "8 bits: grün".encode() + b"\r\n"
        async with self.at(postfix, tmp_path, box):
            await asyncio.to_thread(hand_in, postfix, ["help@pushed.test"], letter)
            await until(lambda: len(box.messages) == 1 and postfix.queued() == [], "the delivery")
        [(mailboxes, raw)] = box.messages
        assert mailboxes == ("help@pushed.test",)
        assert raw.startswith(b"Return-Path: <bob@router.test>\r\nReceived: from ")
        assert raw.partition(b"\r\n\r\n")[2] == letter.partition(b"\r\n\r\n")[2]

    async def test_lines_longer_than_smtp_allows_come_folded(self, postfix: Postfix, box: Box, tmp_path: Path) -> None:
        """Postfix does that (smtp_line_length_limit), to every try alike."""
        async with self.at(postfix, tmp_path, box):
            await asyncio.to_thread(hand_in, postfix, ["help@pushed.test"], MESSAGE + b"x" * 2500 + b"\r\n")
            await until(lambda: len(box.messages) == 1 and postfix.queued() == [], "the delivery")
        [(_, raw)] = box.messages
        assert raw.replace(b"\r\n ", b"").endswith(b"\r\n" + b"x" * 2500 + b"\r\n")
        assert max(len(line) for line in raw.split(b"\r\n")) <= 998

    async def test_several_recipients_each_with_its_own_outcome(
        self, postfix: Postfix, box: Box, tmp_path: Path
    ) -> None:
        box.answers = {"Ann.Lee@pushed.test": Transient("the CRM is away")}
        to = ["help@pushed.test", "who@pushed.test", "ann.lee@pushed.test", "help+x@pushed.test"]
        async with self.at(postfix, tmp_path, box):
            await asyncio.to_thread(hand_in, postfix, to, MESSAGE)
            await until(lambda: len(box.messages) == 1 and postfix.deferred() != {}, "the delivery")
            assert sorted(box.messages[0][0]) == ["Ann.Lee@pushed.test", "help@pushed.test", "help@pushed.test"]
            assert list(postfix.deferred()) == ["ann.lee@pushed.test"]
            assert "451 4.3.0 the CRM is away" in postfix.deferred()["ann.lee@pushed.test"]
            assert "<who@pushed.test>: no mailbox of that name" in postfix.log()
            box.answers.clear()
            postfix.flush()
            await until(lambda: postfix.queued() == [], "the second delivery")
        assert [mailboxes for mailboxes, _ in box.messages][1:] == [("Ann.Lee@pushed.test",)]
        assert len(set(box.items)) == 1

    async def test_nobody_listens_and_then_somebody_does(self, postfix: Postfix, box: Box, tmp_path: Path) -> None:
        await asyncio.to_thread(hand_in, postfix, ["help@pushed.test"], MESSAGE)
        await until(lambda: postfix.deferred() != {}, "the first try")
        async with self.at(postfix, tmp_path, box):
            postfix.flush()
            await until(lambda: len(box.messages) == 1 and postfix.queued() == [], "the delivery")

    async def test_in_tls(self, postfix: Postfix, box: Box, tmp_path: Path) -> None:
        make_certificates(tmp_path)
        files = {"certificate_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
        async with self.at(postfix, tmp_path, box, require_tls=True, **files):
            await asyncio.to_thread(hand_in, postfix, ["help@pushed.test"], MESSAGE)
            await until(lambda: len(box.messages) == 1 and postfix.queued() == [], "the delivery")
        assert "TLS connection established to 127.0.0.1" in postfix.log()

    async def test_too_large_is_refused_before_it_is_sent(self, postfix: Postfix, box: Box, tmp_path: Path) -> None:
        async with self.at(postfix, tmp_path, box, maximum_message_bytes=50_000):
            await asyncio.to_thread(hand_in, postfix, ["help@pushed.test"], MESSAGE + b"x" * 60_000)
            await until(lambda: "message size" in postfix.log() and postfix.queued() == [], "the refusal")
        assert box.messages == []

    async def test_twenty_at_once_and_large_ones(self, postfix: Postfix, box: Box, tmp_path: Path) -> None:
        letters = [MESSAGE + b"%d\r\n" % n + (b"x" * 500 + b"\r\n") * n * 7 for n in range(20)]
        letters.append(MESSAGE + (b"y" * 70 + b"\r\n") * ((SIZE_LIMIT - 10_000) // 72))
        async with self.at(postfix, tmp_path, box):
            await asyncio.gather(*(asyncio.to_thread(hand_in, postfix, ["help@pushed.test"], one) for one in letters))
            await until(lambda: len(box.messages) == 21 and postfix.queued() == [], "the deliveries")
        found = sorted(raw.partition(b"\r\n\r\n")[2] for _, raw in box.messages)
        assert found == sorted(one.partition(b"\r\n\r\n")[2] for one in letters)
        assert sum(box.spooled) == 1
