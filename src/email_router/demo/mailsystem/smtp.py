"""ESMTP (RFC 5321) that delivers into the mailboxes of this system and relays nothing.

Offered: STARTTLS, AUTH PLAIN and LOGIN (only under TLS), SIZE, 8BITMIME, SMTPUTF8, PIPELINING, DSN (its parameters are
accepted; no report is ever needed, since every recipient is accepted or refused at once), ENHANCEDSTATUSCODES.

What may fail: the client goes away before the final dot, which delivers nothing; or it breaks the protocol so that the
next command cannot be found, which ends the connection with 500. A message is delivered to all accepted recipients
before the answer to the final dot, or to none.
"""

from __future__ import annotations

import itertools
import re
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime

from email_router.demo.mailsystem import sasl
from email_router.demo.mailsystem.accounts import Accounts, Mailbox
from email_router.demo.mailsystem.wire import Malformed, Wire

MAX_LINE = 2048
"""Bytes of a command line; RFC 5321 asks for 512 and more for each extension."""
MAX_RESPONSE = 12288
MAX_MESSAGE = 64 * 1024 * 1024
MAX_RECIPIENTS = 100

_PATH = re.compile(r"<([^<>\s\x00-\x1f]*)>((?: [A-Z0-9][A-Z0-9-]*(?:=[^ =\x00-\x1f\x7f]+)?)*)", re.IGNORECASE)
_ADDRESS = re.compile(r'(?:"(?:[^"\\]|\\.)+"|[^\s"(),:;<>@\[\]\\]+)@[^\s"(),:;<>@\[\]\\]+')
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_MAIL_PARAMETERS = {"SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID"}
_RCPT_PARAMETERS = {"NOTIFY", "ORCPT"}

Handler = Callable[[str], Awaitable[str]]
"""Performs a command with what follows its verb; returns the answer."""


class Refused(Exception):
    """Answered with this code and text; changes nothing."""


