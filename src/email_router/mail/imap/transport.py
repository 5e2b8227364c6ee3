"""Commands and answers of one IMAP connection: tags, literals, pipelining, deadlines.

What may fail: the peer closes, falls silent, trickles, floods, or answers no IMAP. Each read has `timeout` seconds,
each command a hard deadline that grows with the bytes expected, each line, literal and answer a size. All of these
raise Transient and leave the connection unusable (`usable` is false); the caller opens a new one. A command that was
cancelled half-way leaves it unusable too. Large literals go to a spool as they come.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from email_router.mail.imap.answers import Part, Status, status
from email_router.model.errors import Transient, said_by
from email_router.model.message import Content
from email_router.net.connection import Connection

READ_SIZE = 256 * 1024
MAX_LINE = 16 * 1024 * 1024
"""Bytes of one line: a SEARCH answer with a million UIDs has 8 MB."""
MAX_STRING = 1024 * 1024
"""Bytes of a literal that is no message."""
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of one command's answer beyond the messages expected."""
MINIMUM_RATE = 20_000
"""Bytes per second below which a transfer is given up."""
_BYE_GRACE = 5.0

_LITERAL = re.compile(rb"\{(\d{1,19})\+?\}$")
_NO_LITERAL = re.compile(rb"(?:\+|[^ ]+ (?:OK|NO|BAD|BYE|PREAUTH)\b)", re.IGNORECASE)

Spools = Callable[[], Any]
"""Makes a `net.spool.Spool`."""


@dataclass(frozen=True, slots=True)
class Literal:
    """An argument sent as a literal because it cannot be quoted."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """An untagged response without its `* `."""

    parts: tuple[Part, ...]

    @property
    def text(self) -> bytes:
        """The text up to the first literal."""
        first = self.parts[0]
        return first if isinstance(first, bytes) else b""


def string(value: str) -> bytes | Literal:
    """A user's text as an argument. Quoting and literals are the only ways in: nothing can end the command early."""
    data = value.encode()
    if all(0x20 <= byte < 0x7F for byte in data) and len(data) < 1000:
        return b'"' + data.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return Literal(data)


