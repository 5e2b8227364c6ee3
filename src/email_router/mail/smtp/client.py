"""SMTP as one connection speaks it (RFC 5321, 2920, 1870, 6152, 6531, 3461, 3207, 4954). Knows no CRM.

What may fail: the server closes, falls silent or answers no SMTP: Transient, and `usable` is false. What a server says
about a message is returned, not raised. After the final dot went out a lost connection raises `Lost`: nobody knows.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

from email_router.mail.smtp import errors
from email_router.mail.smtp.errors import Reply
from email_router.mail.smtp.settings import SmtpSettings
from email_router.model.errors import NeedsOperator, Permanent, RouterError, Transient, said_by
from email_router.model.message import Content
from email_router.model.outgoing import Envelope
from email_router.model.settings import AuthMechanism, TlsMode
from email_router.net import sasl
from email_router.net.connection import Connection, awaiting_the_greeting, connect
from email_router.observe.failpoint import hit
from email_router.ports.mail import Login

MAX_LINES = 200
"""Lines of one reply; EHLO of the richest server has about 20."""
MAX_LINE = 8192
CHUNK = 64 * 1024
PIPELINED = 100
"""Recipients sent before their replies are read, so that neither side's buffer fills up."""
_GO_ON = ((334, "log in"), (354, "DATA"))


class Lost(Exception):
    """The connection was lost after the final dot went out and before its answer came."""