class Session:
    """One connection."""

    def __init__(
        self, wire: Wire, accounts: Accounts, tls: ssl.SSLContext, host: str, ids: itertools.count[int]
    ) -> None:
        self._wire = wire
        self._accounts = accounts
        self._tls = tls
        self._host = host
        self._ids = ids
        self._greeted = ""
        self._extended = False
        self._login: Mailbox | None = None
        self._sender: str | None = None
        self._unicode = False
        self._recipients: list[Mailbox] = []
        self._over = False
        self._commands: dict[str, Handler] = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": self._noop,
            "VRFY": self._vrfy,
            "QUIT": self._quit,
        }

    async def run(self) -> None:
        self._say(f"220 {self._host} ESMTP Email Router demo")
        try:
            while not self._over:
                await self._answer(await self._wire.line(MAX_LINE))
                await self._wire.drain()
        except Malformed as error:
            self._say(f"500 5.5.2 {error}")

    def _say(self, text: str) -> None:
        self._wire.write(text.encode() + b"\r\n")

    async def _answer(self, line: bytes) -> None:
        try:
            verb, _, rest = line.decode().partition(" ")
            handler = self._commands.get(verb.upper())
            if handler is None:
                raise Refused("500 5.5.1 unknown command")
            self._say(await handler(rest))
        except UnicodeDecodeError:
            self._say("500 5.5.2 commands are UTF-8")
        except Refused as error:
            self._say(str(error))
        else:
            if handler == self._starttls:
                await self._begin_tls()

    # -- who is there

    async def _ehlo(self, rest: str) -> str:
        self._hello(rest, extended=True)
        offered = ["PIPELINING", f"SIZE {MAX_MESSAGE}", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"]
        offered.append("AUTH PLAIN LOGIN" if self._wire.tls else "STARTTLS")
        lines = [self._host, *offered]
        return "\r\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"])

    async def _helo(self, rest: str) -> str:
        self._hello(rest, extended=False)
        return f"250 {self._host}"

    def _hello(self, name: str, *, extended: bool) -> None:
        if not name or len(name.split()) != 1:
            raise Refused("501 5.5.4 say who you are")
        self._greeted, self._extended = name, extended
        self._forget()

    async def _starttls(self, rest: str) -> str:
        _nothing(rest)
        if not self._extended:
            raise Refused("503 5.5.1 EHLO first")
        if self._wire.tls:
            raise Refused("503 5.5.1 TLS is on")
        return "220 2.0.0 begin TLS"

    async def _begin_tls(self) -> None:
        await self._wire.upgrade(self._tls)
        self._greeted, self._extended = "", False  # what was said in clear counts no more (RFC 3207 section 4.2)
        self._forget()

    async def _auth(self, rest: str) -> str:
        if not self._extended:
            raise Refused("503 5.5.1 EHLO first")
        if not self._wire.tls:
            raise Refused("538 5.7.11 no password in clear: STARTTLS first")
        if self._login or self._sender is not None:
            raise Refused("503 5.5.1 not now")
        words = rest.split(" ")
        if len(words) > 2 or words[0].upper() not in ("PLAIN", "LOGIN"):
            raise Refused("504 5.5.4 offered are PLAIN and LOGIN")
        initial = words[1].encode() if len(words) == 2 else None
        try:
            found = await (self._plain(initial) if words[0].upper() == "PLAIN" else self._login_words(initial))
        except sasl.BadResponse as error:
            raise Refused(f"501 5.5.2 {error}") from None
        if found is None:
            raise Refused("535 5.7.8 wrong name or password")
        self._login = found
        return "235 2.7.0 logged in"

    async def _plain(self, initial: bytes | None) -> Mailbox | None:
        return sasl.plain(self._accounts, await self._ask(b"") if initial is None else initial)

    async def _login_words(self, initial: bytes | None) -> Mailbox | None:
        name = sasl.decode(await self._ask(b"VXNlcm5hbWU6") if initial is None else initial)
        password = sasl.decode(await self._ask(b"UGFzc3dvcmQ6"))
        return self._accounts.login(name.decode("utf-8", "replace"), password.decode("utf-8", "replace"))

    async def _ask(self, challenge: bytes) -> bytes:
        self._wire.write(b"334 " + challenge + b"\r\n")
        await self._wire.drain()
        return await self._wire.line(MAX_RESPONSE)

    # -- one message

    def _forget(self) -> None:
        self._sender = None
        self._recipients = []

    async def _mail(self, rest: str) -> str:
        if not self._greeted:
            raise Refused("503 5.5.1 EHLO first")
        if self._sender is not None:
            raise Refused("503 5.5.1 there is a sender already")
        address, parameters = self._path(rest, "FROM:", _MAIL_PARAMETERS)
        size = parameters.get("SIZE", "0")
        if not size.isdigit():
            raise Refused("501 5.5.4 SIZE is a number")
        if int(size) > MAX_MESSAGE:
            raise Refused(f"552 5.3.4 more than {MAX_MESSAGE} bytes")
        if parameters.get("BODY", "7BIT").upper() not in ("7BIT", "8BITMIME"):
            raise Refused("501 5.5.4 BODY is 7BIT or 8BITMIME")
        if address and not _ADDRESS.fullmatch(address):
            raise Refused("501 5.1.7 this is no address")
        unicode = "SMTPUTF8" in parameters
        _check_letters(address, unicode)
        if self._login and not self._may_send_as(address):
            raise Refused(f"553 5.7.1 {self._login.address} may not send as {address or '<>'}")
        self._sender, self._unicode = address, unicode
        return "250 2.1.0 sender ok"

    def _may_send_as(self, address: str) -> bool:
        assert self._login
        user = self._login.user
        if user.sends_as_all:
            return not address or self._accounts.serves(address)
        return address.casefold() == user.address.casefold()

    async def _rcpt(self, rest: str) -> str:
        if self._sender is None:
            raise Refused("503 5.5.1 MAIL first")
        address, _ = self._path(rest, "TO:", _RCPT_PARAMETERS)
        if not _ADDRESS.fullmatch(address):
            raise Refused("501 5.1.3 this is no address")
        _check_letters(address, self._unicode)
        if not self._accounts.serves(address):
            raise Refused(f"550 5.7.1 <{address}>: mail for this domain is not taken here")
        mailbox = self._accounts.find(address)
        if mailbox is None:
            raise Refused(f"550 5.1.1 <{address}>: nobody here has this address")
        if len(self._recipients) >= MAX_RECIPIENTS:
            raise Refused("452 4.5.3 too many recipients")
        if mailbox not in self._recipients:
            self._recipients.append(mailbox)
        return "250 2.1.5 recipient ok"

    def _path(self, rest: str, word: str, known: set[str]) -> tuple[str, dict[str, str]]:
        """Address and parameters of MAIL and RCPT."""
        match = _PATH.fullmatch(rest[len(word) :])
        if match is None or rest[: len(word)].upper() != word:
            raise Refused(f"501 5.5.4 the form is {word}<address>")
        parameters: dict[str, str] = {}
        for given in match[2].split():
            name, _, value = given.partition("=")
            if not self._extended or name.upper() not in known:
                raise Refused(f"555 5.5.4 unknown parameter {name}")
            parameters[name.upper()] = value
        return match[1], parameters

    async def _data(self, rest: str) -> str:
        _nothing(rest)
        if not self._recipients:
            raise Refused("503 5.5.1 RCPT first")
        self._say("354 end with a dot on its own line")
        await self._wire.drain()
        message = await self._wire.until_dot(MAX_MESSAGE)
        if _BARE.search(message):
            self._forget()
            raise Refused("550 5.6.11 lines end with CR LF, never with one of them alone")
        transaction = f"{next(self._ids):08X}"
        self._deliver(message, transaction)
        self._forget()
        return f"250 2.0.0 delivered as {transaction}"

    def _deliver(self, message: bytes, transaction: str) -> None:
        now = datetime.now(UTC)
        message = _without_results(message, self._host)
        for mailbox in self._recipients:
            stamps = (
                f"Return-Path: <{self._sender}>\r\n"
                f"Delivered-To: {mailbox.address}\r\n"
                f"Authentication-Results: {self._host}; {self._proof()}\r\n"
                f"Received: from {self._greeted} ([127.0.0.1])\r\n"
                f"\tby {self._host} (Email Router demo) with {self._protocol()} id {transaction}\r\n"
                f"\tfor <{mailbox.address}>; {format_datetime(now)}\r\n"
            )
            mailbox.inbox.add(stamps.encode() + message, now)

    def _proof(self) -> str:
        """What is known about the sender (RFC 8601): who logged in, else nothing."""
        return f"auth=pass (login) smtp.auth={self._login.address}" if self._login else "none"

    def _protocol(self) -> str:
        """RFC 3848, and RFC 6531 section 4.3."""
        letters = ("S" if self._wire.tls else "") + ("A" if self._login else "")
        return ("UTF8SMTP" if self._unicode else "ESMTP" if self._extended else "SMTP") + letters

    async def _rset(self, rest: str) -> str:
        _nothing(rest)
        self._forget()
        return "250 2.0.0 forgotten"

    async def _noop(self, rest: str) -> str:
        return "250 2.0.0 here"

    async def _vrfy(self, rest: str) -> str:
        return "252 2.5.0 send some mail, and see"

    async def _quit(self, rest: str) -> str:
        _nothing(rest)
        self._over = True
        return "221 2.0.0 good bye"


def _nothing(rest: str) -> None:
    if rest:
        raise Refused("501 5.5.4 this command takes no argument")


def _check_letters(address: str, unicode: bool) -> None:
    if not address.isascii() and not unicode:
        raise Refused("553 5.6.7 this address needs SMTPUTF8")


def _without_results(message: bytes, host: str) -> bytes:
    """The message without results that claim to be ours: only our own word may say so (RFC 8601 section 5)."""
    header, end, body = message.partition(b"\r\n\r\n")
    ours = re.compile(rb"authentication-results:\s*" + re.escape(host.encode()) + rb"\s*[;0-9]", re.IGNORECASE)
    fields = re.split(rb"\r\n(?![ \t])", header)
    if not any(ours.match(field) for field in fields):
        return message
    return b"\r\n".join(field for field in fields if not ours.match(field)) + end + body
