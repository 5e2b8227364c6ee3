"""The SMTP server against smtplib, and against a client that breaks the rules."""

from __future__ import annotations

import asyncio
import base64
import re
import smtplib
import ssl
from pathlib import Path

import pytest

from email_router.demo.mailsystem import MailSystem
from tests.integration.demo.conftest import Connect, Peer

BOB = "bob@contoso.example"
CARLA = "carla@fabrikam.example"
MESSAGE = b"From: carla@fabrikam.example\r\nSubject: hello\r\n\r\n.a dot\r\n..\r\nend\r\n"
LOGIN = base64.b64encode(b"\0carla@fabrikam.example\0carla-secret")
ROUTER = base64.b64encode(b"\0router@contoso.example\0router-secret")


async def greeted(mail: MailSystem, connect: Connect) -> Peer:
    peer = await connect(mail.smtp_port)
    assert await peer.line() == b"220 mail.contoso.example ESMTP Email Router demo"
    peer.send(b"EHLO there")
    await peer.until(b"250 ")
    return peer


async def under_tls(mail: MailSystem, connect: Connect) -> Peer:
    peer = await greeted(mail, connect)
    assert await peer.ask(b"STARTTLS") == b"220 2.0.0 begin TLS"
    await peer.start_tls()
    peer.send(b"EHLO there")
    await peer.until(b"250 ")
    return peer


async def test_a_mail_program_sends_and_reads(mail: MailSystem) -> None:
    await mail.client.send(CARLA, [BOB, "support@contoso.example"], MESSAGE)
    read = await mail.client.wait_for(BOB, lambda raw: b"Subject: hello" in raw, within=10)
    transaction = re.search(rb"with ESMTPSA id ([0-9A-F]{8})", read)
    assert transaction
    stamps, _, message = read.partition(b"From: ")
    assert b"From: " + message == MESSAGE
    assert re.sub(rb"; \w{3}, \d.*\+0000\r\n", b"; DATE\r\n", stamps) == (
        b"Return-Path: <carla@fabrikam.example>\r\n"
        b"Delivered-To: bob@contoso.example\r\n"
        b"Authentication-Results: mail.contoso.example; auth=pass (login) smtp.auth=carla@fabrikam.example\r\n"
        b"Received: from localhost ([127.0.0.1])\r\n"
        b"\tby mail.contoso.example (Email Router demo) with ESMTPSA id " + transaction[1] + b"\r\n"
        b"\tfor <bob@contoso.example>; DATE\r\n"
    )
    (other,) = await mail.client.read("support@contoso.example")
    assert other.startswith(b"Return-Path: <carla@fabrikam.example>\r\nDelivered-To: support@contoso.example\r\n")
    assert other.endswith(MESSAGE)


async def test_addresses_and_text_outside_ascii(mail: MailSystem) -> None:
    jörg = "jörg@fabrikam.example"
    await mail.client.send(CARLA, [jörg], "Subject: Grüße\r\n\r\nÄpfel\r\n".encode())
    (read,) = await mail.client.read(jörg)
    assert b"with UTF8SMTPSA id" in read
    assert read.endswith("Subject: Grüße\r\n\r\nÄpfel\r\n".encode())


async def test_the_mail_program_says_who_was_refused(mail: MailSystem) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused) as error:
        await mail.client.send(CARLA, [BOB, "nobody@contoso.example"], MESSAGE)
    assert error.value.recipients == {
        "nobody@contoso.example": (550, b"5.1.1 <nobody@contoso.example>: nobody here has this address")
    }
    assert len(mail.mailbox(BOB).messages) == 1


async def test_a_server_of_another_authority_is_not_trusted(mail: MailSystem, tmp_path: Path) -> None:
    def use() -> None:
        with smtplib.SMTP(mail.host, mail.smtp_port) as smtp, pytest.raises(ssl.SSLCertVerificationError):
            smtp.starttls(context=ssl.create_default_context())

    await asyncio.to_thread(use)


async def test_a_stranger_may_deliver_but_not_relay(mail: MailSystem, connect: Connect) -> None:
    """As another company's server would: in clear, without a login. What it claims about itself is taken out."""
    peer = await greeted(mail, connect)
    peer.send(b"MAIL FROM:<eve@elsewhere.example>", b"RCPT TO:<Bob@CONTOSO.example>", b"RCPT TO:<x@elsewhere.example>")
    assert await peer.line() == b"250 2.1.0 sender ok"
    assert await peer.line() == b"250 2.1.5 recipient ok"
    assert await peer.line() == b"550 5.7.1 <x@elsewhere.example>: mail for this domain is not taken here"
    assert (await peer.ask(b"DATA")).startswith(b"354")
    peer.send(
        b"Authentication-Results: mail.contoso.example;",
        b"\tauth=pass smtp.auth=boss@contoso.example",
        b"Authentication-Results: elsewhere.example; none",
        b"Subject: x",
        b"",
        b".",
    )
    assert (await peer.line()).startswith(b"250 2.0.0 delivered as ")
    (message,) = mail.mailbox(BOB).messages
    assert message.raw.count(b"Authentication-Results: mail.contoso.example") == 1
    assert b"Authentication-Results: mail.contoso.example; none\r\n" in message.raw
    assert message.raw.endswith(b"\r\nAuthentication-Results: elsewhere.example; none\r\nSubject: x\r\n\r\n")
    assert b" with ESMTP id " in message.raw


