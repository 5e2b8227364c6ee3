"""POP3 (RFC 1939) with CAPA (RFC 2449), STLS (RFC 2595), AUTH PLAIN (RFC 5034) and response codes (RFC 3206).

What may fail: the client goes away before QUIT, which deletes nothing; or it breaks the protocol, which ends the
connection in the same way. A mailbox belongs to one session at a time; a second one is told `[IN-USE]`.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

from email_router.demo.mailsystem import sasl
from email_router.demo.mailsystem.accounts import Accounts, Mailbox
from email_router.demo.mailsystem.folder import StoredMessage
from email_router.demo.mailsystem.wire import Malformed, Wire

MAX_LINE = 255
"""Bytes of a command line (RFC 2449 section 4), AUTH's response apart."""
MAX_RESPONSE = 12288
_OFFERED = ("TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER")

Handler = Callable[[list[str]], Awaitable[bytes]]
"""Performs a command with its arguments; returns the whole answer."""


class Refused(Exception):
    """Answered with -ERR."""


class Session:
    """One connection. The messages are those that were there at login; deletions happen at QUIT."""

    def __init__(self, wire: Wire, accounts: Accounts, tls: ssl.SSLContext) -> None:
        self._wire = wire
        self._accounts = accounts
        self._tls = tls
        self._user = ""
        self._mailbox: Mailbox | None = None
        self._messages: list[StoredMessage] = []
        self._deleted: set[int] = set()
        self._over = False
        self._any_state: dict[str, Handler] = {"CAPA": self._capa, "QUIT": self._quit}
        self._authorization: dict[str, Handler] = {
            "STLS": self._stls,
            "USER": self._user_name,
            "PASS": self._password,
            "AUTH": self._auth,
        }
        self._transaction: dict[str, Handler] = {
            "STAT": self._stat,
            "LIST": self._list,
            "UIDL": self._uidl,
            "TOP": self._top,
            "RETR": self._retr,
            "DELE": self._dele,
            "RSET": self._rset,
            "NOOP": self._noop,
        }

    async def run(self) -> None:
        self._say("+OK Email Router demo POP3 server ready")
        try:
            while not self._over:
                await self._answer(await self._wire.line(MAX_LINE))
                await self._wire.drain()
        except Malformed as error:
            self._say(f"-ERR {error}")
        finally:
            self._unlock()

    def _say(self, line: str) -> None:
        self._wire.write(line.encode() + b"\r\n")

    async def _answer(self, line: bytes) -> None:
        try:
            handler, arguments = self._handler(line)
            self._wire.write(await handler(arguments))
        except Refused as error:
            self._say(f"-ERR {error}")
            return
        if handler == self._stls:
            await self._wire.upgrade(self._tls)

    def _handler(self, line: bytes) -> tuple[Handler, list[str]]:
        try:
            words = line.decode().split(" ")
        except UnicodeDecodeError:
            raise Refused("commands are UTF-8") from None
        name = words[0].upper()
        if name == "PASS":  # a password may hold spaces (RFC 1939 section 7)
            words = [name, " ".join(words[1:])]
        if handler := self._any_state.get(name):
            return handler, words[1:]
        here, elsewhere = self._authorization, self._transaction
        if self._mailbox:
            here, elsewhere = elsewhere, here
        if handler := here.get(name):
            return handler, words[1:]
        if name in elsewhere:
            raise Refused(f"{name} is not possible " + ("after login" if self._mailbox else "before login"))
        raise Refused("unknown command")

    # -- any state

    async def _capa(self, arguments: list[str]) -> bytes:
        _none(arguments)
        offered = list(_OFFERED)
        if not self._mailbox:
            offered += ["USER", "SASL PLAIN"] if self._wire.tls else ["STLS"]
        return _lines("what is offered", offered)

    async def _quit(self, arguments: list[str]) -> bytes:
        """The UPDATE state: only now what was marked is deleted (RFC 1939 section 6)."""
        _none(arguments)
        self._over = True
        if self._mailbox:
            going = [self._messages[number - 1] for number in self._deleted]
            if going:
                self._mailbox.inbox.remove(going)
            self._unlock()
        return _ok("good bye")

    def _unlock(self) -> None:
        if self._mailbox:
            self._mailbox.pop3_lock = False
        self._mailbox = None

    # -- authorization

    async def _stls(self, arguments: list[str]) -> bytes:
        _none(arguments)
        if self._wire.tls:
            raise Refused("TLS is on")
        return _ok("begin TLS")

    async def _user_name(self, arguments: list[str]) -> bytes:
        self._need_privacy()
        self._user = _one(arguments)
        return _ok("now the password")

    async def _password(self, arguments: list[str]) -> bytes:
        self._need_privacy()
        user, self._user = self._user, ""
        if not user:
            raise Refused("USER comes before PASS")
        return self._enter(self._accounts.login(user, _one(arguments)))

    async def _auth(self, arguments: list[str]) -> bytes:
        if not arguments or arguments[0].upper() != "PLAIN" or len(arguments) > 2:
            raise Refused("only PLAIN is offered")
        self._need_privacy()
        response = arguments[1].encode() if len(arguments) == 2 else await self._challenge()
        try:
            return self._enter(sasl.plain(self._accounts, response))
        except sasl.BadResponse as error:
            raise Refused(str(error)) from None

    async def _challenge(self) -> bytes:
        self._say("+ ")
        await self._wire.drain()
        return await self._wire.line(MAX_RESPONSE)

    def _need_privacy(self) -> None:
        if not self._wire.tls:
            raise Refused("no password in clear: STLS first")

    def _enter(self, mailbox: Mailbox | None) -> bytes:
        if mailbox is None:
            raise Refused("[AUTH] wrong name or password")
        if mailbox.pop3_lock:
            raise Refused("[IN-USE] another session has this mailbox open")
        mailbox.pop3_lock = True
        self._mailbox = mailbox
        self._messages = list(mailbox.inbox.messages)
        return _ok(f"{len(self._messages)} messages")

    # -- transaction

    def _left(self) -> list[tuple[int, StoredMessage]]:
        return [(n, message) for n, message in enumerate(self._messages, 1) if n not in self._deleted]

    def _message(self, number: str) -> tuple[int, StoredMessage]:
        position = _number(number)
        if not 1 <= position <= len(self._messages) or position in self._deleted:
            raise Refused("there is no such message")
        message = self._messages[position - 1]
        if message.expunged:
            raise Refused("[SYS/TEMP] the message was removed by another program")
        return position, message

    async def _stat(self, arguments: list[str]) -> bytes:
        _none(arguments)
        left = self._left()
        return _ok(f"{len(left)} {sum(len(message.raw) for _, message in left)}")

    async def _list(self, arguments: list[str]) -> bytes:
        return self._listed(arguments, lambda message: str(len(message.raw)))

    async def _uidl(self, arguments: list[str]) -> bytes:
        return self._listed(arguments, self._unique_id)

    def _unique_id(self, message: StoredMessage) -> str:
        assert self._mailbox
        return f"{self._mailbox.inbox.uidvalidity:08x}{message.uid:08x}"

    def _listed(self, arguments: list[str], told: Callable[[StoredMessage], str]) -> bytes:
        if arguments:
            number, message = self._message(_one(arguments))
            return _ok(f"{number} {told(message)}")
        lines = [f"{number} {told(message)}" for number, message in self._left()]
        return _lines(f"{len(lines)} messages", lines)

    async def _retr(self, arguments: list[str]) -> bytes:
        _, message = self._message(_one(arguments))
        return _dotted(message.raw)

    async def _top(self, arguments: list[str]) -> bytes:
        if len(arguments) != 2:
            raise Refused("TOP takes a message and a number of lines")
        _, message = self._message(arguments[0])
        count = _number(arguments[1])
        lines = message.body.split(b"\r\n", count)
        body = message.body if len(lines) <= count else b"".join(line + b"\r\n" for line in lines[:count])
        return _dotted(message.header + body)

    async def _dele(self, arguments: list[str]) -> bytes:
        number, _ = self._message(_one(arguments))
        self._deleted.add(number)
        return _ok("marked; QUIT deletes it")

    async def _rset(self, arguments: list[str]) -> bytes:
        _none(arguments)
        self._deleted.clear()
        return _ok("nothing is marked")

    async def _noop(self, arguments: list[str]) -> bytes:
        _none(arguments)
        return _ok("here")


def _none(arguments: list[str]) -> None:
    if arguments:
        raise Refused("this command takes no argument")


def _one(arguments: list[str]) -> str:
    if len(arguments) != 1 or not arguments[0]:
        raise Refused("this command takes one argument")
    return arguments[0]


def _ok(text: str) -> bytes:
    return f"+OK {text}\r\n".encode()


def _lines(text: str, lines: list[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in [f"+OK {text}", *lines, "."]).encode()


def _dotted(message: bytes) -> bytes:
    """A message with its dots doubled and the dot that ends it (RFC 1939 section 3)."""
    data = (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:]
    end = b".\r\n" if data.endswith(b"\r\n") else b"\r\n.\r\n"
    return b"+OK %d octets\r\n%b%b" % (len(message), data, end)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise Refused("a number was expected")
    return int(text)