class Client:
    """A connection. `open`, then `transact` as often as wanted, then `close`."""

    def __init__(self, settings: SmtpSettings, login: Login) -> None:
        self._settings = settings
        self._login = login
        self._port = settings.port or settings.default_port
        self.where = f"{settings.host}:{self._port}"
        self._connection: Connection | None = None
        self.extensions: dict[str, str] = {}

    @property
    def usable(self) -> bool:
        """Whether a command may be sent: connected, and every reply read. A server that gives one too many would
        answer our next command with it, and all that follow."""
        return self._connection is not None and not self._connection.spoken_to

    @property
    def largest(self) -> int:
        """Bytes of the largest message that the server takes (RFC 1870); 0 when it does not say."""
        limit = self.extensions.get("SIZE", "")
        return int(limit) if limit.isdecimal() and limit.isascii() and len(limit) < 20 else 0

    @property
    def encryption(self) -> str:
        """TLS version and cipher, or "" in clear."""
        cipher = self._wire.writer.get_extra_info("cipher")
        return f"{cipher[1]} ({cipher[0]})" if cipher else ""

    @property
    def _wire(self) -> Connection:
        if self._connection is None:
            raise Transient("there is no connection", where=self.where, scope="profile")
        return self._connection

    # -- the way in

    async def connect(self) -> None:
        """Connection, greeting, EHLO and TLS. A STARTTLS that is refused fails; nothing goes on in clear."""
        self._connection = await connect(self._settings, self._settings.default_port)
        with awaiting_the_greeting(self._settings):
            greeting = await self._reply("greeting")
        if not greeting.ok:
            raise await self._given_up(errors.refused(greeting, "greeting", self.where))
        await self._ehlo()
        if self._settings.tls is TlsMode.STARTTLS:
            await self._start_tls()

    async def _start_tls(self) -> None:
        if "STARTTLS" not in self.extensions:
            raise await self._given_up(
                NeedsOperator(
                    "the server offers no STARTTLS",
                    where=self.where,
                    cure="set TLS to implicit (port 465), or to none if the way to the server is safe",
                    scope="profile",
                )
            )
        reply = await self._ask(b"STARTTLS\r\n", "STARTTLS")
        if not reply.ok:
            raise await self._given_up(errors.refused(reply, "STARTTLS", self.where))
        try:
            await self._wire.start_tls()
        except RouterError as error:
            raise await self._given_up(error) from error
        await self._ehlo()  # what was said in clear is not believed (RFC 3207 section 4.2)

    async def _ehlo(self) -> None:
        name = self._settings.helo or await asyncio.to_thread(socket.getfqdn)  # it may ask a slow name server
        reply = await self._ask(f"EHLO {name}\r\n".encode("ascii", "replace"), "EHLO", keep_lines=True)
        if not reply.ok:
            raise await self._given_up(errors.refused(reply, "EHLO", self.where))
        self.extensions = {}
        for line in reply.text.split("\n")[1:]:
            keyword, _, value = line.strip().partition(" ")
            self.extensions[keyword.upper()] = value

    async def login(self) -> None:
        """Log in, if the profile has a user name. Raises NeedsOperator when it is refused."""
        if self._settings.auth is AuthMechanism.NONE or not self._login.username:
            return
        offered = self.extensions.get("AUTH", "").upper().split()
        try:
            mechanism = sasl.choose(offered, self._settings.auth, self._settings.tls is not TlsMode.NONE)
            secret = await self._login.secret()
        except RouterError as error:
            raise await self._given_up(error) from error
        with sasl.never_told(self._login.username, secret):
            reply = await self._authenticate(mechanism, self._login.username, secret)
            if not reply.ok:
                raise await self._given_up(errors.refused(reply, "log in", self.where))

    async def _authenticate(self, mechanism: str, user: str, secret: str) -> Reply:
        if mechanism != "LOGIN":
            first = base64.b64encode(sasl.initial_response(mechanism, user, secret))
            reply = await self._ask(b"AUTH " + mechanism.encode() + b" " + first + b"\r\n", "log in")
            # XOAUTH2 says why in a challenge that wants an empty answer before the refusal comes
            return await self._ask(b"\r\n", "log in") if reply.code == 334 else reply
        reply = await self._ask(b"AUTH LOGIN\r\n", "log in")
        for answer in (user, secret):
            if reply.code == 334:
                reply = await self._ask(base64.b64encode(answer.encode()) + b"\r\n", "log in")
        return reply

    async def noop(self) -> Reply:
        return await self._ask(b"NOOP\r\n", "NOOP")

    async def quit(self) -> None:
        """Say goodbye, without waiting long, and close."""
        if self._connection is not None:
            with suppress(RouterError, TimeoutError, OSError):
                async with asyncio.timeout(2.0):
                    await self._ask(b"QUIT\r\n", "QUIT")
        await self.close()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    # -- one message

    async def transact(
        self, content: Content, envelope: Envelope, utf8: bool, handing_over: Callable[[], Awaitable[None]]
    ) -> tuple[Reply | None, list[Reply]]:
        """One message. Returns the reply to all of it (None when it did not come to that) and one per recipient.

        Raises Permanent when the server cannot take this message, Transient or NeedsOperator when nothing was handed
        over, `Lost` when nobody knows.
        """
        self._check(content, utf8)
        mail, *recipients = self._commands(content, envelope, utf8)
        replies: list[Reply] = []
        together = "PIPELINING" in self.extensions
        sender = await self._begin(mail, recipients, together, replies)
        if not sender.ok:
            return None, [sender] * len(recipients)
        go = await self._reply("DATA", 60.0) if together and len(recipients) <= PIPELINED else await self._data()
        for reply in replies:
            self._check_login(reply, "RCPT")
        if not any(reply.ok for reply in replies):
            await self._abandon(go)
            return None, replies
        if go.code != 354:
            self._check_login(go, "DATA")
            if go.ok:
                raise await self._broken("the answer does not fit (DATA)", go.said)
            await self._reset()
            return go, replies
        await self._body(content)
        await self._hand_over(handing_over)
        return await self._verdict(), replies

    async def _begin(self, mail: bytes, recipients: Sequence[bytes], together: bool, replies: list[Reply]) -> Reply:
        """MAIL and RCPT, all in one go where the server pipelines; with few recipients DATA goes along."""
        if not together:
            sender = await self._ask(mail, "MAIL")
            self._check_login(sender, "MAIL")
            if not sender.ok:
                await self._reset()
                return sender
            for recipient in recipients:
                replies.append(await self._ask(recipient, "RCPT"))
            return sender
        all_at_once = len(recipients) <= PIPELINED
        self._write(mail + b"".join(recipients[:PIPELINED]) + (b"DATA\r\n" if all_at_once else b""))
        sender = await self._reply("MAIL")
        for start in range(0, len(recipients), PIPELINED):
            if start:
                self._write(b"".join(recipients[start : start + PIPELINED]))
            for _ in recipients[start : start + PIPELINED]:
                replies.append(await self._reply("RCPT"))
        if not sender.ok:
            if all_at_once:
                await self._abandon(await self._reply("DATA"))
            else:
                await self._reset()
            self._check_login(sender, "MAIL")
        return sender

    async def _data(self) -> Reply:
        return await self._ask(b"DATA\r\n", "DATA", 60.0)

    async def _abandon(self, go: Reply) -> None:
        """Nobody accepted. Where the server wants the content all the same, only hanging up is safe."""
        if go.code == 354:
            await self.close()
        else:
            await self._reset()

    async def _reset(self) -> None:
        if self._connection is None:
            return
        reply = await self._ask(b"RSET\r\n", "RSET")
        if not reply.ok:  # it takes our commands for something else
            await self.close()

    async def _body(self, content: Content) -> None:
        """All of the content, dot-stuffed, but for the final dot."""
        writer = self._wire.writer
        try:
            async with asyncio.timeout(self._settings.timeout + content.size / 20_000):
                for data in stuffed(content):
                    writer.write(data)
                    await writer.drain()
        except (OSError, TimeoutError) as error:
            raise await self._broken("the connection was lost while the message was sent", error) from error

    async def _hand_over(self, handing_over: Callable[[], Awaitable[None]]) -> None:
        if self._wire.spoken_to:  # what it says is no answer to a message that it does not have yet
            raise await self._broken("the server closed or spoke before it had the whole message")
        try:
            await handing_over()
        except BaseException:
            await self.close()  # without the dot the server throws away what it has
            raise
        try:
            self._write(b".\r\n")
        except RouterError as error:
            raise Lost(str(error)) from error
        hit("after-dot")

    async def _verdict(self) -> Reply:
        try:
            return await self._reply("the whole message", self._settings.data_timeout)
        except RouterError as error:
            raise Lost(str(error)) from error

    def _check(self, content: Content, utf8: bool) -> None:
        if 0 < self.largest < content.size:
            raise Permanent(
                f"the message has {content.size:,} bytes and the server takes at most {self.largest:,}",
                where=self.where,
                cure="send smaller attachments, or raise the limit of the mail server",
            )
        if utf8 and "SMTPUTF8" not in self.extensions:
            raise Permanent(
                "an address of this email has letters outside ASCII, and the server has no SMTPUTF8",
                where=self.where,
                cure="use another address of this recipient, or a mail server with SMTPUTF8",
            )

    def _commands(self, content: Content, envelope: Envelope, utf8: bool) -> Iterator[bytes]:
        dsn = self._settings.dsn and "DSN" in self.extensions
        mail = f"MAIL FROM:<{_path(envelope.sender)}>"
        if "SIZE" in self.extensions:
            mail += f" SIZE={content.size}"
        if "8BITMIME" in self.extensions:
            mail += " BODY=8BITMIME"
        if utf8:
            mail += " SMTPUTF8"
        if dsn and envelope.envelope_id:
            mail += f" RET=HDRS ENVID={xtext(envelope.envelope_id)}"
        yield mail.encode() + b"\r\n"
        for recipient in envelope.recipients:
            line = f"RCPT TO:<{_path(recipient)}>"
            if dsn and envelope.notify:
                line += f" NOTIFY={','.join(envelope.notify)}"
            yield line.encode() + b"\r\n"

    def _check_login(self, reply: Reply, doing: str) -> None:
        """A refusal that is about us and not about the message stops the profile."""
        if reply.code == 421 or reply.code in errors.LOGIN_CODES:
            raise errors.refused(reply, doing, self.where)

    # -- the wire

    def _write(self, data: bytes) -> None:
        wire = self._wire
        if wire.writer.is_closing() or wire.spoken_to:
            raise Transient("the server closed, or spoke when nothing was asked", where=self.where, scope="profile")
        wire.writer.write(data)

    async def _ask(self, command: bytes, doing: str, timeout: float = 0.0, *, keep_lines: bool = False) -> Reply:
        self._write(command)
        return await self._reply(doing, timeout, keep_lines=keep_lines)

    async def _reply(self, doing: str, timeout: float = 0.0, *, keep_lines: bool = False) -> Reply:
        """The next reply. A server that says 421 hangs up: the connection is closed here too."""
        try:
            async with asyncio.timeout(timeout or self._settings.timeout):
                code, lines = await self._lines()
        except TimeoutError as error:
            raise await self._broken(f"the server did not answer in time ({doing})") from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise await self._broken(f"the connection was lost or the answer is no SMTP ({doing})", error) from error
        if keep_lines:
            return Reply(code, "", "\n".join(lines))
        reply = errors.reply_of(code, lines)
        if code < 400 and (code >= 300 or code < 200) and (code, doing) not in _GO_ON:
            raise await self._broken(f"the answer does not fit ({doing})", reply.said)
        if code == 421 and doing != "the whole message":
            raise await self._given_up(errors.refused(reply, doing, self.where))
        return reply

    async def _lines(self) -> tuple[int, list[str]]:
        reader = self._wire.reader
        lines: list[str] = []
        while True:
            raw = await reader.readuntil(b"\n")
            line = raw.rstrip(b"\r\n").decode("utf-8", "replace")
            if len(raw) > MAX_LINE or len(lines) >= MAX_LINES:
                raise ValueError("the reply is too long")
            if not (line[:3].isdigit() and line[:3].isascii() and line[3:4] in ("", " ", "-")):
                raise ValueError(f"no SMTP reply: {line[:100]!r}")
            lines.append(line[4:])
            if line[3:4] != "-":
                return int(line[:3]), lines

    async def _broken(self, what: str, error: Exception | str = "") -> Transient:
        await self.close()
        said = error if isinstance(error, str) else said_by(error)
        return Transient(what, where=self.where, said=said, cure="see whether the mail server is well", scope="profile")

    async def _given_up(self, error: RouterError) -> RouterError:
        await self.close()
        return error


def stuffed(content: Content) -> Iterator[bytes]:
    """The content with CRLF line ends as it has them, dots at line starts doubled, ending in CRLF."""
    at_line_start = True
    last = b""
    with content.open() as stream:
        while data := stream.read(CHUNK):
            if at_line_start and data.startswith(b"."):
                yield b"."
            at_line_start = data.endswith(b"\n")
            last = (last + data)[-2:]
            yield data.replace(b"\n.", b"\n..")
    if last != b"\r\n":
        yield b"\r\n"


def xtext(value: str) -> str:
    """RFC 3461 section 4."""
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in value[:100])


def _path(address: str) -> str:
    """An address that can end no command early. Raises Permanent."""
    if any(c in address for c in "<>\r\n \0") or not address.isprintable():
        raise Permanent(f"the address {address!r} cannot be sent to", cure="correct the address")
    return address
