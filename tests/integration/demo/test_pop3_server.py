"""The POP3 server against poplib, and against a client that breaks the rules."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import poplib
import ssl
from collections.abc import Iterator

import pytest

from email_router.demo.mailsystem import MailSystem
from tests.integration.demo.conftest import Connect, Peer

BOB = "bob@contoso.example"
ONE = b"Subject: one\r\n\r\n.a dot\r\n..two\r\n.\r\nend\r\n"
TWO = b"Subject: two\r\n\r\n1\r\n2\r\n3"
LOGIN = base64.b64encode(b"\0bob@contoso.example\0bob-secret")


@contextlib.contextmanager
def stdlib(mail: MailSystem) -> Iterator[poplib.POP3]:
    pop = poplib.POP3(mail.host, mail.pop3_port, timeout=10)
    try:
        pop.stls(ssl.create_default_context(cafile=str(mail.ca_file)))
        pop.user(BOB)
        pop.pass_("bob-secret")
        yield pop
    finally:
        pop.close()


async def under_tls(mail: MailSystem, connect: Connect) -> Peer:
    peer = await connect(mail.pop3_port)
    await peer.line()
    assert await peer.ask(b"STLS") == b"+OK begin TLS"
    await peer.start_tls()
    return peer


async def logged_in(mail: MailSystem, connect: Connect) -> Peer:
    peer = await under_tls(mail, connect)
    assert (await peer.ask(b"AUTH PLAIN " + LOGIN)).startswith(b"+OK")
    return peer


async def test_poplib_reads_and_deletes_at_quit(mail: MailSystem) -> None:
    mail.deliver(BOB, ONE)
    mail.deliver(BOB, TWO)
    validity = mail.mailbox(BOB).inbox.uidvalidity

    def use() -> None:
        with stdlib(mail) as pop:
            assert pop.capa() == {
                "TOP": [],
                "UIDL": [],
                "RESP-CODES": [],
                "AUTH-RESP-CODE": [],
                "PIPELINING": [],
                "EXPIRE": ["NEVER"],
            }
            assert pop.stat() == (2, len(ONE) + len(TWO))
            assert pop.list()[1] == [b"1 %d" % len(ONE), b"2 %d" % len(TWO)]
            assert pop.uidl()[1] == [b"1 %08x00000001" % validity, b"2 %08x00000002" % validity]
            assert pop.retr(1)[1] == [b"Subject: one", b"", b".a dot", b"..two", b".", b"end"]
            assert pop.top(2, 2)[1] == [b"Subject: two", b"", b"1", b"2"]
            assert pop.top(2, 0)[1] == [b"Subject: two", b""]
            assert pop.top(2, 9)[1] == [b"Subject: two", b"", b"1", b"2", b"3"]
            pop.dele(1)
            with pytest.raises(poplib.error_proto, match="there is no such message"):
                pop.retr(1)
            assert pop.stat() == (1, len(TWO))
            assert len(mail.mailbox(BOB).messages) == 2, "nothing goes before QUIT"
            pop.quit()

    await asyncio.to_thread(use)
    assert [message.raw for message in mail.mailbox(BOB).messages] == [TWO]


async def test_a_lost_session_and_a_reset_delete_nothing(mail: MailSystem) -> None:
    mail.deliver(BOB, ONE)

    def use() -> None:
        with stdlib(mail) as pop:
            pop.dele(1)
        for _ in range(100):  # the lock goes as soon as the server sees the connection end
            with contextlib.suppress(poplib.error_proto), stdlib(mail) as pop:
                break
        else:
            raise AssertionError("the mailbox stays locked")
        while True:
            with contextlib.suppress(poplib.error_proto), stdlib(mail) as pop:
                pop.dele(1)
                pop.rset()
                pop.quit()
                return

    await asyncio.to_thread(use)
    assert [message.raw for message in mail.mailbox(BOB).messages] == [ONE]


async def test_one_session_at_a_time(mail: MailSystem, connect: Connect) -> None:
    first = await logged_in(mail, connect)
    second = await under_tls(mail, connect)
    assert await second.ask(b"AUTH PLAIN " + LOGIN) == b"-ERR [IN-USE] another session has this mailbox open"
    assert await first.ask(b"QUIT") == b"+OK good bye"
    assert await second.ask(b"AUTH PLAIN " + LOGIN) == b"+OK 0 messages"


async def test_the_session_sees_the_mailbox_of_its_login(mail: MailSystem, connect: Connect) -> None:
    mail.deliver(BOB, ONE)
    peer = await logged_in(mail, connect)
    mail.deliver(BOB, TWO)
    inbox = mail.mailbox(BOB).inbox
    assert await peer.ask(b"STAT") == b"+OK 1 %d" % len(ONE)
    inbox.remove(inbox.messages[:1])
    assert await peer.ask(b"RETR 1") == b"-ERR [SYS/TEMP] the message was removed by another program"


async def test_pipelined_commands_are_answered_in_order(mail: MailSystem, connect: Connect) -> None:
    mail.deliver(BOB, TWO)
    peer = await logged_in(mail, connect)
    peer.send(b"RETR 1", b"DELE 1", b"QUIT")
    assert await peer.until(b"+OK good") == [
        b"+OK %d octets" % len(TWO),
        *TWO.split(b"\r\n"),
        b".",
        b"+OK marked; QUIT deletes it",
        b"+OK good bye",
    ]
    assert await peer.closed()
    assert mail.mailbox(BOB).messages == ()


REFUSED_IN_CLEAR = {
    b"USER bob@contoso.example": b"-ERR no password in clear: STLS first",
    b"PASS bob-secret": b"-ERR no password in clear: STLS first",
    b"AUTH PLAIN " + LOGIN: b"-ERR no password in clear: STLS first",
    b"AUTH": b"-ERR only PLAIN is offered",
    b"AUTH CRAM-MD5": b"-ERR only PLAIN is offered",
    b"STAT": b"-ERR STAT is not possible before login",
    b"APOP bob x": b"-ERR unknown command",
    b"": b"-ERR unknown command",
    b"QUIT now": b"-ERR this command takes no argument",
    b"\xff": b"-ERR commands are UTF-8",
}
REFUSED_UNDER_TLS = {
    b"STLS": b"-ERR TLS is on",
    b"PASS bob-secret": b"-ERR USER comes before PASS",
    b"USER": b"-ERR this command takes one argument",
    b"AUTH PLAIN !": b"-ERR not base64",
    b"AUTH PLAIN " + base64.b64encode(b"\0bob@contoso.example\0no"): b"-ERR [AUTH] wrong name or password",
}
REFUSED_AFTER_LOGIN = {
    b"USER bob@contoso.example": b"-ERR USER is not possible after login",
    b"RETR": b"-ERR this command takes one argument",
    b"RETR 2": b"-ERR there is no such message",
    b"RETR 0": b"-ERR there is no such message",
    b"RETR +1": b"-ERR a number was expected",
    b"RETR  1": b"-ERR this command takes one argument",
    b"TOP 1": b"-ERR TOP takes a message and a number of lines",
    b"TOP 1 -1": b"-ERR a number was expected",
    b"STAT 1": b"-ERR this command takes no argument",
    b"LIST 9": b"-ERR there is no such message",
}


async def test_refused_in_each_state(mail: MailSystem, connect: Connect) -> None:
    mail.deliver(BOB, ONE)
    peer = await connect(mail.pop3_port)
    await peer.line()
    peer.send(b"CAPA")
    assert (await peer.until(b"."))[-2:] == [b"STLS", b"."]
    for command, answer in REFUSED_IN_CLEAR.items():
        assert await peer.ask(command) == answer
    assert await peer.ask(b"STLS") == b"+OK begin TLS"
    await peer.start_tls()
    peer.send(b"CAPA")
    assert (await peer.until(b"."))[-3:] == [b"USER", b"SASL PLAIN", b"."]
    for command, answer in REFUSED_UNDER_TLS.items():
        assert await peer.ask(command) == answer
    assert await peer.ask(b"AUTH PLAIN") == b"+ "
    assert await peer.ask(b"*") == b"-ERR authentication cancelled"
    assert await peer.ask(b"AUTH PLAIN") == b"+ "
    assert await peer.ask(LOGIN) == b"+OK 1 messages"
    for command, answer in REFUSED_AFTER_LOGIN.items():
        assert await peer.ask(command) == answer


@pytest.mark.parametrize(
    ("sent", "farewell"),
    [
        (b"CAPA" + b" " * 300 + b"\r\n", b"-ERR line too long"),
        (b"QUIT\n", b"-ERR bare line feed"),
    ],
)
async def test_a_broken_protocol_ends_the_connection(
    mail: MailSystem, connect: Connect, sent: bytes, farewell: bytes
) -> None:
    peer = await connect(mail.pop3_port)
    await peer.line()
    peer.send_raw(sent)
    assert await peer.line() == farewell
    assert await peer.closed()


async def test_commands_slipped_in_before_tls_are_not_obeyed(mail: MailSystem, connect: Connect) -> None:
    peer = await connect(mail.pop3_port)
    await peer.line()
    peer.send(b"STLS", b"CAPA")
    assert await peer.line() == b"+OK begin TLS"
    assert await peer.line() == b"-ERR data in clear between STARTTLS and TLS"
    assert await peer.closed()