async def test_who_may_send_as_whom(mail: MailSystem, connect: Connect) -> None:
    peer = await under_tls(mail, connect)
    assert await peer.ask(b"AUTH PLAIN " + LOGIN) == b"235 2.7.0 logged in"
    assert await peer.ask(b"MAIL FROM:<bob@contoso.example>") == (
        b"553 5.7.1 carla@fabrikam.example may not send as bob@contoso.example"
    )
    assert await peer.ask(b"MAIL FROM:<Carla@fabrikam.example>") == b"250 2.1.0 sender ok"
    router = await under_tls(mail, connect)
    assert await router.ask(b"AUTH PLAIN " + ROUTER) == b"235 2.7.0 logged in"
    assert await router.ask(b"MAIL FROM:<eve@elsewhere.example>") == (
        b"553 5.7.1 router@contoso.example may not send as eve@elsewhere.example"
    )
    assert await router.ask(b"MAIL FROM:<bob@contoso.example>") == b"250 2.1.0 sender ok"


REFUSED_FIRST = {
    b"MAIL FROM:<a@b.example>": b"503 5.5.1 EHLO first",
    b"STARTTLS": b"503 5.5.1 EHLO first",
    b"AUTH PLAIN": b"503 5.5.1 EHLO first",
    b"EHLO": b"501 5.5.4 say who you are",
    b"TURN": b"500 5.5.1 unknown command",
    b"\xff": b"500 5.5.2 commands are UTF-8",
}
REFUSED_IN_CLEAR = {
    b"AUTH PLAIN " + LOGIN: b"538 5.7.11 no password in clear: STARTTLS first",
    b"STARTTLS now": b"501 5.5.4 this command takes no argument",
    b"RCPT TO:<bob@contoso.example>": b"503 5.5.1 MAIL first",
    b"DATA": b"503 5.5.1 RCPT first",
    b"MAIL FROM: <a@b.example>": b"501 5.5.4 the form is FROM:<address>",
    b"MAIL FROM:a@b.example": b"501 5.5.4 the form is FROM:<address>",
    b"MAIL TO:<a@b.example>": b"501 5.5.4 the form is FROM:<address>",
    b"MAIL FROM:<a b@b.example>": b"501 5.5.4 the form is FROM:<address>",
    b"MAIL FROM:<nobody>": b"501 5.1.7 this is no address",
    b"MAIL FROM:<a@b.example> SIZE=99999999": b"552 5.3.4 more than 67108864 bytes",
    b"MAIL FROM:<a@b.example> SIZE=big": b"501 5.5.4 SIZE is a number",
    b"MAIL FROM:<a@b.example> BODY=BINARYMIME": b"501 5.5.4 BODY is 7BIT or 8BITMIME",
    b"MAIL FROM:<a@b.example> HURRY=1": b"555 5.5.4 unknown parameter HURRY",
    "MAIL FROM:<jörg@b.example>".encode(): b"553 5.6.7 this address needs SMTPUTF8",
    b"MAIL FROM:<> RET=HDRS ENVID=x SIZE=100": b"250 2.1.0 sender ok",
    b"MAIL FROM:<a@b.example>": b"503 5.5.1 there is a sender already",
    b"RCPT TO:<nobody@contoso.example>": b"550 5.1.1 <nobody@contoso.example>: nobody here has this address",
    b"RCPT TO:<>": b"501 5.1.3 this is no address",
    b"RCPT TO:<bob@contoso.example> SIZE=1": b"555 5.5.4 unknown parameter SIZE",
    b"RCPT TO:<bob@contoso.example> NOTIFY=FAILURE ORCPT=rfc822;b@c": b"250 2.1.5 recipient ok",
    b"DATA now": b"501 5.5.4 this command takes no argument",
    b"RSET": b"250 2.0.0 forgotten",
}


