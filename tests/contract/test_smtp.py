"""SMTP against a real Postfix, and against servers that misbehave."""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from email_router.mail.smtp import CONNECTOR
from email_router.mail.smtp.client import xtext
from email_router.mail.smtp.settings import SmtpSettings
from email_router.model.errors import NeedsOperator, Permanent, RouterError, Transient
from email_router.model.outgoing import Envelope, RecipientResult, RecipientState
from email_router.model.settings import AuthMechanism, TlsMode
from email_router.net.spool import MemoryContent
from email_router.ports.mail import Login, Uncertain
from tests.fixtures.dovecot import Dovecot
from tests.fixtures.postfix import SIZE_LIMIT, Postfix
from tests.servers.scripted import HANG_UP, Scripted

ACCEPTED, DEFERRED, REFUSED = RecipientState.ACCEPTED, RecipientState.DEFERRED, RecipientState.REFUSED
LETTER = b"From: a@router.test\r\nSubject: dots\r\n\r\n.\r\n..two\r\nlast line without its end"


def login(user: str = "", secret: str = "secret") -> Login:
    async def answer() -> str:
        return secret

    return Login(user, answer)


class Marks:
    """How often the hand-over was announced; raises instead when told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.count = 0
        self.error = error

    async def __call__(self) -> None:
        self.count += 1
        if self.error is not None:
            raise self.error


async def send(
    settings: SmtpSettings,
    *recipients: str,
    content: bytes = LETTER,
    sender: str = "a@router.test",
    mark: Callable[[], Awaitable[None]] | None = None,
    who: Login | None = None,
) -> Sequence[RecipientResult]:
    assert CONNECTOR.sender is not None
    async with CONNECTOR.sender(settings, who or login()) as made:
        envelope = Envelope(sender, recipients, envelope_id="env+1")
        return await made.send(MemoryContent(content), envelope, mark or Marks())


def arrived(dovecot: Dovecot, user: str, number: int = 1) -> list[bytes]:
    """The bodies in a mailbox as soon as there are so many."""
    deadline = time.monotonic() + 20
    while len(found := dovecot.messages(user)) < number:
        assert time.monotonic() < deadline, f"{len(found)} of {number} messages arrived for {user}"
        time.sleep(0.05)
    return [stored.body for stored in found]


@pytest.fixture
def relay(postfix: Postfix) -> SmtpSettings:
    return SmtpSettings(host="127.0.0.1", port=postfix.smtp, tls=TlsMode.STARTTLS, ca_file=str(postfix.ca_file))


@pytest.mark.servers
class TestPostfix:
    async def test_every_byte_arrives_and_dots_are_dots(self, relay: SmtpSettings, dovecot: Dovecot) -> None:
        mark = Marks()
        [result] = await send(relay, "smtp1@router.test", mark=mark)
        assert (result.state, result.code, result.status) == (ACCEPTED, 250, "2.0.0")
        assert mark.count == 1
        [body] = arrived(dovecot, "smtp1")
        assert body.partition(b"\r\n\r\n")[2] == LETTER.partition(b"\r\n\r\n")[2] + b"\r\n"

    async def test_each_recipient_has_its_own_result(self, relay: SmtpSettings, dovecot: Dovecot) -> None:
        results = await send(relay, "smtp2@router.test", "nobody@elsewhere.test", "smtp3@router.test")
        assert [r.state for r in results] == [ACCEPTED, REFUSED, ACCEPTED]
        assert "no mail leaves this test" in results[1].said
        outside = replace(relay, auth=AuthMechanism.NONE)
        results = await send(outside, "good@router.test", "x@" + "y" * 300)
        assert [(r.state, r.code) for r in results] == [(ACCEPTED, 250), (REFUSED, 501)]

    async def test_one_connection_serves_many(self, relay: SmtpSettings, dovecot: Dovecot) -> None:
        async with CONNECTOR.sender(relay, login()) as made:  # type: ignore[misc]
            for n in range(5):
                envelope = Envelope("a@router.test", ("smtp4@router.test",))
                [result] = await made.send(MemoryContent(LETTER + b"%d" % n), envelope, Marks())
                assert result.state is ACCEPTED
        assert len(arrived(dovecot, "smtp4", 5)) == 5

    async def test_a_message_that_is_too_large_is_refused_before_it_is_sent(self, relay: SmtpSettings) -> None:
        mark = Marks()
        with pytest.raises(Permanent, match="2,000,000"):
            await send(relay, "smtp5@router.test", content=b"x" * (SIZE_LIMIT + 1), mark=mark)
        assert mark.count == 0

    async def test_addresses_outside_ascii(self, relay: SmtpSettings, dovecot: Dovecot) -> None:
        [result] = await send(relay, "jürgen@router.test", content="Subject: Grüße\r\n\r\nhallo\r\n".encode())
        assert result.state is ACCEPTED

    @pytest.mark.parametrize("auth", [AuthMechanism.AUTO, AuthMechanism.PLAIN, AuthMechanism.LOGIN])
    async def test_submission_with_a_login(
        self, relay: SmtpSettings, postfix: Postfix, dovecot: Dovecot, auth: AuthMechanism
    ) -> None:
        settings = replace(relay, port=postfix.submission, auth=auth)
        [result] = await send(settings, f"sub-{auth}@router.test", who=login("carol"))
        assert result.state is ACCEPTED
        assert len(arrived(dovecot, f"sub-{auth}")) == 1

    async def test_a_bearer_token(self, relay: SmtpSettings, postfix: Postfix, dovecot: Dovecot) -> None:
        settings = replace(relay, port=postfix.submission, auth=AuthMechanism.XOAUTH2)
        [result] = await send(settings, "token@router.test", who=login("carol", dovecot.jwt("carol")))
        assert result.state is ACCEPTED
        with pytest.raises(NeedsOperator) as caught:
            await send(settings, "token@router.test", who=login("carol", "no token"))
        assert "user name or the password" in str(caught.value)

    async def test_a_wrong_password_says_the_cure_and_hands_nothing_over(
        self, relay: SmtpSettings, postfix: Postfix
    ) -> None:
        mark = Marks()
        with pytest.raises(NeedsOperator) as caught:
            settings = replace(relay, port=postfix.submission)
            await send(settings, "x@router.test", who=login("carol", "wrong"), mark=mark)
        assert str(postfix.submission) in caught.value.where
        assert "correct the user name or the password" in caught.value.cure
        assert (caught.value.scope, mark.count) == ("profile", 0)

    async def test_a_login_that_is_missing_stops_the_profile(self, relay: SmtpSettings, postfix: Postfix) -> None:
        [result] = await send(replace(relay, port=postfix.submission), "x@router.test")
        assert (result.state, result.code) == (REFUSED, 554)

    async def test_tls_from_the_start(self, relay: SmtpSettings, postfix: Postfix, dovecot: Dovecot) -> None:
        settings = replace(relay, port=postfix.smtps, tls=TlsMode.IMPLICIT)
        [result] = await send(settings, "smtps@router.test")
        assert result.state is ACCEPTED

    async def test_a_certificate_we_do_not_trust_needs_the_operator(self, relay: SmtpSettings) -> None:
        with pytest.raises(NeedsOperator) as caught:
            await send(replace(relay, ca_file=""), "x@router.test")
        assert "certificate" in str(caught.value)
        assert "ca_file" in caught.value.cure

    async def test_the_pinned_certificate_and_another_one(self, relay: SmtpSettings, postfix: Postfix) -> None:
        import hashlib
        import ssl

        certificate = ssl.PEM_cert_to_DER_cert((postfix.directory / "cert.pem").read_text())
        pin = hashlib.sha256(certificate).hexdigest()
        [result] = await send(replace(relay, ca_file="", pinned_sha256=pin), "pin@router.test")
        assert result.state is ACCEPTED
        with pytest.raises(NeedsOperator, match="not the pinned one"):
            await send(replace(relay, pinned_sha256="00" * 32), "pin@router.test")

    async def test_the_probe(self, relay: SmtpSettings, postfix: Postfix) -> None:
        assert CONNECTOR.probe_sender is not None
        settings = replace(relay, port=postfix.submission)
        steps = [s async for s in CONNECTOR.probe_sender(settings, login("carol")).probe()]
        assert [(s.name, s.ok) for s in steps] == [
            ("resolve", True),
            ("connect", True),
            ("log in", True),
            ("abilities", True),
        ]
        wrong = [s async for s in CONNECTOR.probe_sender(settings, login("carol", "wrong")).probe()]
        assert (wrong[-1].name, wrong[-1].ok) == ("log in", False)
        assert wrong[-1].said
        assert wrong[-1].cure


# -- servers that misbehave

PLAIN = SmtpSettings(host="127.0.0.1", tls=TlsMode.NONE, timeout=2, data_timeout=2, connect_timeout=2, helo="me.test")
EHLO = ("220 hello", "EHLO>250-mx\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-DSN\r\n250 SIZE 1000")


async def scripted(*script: str, mark: Any = None, to: Sequence[str] = ("b@x.test",), **changes: Any) -> Any:
    """Play a script; lines of the message are swallowed by steps whose answer is nothing."""
    async with Scripted(script) as server:
        return await send(replace(PLAIN, port=server.port, **changes), *to, mark=mark, content=b"hi\r\n")


OK = ("MAIL>250 2.1.0 ok", "RCPT>250 2.1.5 ok", "DATA>354 go")


async def test_a_refusal_of_the_whole_message_counts_for_all_who_were_accepted() -> None:
    script = (*EHLO, "MAIL>250 ok", "RCPT>250 ok", "RCPT>550 5.1.1 who?", "DATA>354 go", "hi>", ".>451 4.3.0 later")
    mark = Marks()
    results = await scripted(*swallow(script), mark=mark, to=("b@x.test", "c@x.test"))
    assert [(r.state, r.code, r.status, r.said) for r in results] == [
        (DEFERRED, 451, "4.3.0", "451 4.3.0 later"),
        (REFUSED, 550, "5.1.1", "550 5.1.1 who?"),
    ]
    assert mark.count == 1


def swallow(script: Sequence[str]) -> list[str]:
    """`line>` with no answer: the line is read, nothing is said."""
    return [step if not step.endswith(">") else step + "\0" for step in script]


async def test_nobody_accepted_means_no_hand_over() -> None:
    mark = Marks()
    results = await scripted(*EHLO, "MAIL>250 ok", "RCPT>450 4.2.0 Greylisted", "DATA>554 no", "RSET>250 ok", mark=mark)
    assert [(r.state, r.code) for r in results] == [(DEFERRED, 450)]
    assert "greylisted" in results[0].said
    assert mark.count == 0


async def test_a_sender_that_is_refused_is_the_answer_for_every_recipient() -> None:
    script = (*EHLO, "MAIL>553 5.7.1 not you", "RCPT>503 no", "RCPT>503 no", "DATA>503 no", "RSET>250 ok")
    results = await scripted(*script, to=("b@x.test", "c@x.test"))
    assert [(r.state, r.code) for r in results] == [(REFUSED, 553), (REFUSED, 553)]


async def test_without_pipelining_one_after_the_other() -> None:
    script = ("220 hi", "EHLO>250 mx", *OK, "hi>", ".>250 2.0.0 done")
    [result] = await scripted(*swallow(script))
    assert result.state is ACCEPTED


@pytest.mark.parametrize("end", ["silence", "closed"])
async def test_no_answer_to_the_final_dot_is_uncertain(end: str) -> None:
    mark = Marks()
    script = (*EHLO, *OK, "hi>", *(() if end == "silence" else (".>\1",)))
    with pytest.raises(Uncertain):
        await scripted(*swallow(script), mark=mark)
    assert mark.count == 1


async def test_an_answer_that_is_none_is_no_proof() -> None:
    script = (*EHLO, *OK, "hi>", ".>354 go on")
    with pytest.raises(Uncertain, match="does not fit"):
        await scripted(*swallow(script))


async def test_a_connection_with_a_reply_too_many_is_not_used_again() -> None:
    """Its next reply would answer our next command, and the one after that the message."""
    once = (*EHLO, *OK, "hi>", ".>250 ok\r\n250 and more", HANG_UP)
    async with Scripted(swallow((*once, *EHLO, *OK, "hi>", ".>250 ok"))) as server:
        async with CONNECTOR.sender(replace(PLAIN, port=server.port), login()) as made:  # type: ignore[misc]
            for _ in range(2):
                [result] = await made.send(MemoryContent(b"hi\r\n"), Envelope("a@x.test", ("b@x.test",)), Marks())
                assert (result.state, result.said) == (ACCEPTED, "250 ok")
        assert [line[:4] for line in server.heard].count("EHLO") == 2


@pytest.mark.parametrize("size", ["\N{SUPERSCRIPT TWO}", "9" * 5000, "-1", "soon"])
async def test_a_size_that_is_none_is_no_limit(size: str) -> None:
    script = ("220 hi", f"EHLO>250-mx\r\n250-SIZE {size}\r\n250 PIPELINING", *OK, "hi>", ".>250 ok")
    [result] = await scripted(*swallow(script))
    assert result.state is ACCEPTED


async def test_a_mark_that_cannot_be_made_hands_nothing_over() -> None:
    async with Scripted(swallow((*EHLO, *OK, "hi>"))) as server:
        with pytest.raises(RuntimeError, match="the database is away"):
            error = RuntimeError("the database is away")
            await send(replace(PLAIN, port=server.port), "b@x.test", mark=Marks(error), content=b"hi\r\n")
        assert "." not in server.heard


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (("554 go away",), NeedsOperator, "554 go away"),
        (("421 busy",), Transient, "421 busy"),
        (("SSH-2.0",), Transient, "no SMTP"),
        ((*EHLO, "MAIL>421 closing"), Transient, "421 closing"),
        ((*EHLO, "MAIL>530 5.7.0 login first", "RCPT>530 x", "DATA>530 x", "RSET>250 ok"), NeedsOperator, "login"),
        ((*EHLO, "MAIL>250 ok"), Transient, "did not answer in time"),
        (("220 hi", "EHLO>250-" + "x" * 9000), Transient, "no SMTP"),
        (("220 hi", "EHLO>" + "250-x\r\n" * 300 + "250 end"), Transient, "no SMTP"),
        (("220 hi", "EHLO>250-" + "x" * 600_000), Transient, "no SMTP"),
        ((*EHLO, "MAIL>250 ok", "RCPT>250 ok", "DATA>250 taken, I promise"), Transient, "does not fit (DATA)"),
        ((*EHLO, "MAIL>354 go"), Transient, "does not fit (MAIL)"),
        ((*EHLO, "MAIL>250 ok", "RCPT>250 ok", "DATA>354 go\r\n250 taken, I promise"), Transient, "spoke"),
        ((*EHLO, "MAIL>250 ok\r\n250 and more", "RCPT>550 no", "DATA>354 go"), Transient, "spoke"),
    ],
)
async def test_what_stops_the_profile(script: Sequence[str], error: type[RouterError], words: str) -> None:
    mark = Marks()
    with pytest.raises(error) as caught:
        await scripted(*script, mark=mark)
    assert words in str(caught.value)
    assert mark.count == 0


async def test_a_server_that_repeats_the_password_does_not_tell_it() -> None:
    sent = base64.b64encode(b"\0carol\0secret").decode()
    script = ("220 hi", "EHLO>250-mx\r\n250 AUTH PLAIN", f"AUTH PLAIN>501 what is AUTH PLAIN {sent}?")
    async with Scripted(script) as server:
        with pytest.raises(RouterError) as caught:
            await send(replace(PLAIN, port=server.port), "b@x.test", who=login("carol"))
    assert sent not in str(caught.value)
    assert "501 what is AUTH PLAIN …?" in caught.value.said


async def test_starttls_is_never_skipped() -> None:
    with pytest.raises(NeedsOperator, match="no STARTTLS"):
        await scripted(*EHLO, tls=TlsMode.STARTTLS)
    with pytest.raises(Transient):
        await scripted("220 hi", "EHLO>250-mx\r\n250 STARTTLS", "STARTTLS>454 not now", tls=TlsMode.STARTTLS)


async def test_words_in_clear_behind_starttls_are_refused() -> None:
    with pytest.raises(Transient, match="between STARTTLS and TLS"):
        script = ("220 hi", "EHLO>250-mx\r\n250 STARTTLS", "STARTTLS>220 go\r\n250 injected")
        await scripted(*script, tls=TlsMode.STARTTLS)


@pytest.mark.parametrize("address", ["b@x.test>\r\nDATA", "b@x.test\r\nRSET", "b b@x.test", "<b@x.test>"])
async def test_an_address_cannot_smuggle_a_command(address: str) -> None:
    with pytest.raises(Permanent, match="cannot be sent to"):
        await scripted(*EHLO, to=(address,))


async def test_delivery_reports_are_asked_for_with_our_id() -> None:
    async with Scripted(swallow((*EHLO, *OK, "hi>", ".>250 ok"))) as server:
        settings = replace(PLAIN, port=server.port)
        async with CONNECTOR.sender(settings, login()) as made:  # type: ignore[misc]
            envelope = Envelope("a@x.test", ("b@x.test",), "id+1", ("FAILURE", "DELAY"))
            await made.send(MemoryContent(b"hi\r\n"), envelope, Marks())
        assert "MAIL FROM:<a@x.test> SIZE=4 BODY=8BITMIME RET=HDRS ENVID=id+2B1" in server.heard
        assert "RCPT TO:<b@x.test> NOTIFY=FAILURE,DELAY" in server.heard


def test_xtext() -> None:
    assert xtext("a+b=c d") == "a+2Bb+3Dc+20d"


async def test_a_closed_port_and_an_unknown_host_say_where_and_the_cure() -> None:
    with pytest.raises(Transient) as caught:
        await send(replace(PLAIN, port=1), "b@x.test")
    assert (caught.value.where, bool(caught.value.cure)) == ("127.0.0.1:1", True)
    with pytest.raises(Transient) as caught:
        await send(replace(PLAIN, host="no-such-host.invalid", port=25), "b@x.test")
    assert "no-such-host.invalid" in str(caught.value)
    assert caught.value.cure
