"""One connection of a peer that hands mail over: LMTP (RFC 2033), with pipelining, and one reply per recipient.

What may fail: the peer breaks off before the final dot, and nothing was taken; it breaks off before the replies, and
what it delivers again is recognised; our side cannot take a message now, and the peer is told to come again. A reply of
2xx is given only for an outcome that is durable.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime

from email_router.mail.lmtp.errors import reply
from email_router.mail.lmtp.recipients import Recipients
from email_router.mail.lmtp.settings import LmtpSettings
from email_router.mail.lmtp.wire import Malformed, PeerGone, Wire
from email_router.model.errors import Fenced
from email_router.net.spool import Spool
from email_router.observe import maillog
from email_router.observe.failpoint import hit
from email_router.ports.mail import ListenerContext, Pushed

MAX_RECIPIENTS = 100
MAX_FAULTS = 20
"""Commands that are none, after which a peer is sent away."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PATH = re.compile(r'<((?:"(?:[^"\\]|\\.)*+"|[^<>"\s])*+)>((?: [A-Z0-9][A-Z0-9-]*+(?:=[^= ]++)?+)*+)', re.IGNORECASE)
_ROUTE = re.compile(r"@[^:]*+:")

Handler = Callable[[str], Awaitable[str]]
"""Performs a command with what follows its verb; returns the reply, its lines joined by LF, or "" if all is said."""


class Refused(Exception):
    """Answered with this reply; changes nothing. `fault` when the peer broke the protocol."""

    def __init__(self, reply: str, *, fault: bool = False) -> None:
        super().__init__(reply)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Shared:
    """What all sessions of a listener have in common."""

    settings: LmtpSettings
    recipients: Recipients
    context: ListenerContext
    tls: ssl.SSLContext | None
    name: str
    """Our host name, as it is told to peers."""


@dataclass(slots=True)
class Transaction:
    """Between MAIL and the replies."""

    sender: str
    unicode: bool
    mailboxes: list[str] = field(default_factory=list)
    """One for each recipient that was accepted, in their order."""


class Session:
    def __init__(self, wire: Wire, shared: Shared, peer: str) -> None:
        self._wire = wire
        self._shared = shared
        self._peer = peer
        self._greeted = False
        self._transaction: Transaction | None = None
        self._faults = 0
        self._over = False
        self._draining = False
        self._reading: asyncio.Task[bytes] | None = None
        self._commands: dict[str, Handler] = {
            "LHLO": self._lhlo,
            "STARTTLS": self._starttls,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": self._noop,
            "VRFY": self._vrfy,
            "QUIT": self._quit,
        }

    def drain(self) -> None:
        """Let the message that is being handed over get its replies; then, or at once, send the peer away."""
        self._draining = True
        if self._reading is not None:
            self._reading.cancel()

    async def run(self) -> None:
        """Serve the peer until it quits or has to go. Raises only CancelledError."""
        last: tuple[str, ...] = ()
        try:
            await self._wire.say(f"220 {self._shared.name} LMTP Email Router")
            while not (self._over or self._draining):
                line = await self._command()
                if line is not None:
                    await self._perform(line)
            last = () if self._over else ("421 4.3.2 the router is stopping; come again",)
        except PeerGone:
            pass
        except TimeoutError:
            last = ("421 4.4.2 silent for too long",)
        except Malformed as error:
            last = (f"500 5.5.2 {error}",)
            maillog.peer(self._peer, "sent away", str(error))
        except Exception as error:
            last = ("421 4.3.0 a fault of the router",)
            maillog.bug(f"LMTP session of {self._peer}", error)
        finally:
            await self._wire.bye(*last)

    async def _command(self) -> bytes | None:
        """The next line; None when we are to stop."""
        self._reading = asyncio.ensure_future(self._wire.line())
        try:
            return await self._reading
        except asyncio.CancelledError:
            if not self._draining:
                raise
            return None
        finally:
            self._reading = None

    async def _perform(self, line: bytes) -> None:
        try:
            words = await self._answer(line)
            if words:
                await self._wire.say(*words.split("\n"))
        except Refused as refused:
            self._faults += refused.fault
            await self._wire.say(str(refused))
            if self._faults >= MAX_FAULTS:
                await self._wire.say("421 4.7.0 too many errors")
                maillog.peer(self._peer, "sent away", "too many errors")
                self._over = True

    async def _answer(self, line: bytes) -> str:
        try:
            verb, _, rest = line.decode().partition(" ")
        except UnicodeDecodeError:
            raise Refused("500 5.5.2 commands are UTF-8", fault=True) from None
        if _CONTROL.search(rest):
            raise Refused("501 5.5.4 control characters have no place in a command", fault=True)
        handler = self._commands.get(verb.upper())
        if handler is None:
            what = "this is LMTP: say LHLO" if verb.upper() in ("HELO", "EHLO") else "unknown command"
            raise Refused(f"500 5.5.1 {what}", fault=True)
        return await handler(rest.rstrip(" "))

    # -- who is there

    async def _lhlo(self, rest: str) -> str:
        if not rest or " " in rest:
            raise Refused("501 5.5.4 say who you are: LHLO name", fault=True)
        self._greeted, self._transaction = True, None
        offered = ["PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8"]
        offered.append(f"SIZE {self._shared.settings.maximum_message_bytes}")
        if self._shared.tls is not None and not self._wire.tls:
            offered.append("STARTTLS")
        lines = [self._shared.name, *offered]
        return "\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"])

    async def _starttls(self, rest: str) -> str:
        _nothing(rest)
        if self._shared.tls is None or self._wire.tls:
            raise Refused("503 5.5.1 TLS is on" if self._wire.tls else "502 5.5.1 there is no TLS here", fault=True)
        await self._wire.say("220 2.0.0 begin TLS")
        await self._wire.start_tls(self._shared.tls)
        self._greeted, self._transaction = False, None
        return ""

    # -- a message

    async def _mail(self, rest: str) -> str:
        if not self._greeted:
            raise Refused("503 5.5.1 LHLO first", fault=True)
        if self._shared.settings.require_tls and not self._wire.tls:
            raise Refused("530 5.7.0 STARTTLS first")
        if self._transaction is not None:
            raise Refused("503 5.5.1 a message is begun already", fault=True)
        sender, parameters = _path(rest, "FROM:", ("SIZE", "BODY", "SMTPUTF8"))
        size = parameters.get("SIZE", "0")
        if not size.isdecimal() or len(size) > 20:
            raise Refused("501 5.5.4 SIZE is a number", fault=True)
        if int(size) > self._shared.settings.maximum_message_bytes:
            raise Refused(_too_large(self._shared.settings))
        if parameters.get("BODY", "7BIT").upper() not in ("7BIT", "8BITMIME"):
            raise Refused("501 5.5.4 BODY is 7BIT or 8BITMIME", fault=True)
        unicode = "SMTPUTF8" in parameters
        _check_letters(sender, unicode)
        self._transaction = Transaction(sender, unicode)
        return "250 2.1.0 sender ok"

    async def _rcpt(self, rest: str) -> str:
        transaction = self._transaction
        if transaction is None:
            raise Refused("503 5.5.1 MAIL first", fault=True)
        address, _ = _path(rest, "TO:", ())
        _check_letters(address, transaction.unicode)
        mailbox = self._shared.recipients.find(address)
        if not mailbox:
            raise Refused(f"550 5.1.1 <{address}>: no mailbox of that name is served here")
        if mailbox in self._shared.context.paused:
            raise Refused(f"450 4.2.1 <{address}>: the mailbox is switched off for now")
        if len(transaction.mailboxes) >= MAX_RECIPIENTS:
            raise Refused("452 4.5.3 too many recipients; send the message again to the others")
        transaction.mailboxes.append(mailbox)
        return "250 2.1.5 recipient ok"

    async def _data(self, rest: str) -> str:
        _nothing(rest)
        transaction, self._transaction = self._transaction, None
        if transaction is None or not transaction.mailboxes:
            raise Refused("503 5.5.1 there is no recipient")
        await self._wire.say("354 end with a dot on its own line")
        mail = Mail(self._shared.context.spool(), transaction.sender, self._shared.settings)
        try:
            await self._wire.message(mail.take)
        except BaseException:
            mail.abandon()
            raise
        message = mail.finish()
        if isinstance(message, str):
            maillog.peer(self._peer, "a message was not taken", message)
            await self._wire.say(*[message] * len(transaction.mailboxes))
        else:
            try:
                await self._push(message, transaction.mailboxes)
            finally:
                message.content.discard()
        return ""

    async def _push(self, message: Pushed, mailboxes: Sequence[str]) -> None:
        """Hand the message on, and give each recipient's reply as soon as there is one."""
        open_replies = len(mailboxes)
        async with aclosing(self._shared.context.push(message, mailboxes)) as answers:
            async for answer in answers:
                hit("before-reply")
                await self._wire.say(reply(answer))
                open_replies -= 1
                if isinstance(answer, Fenced):
                    self._draining = True
        assert open_replies == 0

    # -- the rest

    async def _rset(self, rest: str) -> str:
        _nothing(rest)
        self._transaction = None
        return "250 2.0.0 forgotten"

    async def _noop(self, rest: str) -> str:
        return "250 2.0.0 here"

    async def _vrfy(self, rest: str) -> str:
        return "252 2.5.0 hand over some mail, and see"

    async def _quit(self, rest: str) -> str:
        _nothing(rest)
        self._over = True
        return "221 2.0.0 good bye"


class Mail:
    """A message on its way in: counted, hashed and spooled; too much of it is read to its end and thrown away."""

    def __init__(self, spool: Spool, sender: str, settings: LmtpSettings) -> None:
        self._spool = spool
        self._settings = settings
        self._size = 0
        self._hash = hashlib.sha256()
        self._refusal = ""
        self._write(f"Return-Path: <{sender}>\r\n".encode())  # RFC 5321 section 4.4: who makes final delivery adds it

    def take(self, data: bytes) -> None:
        """The next bytes. Raises Malformed when a peer does not stop in spite of the limit it was told."""
        self._size += len(data)
        most = self._settings.maximum_message_bytes
        if self._size > 2 * most:
            raise Malformed("the message is far too large")
        if self._size > most:
            self._refuse(_too_large(self._settings))
        if not self._refusal:
            self._hash.update(data)
            self._write(data)

    def finish(self) -> Pushed | str:
        """The message, or the reply that refuses it."""
        if not self._refusal:
            try:
                return Pushed(self._hash.hexdigest(), self._spool.finish(), datetime.now(UTC))
            except OSError as error:
                self._refuse(_no_room(error))
        return self._refusal

    def abandon(self) -> None:
        self._spool.abandon()

    def _write(self, data: bytes) -> None:
        try:
            self._spool.write(data)
        except OSError as error:
            self._refuse(_no_room(error))

    def _refuse(self, refusal: str) -> None:
        self._refusal = self._refusal or refusal
        self.abandon()


def _path(rest: str, word: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Address and parameters of MAIL and RCPT. A source route is passed over (RFC 5321 appendix F.2)."""
    match = _PATH.fullmatch(rest[len(word) :])
    if match is None or rest[: len(word)].upper() != word:
        raise Refused(f"501 5.5.4 the form is {word}<address>", fault=True)
    parameters: dict[str, str] = {}
    for given in match[2].split():
        name, _, value = given.partition("=")
        if name.upper() not in known:
            raise Refused(f"555 5.5.4 unknown parameter {name}", fault=True)
        parameters[name.upper()] = value
    return _ROUTE.sub("", match[1], count=1) if match[1].startswith("@") else match[1], parameters


def _nothing(rest: str) -> None:
    if rest:
        raise Refused("501 5.5.4 this command takes no argument", fault=True)


def _check_letters(address: str, unicode: bool) -> None:
    if not address.isascii() and not unicode:
        raise Refused("553 5.6.7 this address needs SMTPUTF8")


def _too_large(settings: LmtpSettings) -> str:
    return f"552 5.3.4 a message may have {settings.maximum_message_bytes} bytes"


def _no_room(error: OSError) -> str:
    return f"452 4.3.1 the router cannot store the message now: {error.strerror}"