class Transport:
    """One connection. One task at a time; several commands may be under way together (`run`)."""

    def __init__(self, connection: Connection, timeout: float, where: str, maximum: int) -> None:
        self._connection = connection
        self._timeout = timeout
        self._where = where
        self._maximum = maximum
        self._buffer = bytearray()
        self._at = 0
        self._tag = 0
        self._outstanding: set[bytes] = set()
        self._deadline = 0.0
        self._room = 0
        self._busy = False
        self._bye: Status | None = None
        self.literal_plus = False
        self.on_untagged: Callable[[Response], None] = lambda response: None
        """Called for each untagged response, in order."""

    @property
    def usable(self) -> bool:
        return not self._busy and self._bye is None

    @property
    def bye(self) -> Status | None:
        """The server's farewell, once it said one."""
        return self._bye

    @property
    def encryption(self) -> str:
        """TLS version and cipher, or "" in clear."""
        cipher = self._connection.writer.get_extra_info("cipher")
        return f"{cipher[1]} ({cipher[0]})" if cipher else ""

    async def greeting(self) -> Status:
        """The first line. Raises Transient when it is no IMAP greeting."""
        self._begin()
        text = await self._line()
        found = status(text[2:]) if text.startswith(b"* ") else None
        if found is None or found.word in ("NO", "BAD"):
            raise self._broken(
                "this is not an IMAP server", _shown(text), cure="correct the host, the port or the TLS mode"
            )
        self._bye = found if found.word == "BYE" else None
        self._busy = False
        return found

    async def run(
        self,
        *commands: Sequence[bytes | Literal],
        expect: int = 0,
        spools: Spools | None = None,
        replies: Iterable[bytes] = (),
    ) -> list[Status]:
        """Send commands in one go and read until each is answered; their final statuses, in order.

        `expect`: bytes of messages that will come. `spools`: where the literals of BODY[] go. `replies`: what to answer
        to continuation requests of the server, in turn; an empty line afterwards.
        """
        self._begin(expect)
        answered: dict[bytes, Status] = {}
        tags = [await self._send(command, answered) for command in commands]
        await self._flush()
        waiting = iter(replies)
        while len(answered) < len(tags):
            await self._read(answered, spools, lambda: next(waiting, b""))
        self._busy = False
        return [answered[tag] for tag in tags]

    async def idle(self, within: float, news: Callable[[], bool], started: Callable[[asyncio.Timeout], None]) -> Status:
        """IDLE (RFC 2177) until `news()` or for `within` seconds; then DONE. The final status of the command.

        `started` receives the timer, so that another task may end the wait early.
        """
        self._begin()
        answered: dict[bytes, Status] = {}
        agreed: list[bool] = []
        tag = await self._send((b"IDLE",), answered)
        await self._flush()
        while not answered and not agreed:
            await self._read(answered, None, lambda: agreed.append(True))
        if not answered:
            self._begin(patience=within)
            with suppress(TimeoutError):
                async with asyncio.timeout(within) as timer:
                    started(timer)
                    while not news() and not answered:
                        await self._read(answered, None, lambda: None)
        if not answered:
            self._begin()
            self._connection.writer.write(b"DONE\r\n")
            await self._flush()
        while not answered:
            await self._read(answered, None, lambda: None)
        self._busy = False
        return answered[tag]

    async def start_tls(self) -> None:
        """TLS over this connection, after the server agreed.

        What the server sent in clear behind its agreement could come from anybody: it ends the connection.
        """
        self._busy = True
        if self._at < len(self._buffer):
            raise self._broken("the server sent data between STARTTLS and TLS; somebody may be tampering")
        await self._connection.start_tls()
        self._busy = False

    async def close(self) -> None:
        self._busy = True
        with suppress(OSError):
            await self._connection.close()

    # -- writing

    def _begin(self, expect: int = 0, patience: float = 0.0) -> None:
        self._busy = True
        self._room = MAX_ANSWER + 4 * expect
        seconds = self._timeout + expect / MINIMUM_RATE + patience
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._patience = self._timeout + patience

    async def _send(self, command: Sequence[bytes | Literal], answered: dict[bytes, Status]) -> bytes:
        self._tag += 1
        tag = b"R%d" % self._tag
        self._outstanding.add(tag)
        line = tag
        for argument in command:
            if isinstance(argument, bytes):
                line += b" " + argument
                continue
            plus = b"+" if self.literal_plus else b""
            self._connection.writer.write(line + b" {%d%b}\r\n" % (len(argument.data), plus))
            if not self.literal_plus and not await self._may_go_on(tag, answered):
                return tag
            line = argument.data
        self._connection.writer.write(line + b"\r\n")
        return tag

    async def _may_go_on(self, tag: bytes, answered: dict[bytes, Status]) -> bool:
        """Wait for the `+` before a literal; false when the command was refused instead."""
        await self._flush()
        agreed: list[bool] = []
        while not agreed and tag not in answered:
            await self._read(answered, None, lambda: agreed.append(True))
        return bool(agreed)

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._connection.writer.drain()
        except TimeoutError:
            raise self._broken(f"the server took nothing for {self._timeout:g} seconds") from None
        except OSError as error:
            raise self._broken("the connection was lost", said_by(error)) from error

    # -- reading

    async def _read(
        self, answered: dict[bytes, Status], spools: Spools | None, on_continue: Callable[[], bytes | None]
    ) -> None:
        """One response: an untagged one is handed on, a tagged one noted, a continuation request answered."""
        line = await self._line()
        if line.startswith(b"* "):
            response = await self._response(line[2:], spools)
            found = status(response.text)
            if found is not None and found.word == "BYE":
                self._bye = found
                self._deadline = min(self._deadline, asyncio.get_running_loop().time() + _BYE_GRACE)
            self.on_untagged(response)
        elif line.startswith(b"+"):
            reply = on_continue()
            if reply is not None:
                self._connection.writer.write(reply + b"\r\n")
                await self._flush()
        else:
            tag, _, text = line.partition(b" ")
            found = status(text)
            if found is None or tag not in self._outstanding:
                raise self._broken("the server's answer is no IMAP", _shown(line))
            self._outstanding.discard(tag)
            answered[tag] = found

    async def _response(self, line: bytes, spools: Spools | None) -> Response:
        parts: list[Part] = []
        while True:
            match = _LITERAL.search(line) if line.endswith(b"}") else None
            if match is None or (not parts and _NO_LITERAL.match(b"* " + line)):
                parts.append(line)
                return Response(tuple(parts))
            before = line[: match.start()]
            parts.append(before)
            size = int(match[1])
            if spools is not None and before.rstrip().upper().endswith(b"BODY[]"):
                parts.append(await self._message(size, spools))
            else:
                parts.append(await self._string(size))
            line = await self._line()

    async def _line(self) -> bytes:
        start = self._at
        while True:
            end = self._buffer.find(b"\n", start)
            if end >= 0:
                line = bytes(self._buffer[self._at : end])
                self._at = end + 1
                return line[:-1] if line.endswith(b"\r") else line
            seen = len(self._buffer) - self._at
            if seen > MAX_LINE:
                raise self._broken("the server sent a line without end")
            await self._fill()
            start = self._at + seen

    async def _string(self, size: int) -> bytes:
        if size > MAX_STRING:
            raise self._broken(f"the server announced {size} bytes where a few were expected")
        while len(self._buffer) - self._at < size:
            await self._fill()
        return self._take(size)

    async def _message(self, size: int, spools: Spools) -> Part:
        """A literal into a spool, never more of it in memory than one read."""
        if size > self._maximum:
            raise self._broken(f"the server announced a message of {size} bytes, more than the {self._maximum} allowed")
        spool = spools()
        try:
            left = size
            while left:
                if self._at == len(self._buffer):
                    await self._fill()
                piece = self._take(min(left, len(self._buffer) - self._at))
                spool.write(piece)
                left -= len(piece)
            content: Part = spool.finish()
        except BaseException:
            spool.abandon()
            raise
        return content

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[self._at : self._at + size])
        self._at += size
        return data

    async def _fill(self) -> None:
        """More bytes into the buffer; what was used goes."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        left = min(self._patience, self._deadline - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(max(left, 0.0)):
                data = await self._connection.reader.read(READ_SIZE)
        except TimeoutError:
            raise self._broken("the server did not answer in time") from None
        except OSError as error:
            raise self._broken("the connection was lost", said_by(error)) from error
        if not data:
            raise self._broken("the server closed the connection")
        self._room -= len(data)
        if self._room < 0:
            raise self._broken("the server sent far more than was asked for")
        self._buffer += data

    def _broken(self, what: str, said: str = "", cure: str = "") -> Transient:
        self._busy = True
        said = said or (self._bye.said if self._bye else "")
        return Transient(what, where=self._where, said=said, cure=cure, scope="mailbox")


def spooled(data: bytes, spools: Spools) -> Content:
    """A message that is in memory already, through the spool all the same: callers get one kind of content."""
    spool = spools()
    spool.write(data)
    content: Content = spool.finish()
    return content


def _shown(line: bytes) -> str:
    return line[:200].decode("utf-8", "replace")


def encoded(data: bytes) -> bytes:
    """Base64 as SASL exchanges it; an empty initial response is `=` (RFC 4959)."""
    return base64.b64encode(data) or b"="
