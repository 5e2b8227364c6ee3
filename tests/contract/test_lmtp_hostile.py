"""The LMTP listener against peers that lie, fall silent, break off, smuggle or may not come: nothing is taken twice,
nothing is answered that is not so, and nobody else is disturbed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from email_router.mail.lmtp import CONNECTOR, server
from email_router.mail.lmtp.session import MAX_FAULTS, MAX_RECIPIENTS
from email_router.mail.lmtp.settings import LmtpSettings
from email_router.mail.lmtp.wire import MAX_LINE
from email_router.model.errors import Fenced, NeedsOperator, Permanent, Transient
from email_router.net.spool import Spool
from email_router.ports.mail import ListenerContext
from tests.servers.lmtp import ANN, HELP, OFF, Box, connected, listening

BEGUN = ("LHLO peer.test", "MAIL FROM:<a@x.test>", f"RCPT TO:<{HELP}>")
MESSAGE = b"Subject: hi\r\n\r\nwords\r\n"


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
async def here(box: Box, tmp_path: Path) -> AsyncIterator[LmtpSettings]:
    async with listening(tmp_path, box) as settings:
        yield settings


def spooled(directory: Path) -> list[Path]:
    return list(directory.glob("spool-*"))


# -- what a polite peer sees


async def test_what_is_offered(here: LmtpSettings) -> None:
    async with connected(here) as peer:
        assert (await peer.reply()).endswith(" LMTP Email Router")
        await peer.send(b"LHLO peer.test\r\n")
        _, *offered = (await peer.reply()).splitlines()
        assert offered == [
            "250-PIPELINING",
            "250-ENHANCEDSTATUSCODES",
            "250-8BITMIME",
            "250-SMTPUTF8",
            f"250 SIZE {150 * 1024 * 1024}",
        ]


async def test_everything_in_one_packet(here: LmtpSettings, box: Box) -> None:
    """Two whole messages with all their commands, sent without waiting for anything (RFC 2920)."""
    one = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<%s>\r\nRCPT TO:<who@router.test>\r\nDATA\r\n" % HELP.encode()
    async with connected(here, "LHLO peer.test") as peer:
        await peer.send(one + MESSAGE + b".\r\n" + one + MESSAGE + b"2\r\n.\r\nQUIT\r\n")
        each = ["250 2.1.0", "250 2.1.5", "550 5.1.1", "354 end", "250 2.0.0"]
        assert await peer.codes(11) == [*each, *each, "221 2.0.0"]
        assert await peer.rest() == []
    assert box.bodies == [MESSAGE, MESSAGE + b"2\r\n"]


async def test_bytes_one_by_one(here: LmtpSettings, box: Box) -> None:
    async with connected(here) as peer:
        whole = "".join(f"{c}\r\n" for c in (*BEGUN, "DATA")).encode() + b"..dot\r\n.\r\nQUIT\r\n"
        for byte in whole:
            await peer.send(bytes((byte,)))
        assert (await peer.codes(7))[-2:] == ["250 2.0.0", "221 2.0.0"]
    assert box.bodies == [b".dot\r\n"]


async def test_the_message_keeps_every_byte_and_the_envelopes_sender(here: LmtpSettings, box: Box) -> None:
    message = bytes(range(256)) + b"\r\n.leading dot\r\n..\r\n" + b"long " * 5000 + b"\r\n"
    async with connected(here, "LHLO p", "MAIL FROM:<Bob@x.test>", f"RCPT TO:<{HELP}>", "DATA") as peer:
        await peer.send((b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
        assert await peer.codes(1) == ["250 2.0.0"]
    assert box.messages == [((HELP,), b"Return-Path: <Bob@x.test>\r\n" + message)]


async def test_the_same_message_has_the_same_name_whoever_sends_it(here: LmtpSettings, box: Box) -> None:
    for sender in ("a@x.test", "", "a@x.test"):
        async with connected(here, "LHLO p", f"MAIL FROM:<{sender}>", f"RCPT TO:<{HELP}>", "DATA") as peer:
            await peer.send(MESSAGE + b".\r\n")
            await peer.reply()
    async with connected(here, *BEGUN, "DATA") as peer:
        await peer.send(MESSAGE + b"!\r\n.\r\n")
        await peer.reply()
    assert len(box.items) == 4
    assert len(set(box.items)) == 2


@pytest.mark.parametrize(
    ("recipient", "mailbox"),
    [
        (HELP, HELP),
        ("HELP@ROUTER.TEST", HELP),
        ("help+case.17@router.test", HELP),
        ("ann.lee@router.test", ANN),
        ("@relay.test,@b.test:help@router.test", HELP),
    ],
)
async def test_who_is_known(here: LmtpSettings, box: Box, recipient: str, mailbox: str) -> None:
    async with connected(here, "LHLO p", "MAIL FROM:<>", f"RCPT TO:<{recipient}>", "DATA") as peer:
        await peer.send(MESSAGE + b".\r\n")
        assert await peer.codes(1) == ["250 2.0.0"]
    assert [mailboxes for mailboxes, _ in box.messages] == [(mailbox,)]


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("RCPT TO:<who@router.test>", "550 5.1.1"),
        ("RCPT TO:<help@elsewhere.test>", "550 5.1.1"),
        ("RCPT TO:<ann+lee@router.test>", "550 5.1.1"),
        ("RCPT TO:<+@router.test>", "550 5.1.1"),
        ("RCPT TO:<help>", "550 5.1.1"),
        ("RCPT TO:<>", "550 5.1.1"),
        ('RCPT TO:<"a> b"@router.test>', "550 5.1.1"),
        (f"RCPT TO:<{OFF}>", "450 4.2.1"),
        (f"RCPT TO:{HELP}", "501 5.5.4"),
        (f"RCPT TO: <{HELP}>", "501 5.5.4"),
        (f"RCPT TO:<{HELP}", "501 5.5.4"),
        (f"RCPT TO:<{HELP}> NOTIFY=NEVER", "555 5.5.4"),
        ("RCPT TO:<hélp@router.test>", "553 5.6.7"),
        ("RCPT", "501 5.5.4"),
        (f"RCPT TO:<{HELP}\tx>", "501 5.5.4"),
    ],
)
async def test_who_is_refused(here: LmtpSettings, command: str, reply: str) -> None:
    async with connected(here, "LHLO p", "MAIL FROM:<a@x.test>") as peer:
        assert await peer.asked(command) == [reply]
        assert await peer.asked("DATA", "RSET") == ["503 5.5.1", "250 2.0.0"]


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("MAIL FROM:<a@x.test> SIZE=157286400 BODY=8BITMIME", "250 2.1.0"),
        ("mail from:<a@x.test> body=7bit", "250 2.1.0"),
        ("MAIL FROM:<> SMTPUTF8", "250 2.1.0"),
        ("MAIL FROM:<é@x.test> SMTPUTF8", "250 2.1.0"),
        ("MAIL FROM:<é@x.test>", "553 5.6.7"),
        ("MAIL FROM:<a@x.test> SIZE=157286401", "552 5.3.4"),
        ("MAIL FROM:<a@x.test> SIZE=-1", "501 5.5.4"),
        ("MAIL FROM:<a@x.test> SIZE=" + "9" * 500, "501 5.5.4"),
        ("MAIL FROM:<a@x.test> BODY=BINARYMIME", "501 5.5.4"),
        ("MAIL FROM:<a@x.test> AUTH=<>", "555 5.5.4"),
        ("MAIL FROM:<a@x.test>SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a>b@x.test>", "501 5.5.4"),
        ("MAIL FROM:<a\rRCPT TO:<x>", "501 5.5.4"),
        ("EHLO peer", "500 5.5.1"),
        ("HELO peer", "500 5.5.1"),
        ("BDAT 5 LAST", "500 5.5.1"),
        ("AUTH PLAIN AAAA", "500 5.5.1"),
        ("GET / HTTP/1.1", "500 5.5.1"),
        ("", "500 5.5.1"),
        ("STARTTLS", "502 5.5.1"),
        ("LHLO", "501 5.5.4"),
        ("LHLO two words", "501 5.5.4"),
        ("RCPT TO:<help@router.test>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("RSET now", "501 5.5.4"),
        ("NOOP whatever", "250 2.0.0"),
        ("VRFY help", "252 2.5.0"),
    ],
)
async def test_each_command(here: LmtpSettings, command: str, reply: str) -> None:
    async with connected(here, "LHLO p") as peer:
        assert await peer.asked(command, "NOOP") == [reply, "250 2.0.0"]


async def test_the_order_of_commands(here: LmtpSettings) -> None:
    async with connected(here, "NOOP") as peer:
        assert await peer.asked("MAIL FROM:<>") == ["503 5.5.1"]
    async with connected(here, *BEGUN) as peer:
        assert await peer.asked("MAIL FROM:<>") == ["503 5.5.1"]
        await peer.send(b"LHLO again\r\n")
        await peer.reply()
        assert await peer.asked(f"RCPT TO:<{HELP}>", "DATA") == ["503 5.5.1", "503 5.5.1"]


# -- what became of it


async def test_a_reply_for_each_recipient_in_their_order(here: LmtpSettings, box: Box) -> None:
    box.answers = {ANN: Transient("the CRM is away", said="password of the database")}
    async with connected(here, *BEGUN) as peer:
        commands = (f"RCPT TO:<{ANN}>", "RCPT TO:<who@router.test>", "RCPT TO:<help+x@router.test>", "DATA")
        assert await peer.asked(*commands) == ["250 2.1.5", "550 5.1.1", "250 2.1.5", "354 end"]
        await peer.send(MESSAGE + b".\r\n")
        replies = [await peer.reply() for _ in range(3)]
    assert replies == ["250 2.0.0 filed", "451 4.3.0 the CRM is away", "250 2.0.0 filed"]
    assert [mailboxes for mailboxes, _ in box.messages] == [(HELP, ANN, HELP)]


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (Transient("away\r\n250 2.0.0 forged", said="x"), "451 4.3.0 away 250 2.0.0 forged"),
        (NeedsOperator("the disk is full"), "451 4.3.5 the disk is full"),
        (Permanent("strange"), "451 4.3.0 strange"),
        (Transient("ü" * 5000), "451 4.3.0 " + "?" * 200),
    ],
)
async def test_what_is_not_decided_is_to_come_again(
    here: LmtpSettings, box: Box, error: Transient | NeedsOperator | Permanent, reply: str
) -> None:
    box.answers = {HELP: error}
    async with connected(here, *BEGUN, "DATA") as peer:
        await peer.send(MESSAGE + b".\r\n")
        assert await peer.reply() == reply
        assert await peer.asked("NOOP") == ["250 2.0.0"]


async def test_a_shard_that_was_lost_sends_the_peer_away(here: LmtpSettings, box: Box) -> None:
    box.answers = {HELP: Fenced("Shard 3 is served by another router now")}
    async with connected(here, *BEGUN, "DATA") as peer:
        await peer.send(MESSAGE + b".\r\n")
        assert await peer.codes(2) == ["451 4.3.2", "421 4.3.2"]
        assert await peer.rest() == []


async def test_our_own_fault_is_no_outcome(here: LmtpSettings, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(here, *BEGUN, "DATA") as peer:
        monkeypatch.setattr(box, "messages", None)
        await peer.send(MESSAGE + b".\r\n")
        assert await peer.codes(1) == ["421 4.3.0"]
        assert await peer.rest() == []


# -- smuggling


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n\0.\r\n"])
async def test_one_message_is_never_two(here: LmtpSettings, box: Box, end: bytes) -> None:
    inside = b"MAIL FROM:<admin@router.test>\r\nRCPT TO:<%s>\r\nDATA\r\nSubject: forged\r\n" % HELP.encode()
    async with connected(here, *BEGUN, "DATA") as peer:
        await peer.send(b"Subject: true\r\n\r\nhi" + end + inside + b".\r\n")
        assert await peer.codes(1) == ["250 2.0.0"]
        assert await peer.asked("NOOP") == ["250 2.0.0"]
    [body] = box.bodies
    assert inside in body


@pytest.mark.parametrize("command", [b"NOOP\n", b"\n", b"NOOP\r\r\n\n", b"RSET\nRSET\r\n"])
async def test_a_bare_line_feed_ends_the_connection(here: LmtpSettings, command: bytes) -> None:
    async with connected(here, *BEGUN) as peer:
        await peer.send(command + b"DATA\r\n")
        said = await peer.rest()
    assert said[-1] == "500 5.5.2 lines end with CR LF"
    assert not [line for line in said if line.startswith("354")]


@pytest.mark.parametrize("command", [b"NO\x00OP", b"LHLO \xff\xfe", b"NOOP \x1b[2J", b"NOOP a\rb"])
async def test_control_characters_and_other_bytes(here: LmtpSettings, command: bytes) -> None:
    async with connected(here, "LHLO p") as peer:
        await peer.send(command + b"\r\nNOOP\r\n")
        [first, second] = await peer.codes(2)
    assert first[0] == "5"
    assert second == "250 2.0.0"


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\n"])
async def test_a_line_without_end(here: LmtpSettings, end: bytes) -> None:
    async with connected(here, "LHLO p") as peer:
        with contextlib.suppress(ConnectionError):
            await peer.send(b"NOOP " + b"x" * MAX_LINE * 20 + end)
        assert await peer.rest() == ["500 5.5.2 line too long"]


async def test_a_long_line_that_is_allowed(here: LmtpSettings) -> None:
    async with connected(here, "LHLO p") as peer:
        assert await peer.asked("NOOP " + "x" * 2000) == ["250 2.0.0"]


# -- too much


async def test_too_many_recipients_are_sent_in_another_message(here: LmtpSettings, box: Box) -> None:
    async with connected(here, "LHLO p", "MAIL FROM:<>") as peer:
        replies = await peer.asked(*[f"RCPT TO:<help+{n}@router.test>" for n in range(MAX_RECIPIENTS + 3)], "DATA")
        assert replies == ["250 2.1.5"] * MAX_RECIPIENTS + ["452 4.5.3"] * 3 + ["354 end"]
        await peer.send(MESSAGE + b".\r\n")
        assert await peer.codes(MAX_RECIPIENTS) == ["250 2.0.0"] * MAX_RECIPIENTS
        assert await peer.asked("NOOP") == ["250 2.0.0"]


async def test_who_makes_only_mistakes_is_sent_away(here: LmtpSettings) -> None:
    async with connected(here, "LHLO p") as peer:
        await peer.send(b"WHAT\r\n" * (MAX_FAULTS + 30))
        said = await peer.rest()
    assert said == ["500 5.5.1 unknown command"] * MAX_FAULTS + ["421 4.7.0 too many errors"]


async def test_unknown_recipients_are_no_mistakes(here: LmtpSettings) -> None:
    async with connected(here, "LHLO p", "MAIL FROM:<>") as peer:
        replies = await peer.asked(*[f"RCPT TO:<nobody{n}@router.test>" for n in range(MAX_FAULTS + 5)], "NOOP")
    assert replies == ["550 5.1.1"] * (MAX_FAULTS + 5) + ["250 2.0.0"]


async def test_a_message_that_is_too_large_is_read_to_its_end_and_refused(box: Box, tmp_path: Path) -> None:
    async with (
        listening(tmp_path, box, maximum_message_bytes=2_000_000) as here,
        connected(here, *BEGUN, f"RCPT TO:<{ANN}>", "DATA") as peer,
    ):
        await peer.send(b"x" * 2_000_001 + b"\r\n.\r\n")
        assert await peer.codes(2) == ["552 5.3.4", "552 5.3.4"]
        assert await peer.asked("MAIL FROM:<>", f"RCPT TO:<{HELP}>", "DATA") == [
            "250 2.1.0",
            "250 2.1.5",
            "354 end",
        ]
        await peer.send(b"x" * 1_999_998 + b"\r\n.\r\n")
        assert await peer.codes(1) == ["250 2.0.0"]
    assert [len(body) for body in box.bodies] == [2_000_000]
    assert spooled(tmp_path) == []


async def test_a_message_without_end_is_cut_off(box: Box, tmp_path: Path) -> None:
    async with (
        listening(tmp_path, box, maximum_message_bytes=1_000_000) as here,
        connected(here, *BEGUN, "DATA") as peer,
    ):
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                await peer.send(b"x" * 10_000)
        assert await peer.rest() == ["500 5.5.2 the message is far too large"]
    assert box.messages == []


async def test_a_big_message_is_not_held_in_memory(here: LmtpSettings, box: Box, tmp_path: Path) -> None:
    """10 MB through a listener whose peak stays below 2 MB; the box only counts."""
    line = b"x" * 998 + b"\r\n"
    seen: list[tuple[int, list[Path]]] = []

    async def count(message: object, mailboxes: object) -> AsyncIterator[str]:
        seen.append((message.content.size, spooled(tmp_path)))  # type: ignore[attr-defined]
        yield "filed"

    context = ListenerContext([HELP], [], count, lambda: Spool(tmp_path))  # type: ignore[arg-type]
    assert CONNECTOR.listener is not None
    other = LmtpSettings(host="127.0.0.2", port=here.port)
    async with CONNECTOR.listener(other, context), connected(other, *BEGUN, "DATA") as peer:
        tracemalloc.start()
        try:
            for _ in range(100):
                await peer.send(line * 100)
            await peer.send(b".\r\n")
            assert await peer.codes(1) == ["250 2.0.0"]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    [(size, files)] = seen
    assert size == 10_000_000 + len(b"Return-Path: <a@x.test>\r\n")
    assert len(files) == 1
    assert peak < 3_000_000
    assert spooled(tmp_path) == []


async def test_a_full_disk_puts_the_message_off(here: LmtpSettings, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(spool: Spool, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with connected(here, *BEGUN, "DATA") as peer:
        monkeypatch.setattr(Spool, "write", full)
        await peer.send(MESSAGE + b".\r\n")
        assert await peer.reply() == "452 4.3.1 the router cannot store the message now: No space left on device"
        monkeypatch.undo()
        assert await peer.asked("MAIL FROM:<>", f"RCPT TO:<{HELP}>") == ["250 2.1.0", "250 2.1.5"]
    assert box.messages == []


# -- silence and broken connections


@pytest.mark.parametrize("commands", [(), ("LHLO p",), BEGUN, (*BEGUN, "DATA")])
@pytest.mark.parametrize("piece", [b"", b"half a li"])
async def test_a_silent_peer_is_sent_away(box: Box, tmp_path: Path, commands: tuple[str, ...], piece: bytes) -> None:
    async with listening(tmp_path, box, timeout=0.2) as here, connected(here, *commands) as peer:
        await peer.send(piece)
        assert (await peer.rest())[-1] == "421 4.4.2 silent for too long"
    assert box.messages == []


async def test_a_peer_that_takes_no_answers_does_not_hold_us(box: Box, tmp_path: Path) -> None:
    async with listening(tmp_path, box, timeout=0.2) as here, connected(here, "LHLO p") as peer:
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError):
            while True:
                await peer.send(b"LHLO p\r\n" * 10_000)


@pytest.mark.parametrize("data", [b"", b"Subject: half\r\n", MESSAGE, MESSAGE + b".", MESSAGE + b".\r"])
async def test_a_message_without_its_final_dot_was_never_there(
    here: LmtpSettings, box: Box, tmp_path: Path, data: bytes
) -> None:
    async with connected(here, *BEGUN, "DATA") as peer:
        await peer.send(data)
        peer.writer.write_eof()
        assert await peer.rest() == []
    assert box.messages == []
    assert spooled(tmp_path) == []


async def test_a_big_message_that_breaks_off_leaves_nothing(here: LmtpSettings, box: Box, tmp_path: Path) -> None:
    async with connected(here, *BEGUN, "DATA") as peer:
        await peer.send(b"x" * 3_000_000)
        peer.writer.write_eof()
        assert await peer.rest() == []
    assert box.messages == []
    assert spooled(tmp_path) == []


async def test_a_peer_that_does_not_wait_for_the_answer_changes_nothing(here: LmtpSettings, box: Box) -> None:
    box.open.clear()
    async with connected(here, *BEGUN, "DATA") as peer:
        await peer.send(MESSAGE + b".\r\n")
        await box.waiting.wait()
        peer.writer.transport.abort()
    box.open.set()
    async with connected(here, *BEGUN, "DATA") as peer:
        await peer.send(MESSAGE + b".\r\n")
        assert await peer.codes(1) == ["250 2.0.0"]
    assert box.items[0] == box.items[1]


# -- who may come


async def test_a_peer_that_is_not_allowed_is_refused_when_connecting(
    box: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with listening(tmp_path, box, allowed_peers=("192.0.2.0/24", "::1/128")) as here, connected(here) as peer:
        await peer.send(b"LHLO p\r\n")
        assert await peer.rest() == ["554 5.7.1 127.0.0.1 may not hand mail over here"]
    said = capsys.readouterr()
    assert "127.0.0.1" in said.out + said.err
    assert "allowed_peers" in said.out + said.err


async def test_a_peer_by_ipv6(box: Box, tmp_path: Path) -> None:
    async with listening(tmp_path, box, host="::1") as here, connected(here, "LHLO p", "QUIT"):
        pass


async def test_more_connections_than_allowed_are_put_off(box: Box, tmp_path: Path) -> None:
    async with (
        listening(tmp_path, box, maximum_connections=2) as here,
        connected(here, "LHLO a"),
        connected(here, "LHLO b") as second,
    ):
        async with connected(here) as third:
            assert await third.rest() == ["421 4.3.2 too many connections; come again"]
        assert await second.asked("QUIT") == ["221 2.0.0"]
        await second.rest()
        async with connected(here, "LHLO c"):
            pass


async def test_a_unix_socket(box: Box, tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    async with listening(tmp_path, box, socket=str(path)) as here:
        assert path.stat().st_mode & 0o777 == 0o660
        async with connected(here, *BEGUN, "DATA") as peer:
            await peer.send(MESSAGE + b".\r\n")
            assert await peer.codes(1) == ["250 2.0.0"]
        with pytest.raises(NeedsOperator, match="the address is taken"):
            async with listening(tmp_path, box, socket=str(path)):
                pass
        assert path.is_socket()
    assert not path.exists()


async def test_a_unix_socket_that_was_left_behind_is_no_obstacle_and_a_file_is(box: Box, tmp_path: Path) -> None:
    import socket

    path = tmp_path / "lmtp.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    async with listening(tmp_path, box, socket=str(path)) as here, connected(here, "LHLO p"):
        pass
    path.write_text("precious")
    with pytest.raises(NeedsOperator):
        async with listening(tmp_path, box, socket=str(path)):
            pass
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": "192.0.2.1"}, "this machine has no such address"),
        ({"host": "no-such-host.invalid"}, "it cannot be listened there"),
        ({"socket": "/nowhere/at/all.sock"}, "it cannot be listened there"),
        ({"certificate_file": "/etc/hostname", "key_file": "/etc/hostname"}, "cannot be used"),
        ({"certificate_file": "/nowhere.pem", "key_file": "/nowhere.pem"}, "cannot be used"),
    ],
)
async def test_what_cannot_be_listened_on_says_where_and_the_cure(
    box: Box, tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    with pytest.raises(NeedsOperator, match=words) as caught:
        async with listening(tmp_path, box, **changes):
            pass
    assert caught.value.where
    assert caught.value.cure
    assert caught.value.retry_after == 30.0


async def test_a_port_that_is_taken(here: LmtpSettings, box: Box, tmp_path: Path) -> None:
    with pytest.raises(NeedsOperator) as caught:
        async with listening(tmp_path, box, port=here.port):
            pass
    assert caught.value.what == "the address is taken"
    assert caught.value.where == f"127.0.0.1:{here.port}"
    assert "choose another port" in caught.value.cure


# -- the end


async def test_stopping_lets_messages_get_their_answers_and_sends_the_others_away(box: Box, tmp_path: Path) -> None:
    box.open.clear()
    stop = asyncio.Event()
    up: asyncio.Future[LmtpSettings] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with listening(tmp_path, box) as here:
            up.set_result(here)
            await stop.wait()

    serving = asyncio.create_task(serve())
    here = await up
    async with (
        connected(here, *BEGUN) as idle,
        connected(here, *BEGUN, "DATA") as sending,
        connected(here, *BEGUN, "DATA") as waiting,
    ):
        await waiting.send(MESSAGE + b".\r\n")
        await box.waiting.wait()
        await sending.send(b"Subject: half\r\n")
        stop.set()
        assert await idle.rest() == ["421 4.3.2 the router is stopping; come again"]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(here.host, here.port)
        await sending.send(b"\r\nwhole\r\n.\r\n")
        box.open.set()
        assert await waiting.codes(2) == ["250 2.0.0", "421 4.3.2"]
        assert await sending.codes(2) == ["250 2.0.0", "421 4.3.2"]
    await asyncio.wait_for(serving, 20)
    assert sorted(box.bodies) == [b"Subject: half\r\n\r\nwhole\r\n", MESSAGE]


async def test_stopping_does_not_wait_for_ever(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.1)
    box.open.clear()
    async with listening(tmp_path, box) as here:
        peer = await connected(here, *BEGUN, "DATA").__aenter__()
        await peer.send(MESSAGE + b".\r\n")
        await box.waiting.wait()
    assert await peer.rest() == []
    peer.writer.close()
    assert spooled(tmp_path) == []


# -- anything at all

PIECES = st.sampled_from(
    [b"LHLO p", b"MAIL FROM:<a@x.test>", b"RCPT TO:<help@router.test>", b"RCPT TO:<no@router.test>", b"DATA", b"RSET",
     b"NOOP", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b".", b"\r\n.\r\n", b"<", b">", b" SIZE=5", b"\0",
     b"\xff\xfe", b"Subject: x", b"x" * 5000]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30), st.binary(max_size=40))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_break_the_listener(tmp_path: Path, pieces: list[bytes], noise: bytes) -> None:
    """Every reply is one of the protocol's, every message that was taken was one with a final dot, and we go on."""

    async def play() -> None:
        box = Box()
        data = b"".join(pieces) + noise
        async with listening(tmp_path, box, timeout=5.0) as here:
            async with connected(here) as peer:
                with contextlib.suppress(ConnectionError):
                    await peer.send(data)
                    peer.writer.write_eof()
                said = await peer.rest()
            for line in said:
                assert line[:3].isdigit() and line[3] in " -" and line.isascii(), line
            taken = [line for line in said if line == "250 2.0.0 filed"]
            assert len(taken) == sum(len(mailboxes) for mailboxes, _ in box.messages)
            assert len(box.messages) <= data.count(b".\r\n")
            assert not [line for line in said if "fault of the router" in line]
            async with connected(here, "LHLO p", "QUIT") as peer:
                pass

    asyncio.run(play())
    assert spooled(tmp_path) == []