async def test_refused_in_each_state(mail: MailSystem, connect: Connect) -> None:
    peer = await connect(mail.smtp_port)
    await peer.line()
    for command, answer in REFUSED_FIRST.items():
        assert await peer.ask(command) == answer
    peer.send(b"EHLO there")
    assert (await peer.until(b"250 "))[-1] == b"250 STARTTLS"
    for command, answer in REFUSED_IN_CLEAR.items():
        assert await peer.ask(command) == answer
    assert await peer.ask(b"STARTTLS") == b"220 2.0.0 begin TLS"
    await peer.start_tls()
    assert await peer.ask(b"MAIL FROM:<a@b.example>") == b"503 5.5.1 EHLO first", "what was said in clear is forgotten"
    peer.send(b"EHLO there")
    assert (await peer.until(b"250 "))[-1] == b"250 AUTH PLAIN LOGIN"
    assert await peer.ask(b"STARTTLS") == b"503 5.5.1 TLS is on"
    assert await peer.ask(b"AUTH CRAM-MD5") == b"504 5.5.4 offered are PLAIN and LOGIN"
    assert await peer.ask(b"AUTH PLAIN bm8=") == b"501 5.5.2 a PLAIN response has three parts"
    assert await peer.ask(b"AUTH PLAIN") == b"334 "
    assert await peer.ask(b"*") == b"501 5.5.2 authentication cancelled"
    assert await peer.ask(b"AUTH LOGIN") == b"334 VXNlcm5hbWU6"
    assert await peer.ask(base64.b64encode(CARLA.encode())) == b"334 UGFzc3dvcmQ6"
    assert await peer.ask(base64.b64encode(b"wrong")) == b"535 5.7.8 wrong name or password"
    assert await peer.ask(b"AUTH PLAIN " + LOGIN) == b"235 2.7.0 logged in"
    assert await peer.ask(b"AUTH PLAIN " + LOGIN) == b"503 5.5.1 not now"
    assert await peer.ask(b"QUIT") == b"221 2.0.0 good bye"
    assert await peer.closed()


async def begin_data(mail: MailSystem, connect: Connect) -> Peer:
    peer = await greeted(mail, connect)
    peer.send(b"MAIL FROM:<a@b.example>", b"RCPT TO:<bob@contoso.example>", b"DATA")
    await peer.until(b"354")
    return peer


@pytest.mark.parametrize("end", [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r"])
async def test_no_second_message_is_smuggled_in(mail: MailSystem, connect: Connect, end: bytes) -> None:
    """Only CRLF, dot, CRLF ends a message; what holds another line end is refused whole."""
    peer = await begin_data(mail, connect)
    smuggled = b"MAIL FROM:<boss@contoso.example>\r\nRCPT TO:<bob@contoso.example>\r\nDATA\r\nSubject: evil\r\n"
    peer.send_raw(b"Subject: x\r\n\r\nx" + end + smuggled + b"\r\n.\r\n")
    assert await peer.line() == b"550 5.6.11 lines end with CR LF, never with one of them alone"
    assert await peer.ask(b"NOOP") == b"250 2.0.0 here"
    assert mail.mailbox(BOB).messages == ()


async def test_a_message_cut_off_before_its_final_dot_is_not_delivered(mail: MailSystem, connect: Connect) -> None:
    peer = await begin_data(mail, connect)
    peer.send_raw(b"Subject: x\r\n\r\nx\r\n.\r")
    peer.close()
    other = await begin_data(mail, connect)
    other.send_raw(b".\r\n")
    assert (await other.line()).startswith(b"250 2.0.0 delivered")
    (message,) = mail.mailbox(BOB).messages
    assert message.raw.endswith(b"+0000\r\n"), "an empty message is one, too"


async def test_pipelined_messages(mail: MailSystem, connect: Connect) -> None:
    peer = await begin_data(mail, connect)
    peer.send_raw(
        b"\r\n1\r\n.\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<bob@contoso.example>\r\nDATA\r\n\r\n..2\r\n.\r\nQUIT\r\n"
    )
    answers = await peer.until(b"221")
    assert [answer[:3] for answer in answers] == [b"250", b"250", b"250", b"354", b"250", b"221"]
    assert [message.raw[-5:] for message in mail.mailbox(BOB).messages] == [b"\r\n1\r\n", b"\n.2\r\n"]


async def test_commands_slipped_in_before_tls_are_not_obeyed(mail: MailSystem, connect: Connect) -> None:
    peer = await greeted(mail, connect)
    peer.send(b"STARTTLS", b"RSET")
    assert await peer.line() == b"220 2.0.0 begin TLS"
    assert await peer.line() == b"500 5.5.2 data in clear between STARTTLS and TLS"
    assert await peer.closed()


async def test_a_server_that_is_down_refuses_and_comes_back(mail: MailSystem) -> None:
    port = mail.smtp_port
    await mail.stop_smtp()
    with pytest.raises(ConnectionRefusedError):
        await mail.client.send(CARLA, [BOB], MESSAGE)
    assert await mail.client.read(BOB) == [], "the other servers go on"
    await mail.start_smtp()
    assert mail.smtp_port == port
    await mail.client.send(CARLA, [BOB], MESSAGE)
    assert len(await mail.client.read(BOB)) == 1
