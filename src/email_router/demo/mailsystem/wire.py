"""One connection of a line protocol, with TLS that begins in the middle of it.

What may fail: the peer goes away (`PeerGone`), or sends what no line protocol allows (`Malformed`): a line that is too
long, a line that ends in a bare line feed, data in clear behind its own STARTTLS. Both end the connection; a message
that was not completely received is not delivered.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

MAX_LINE = 64 * 1024
"""Bytes of one command line: sets of many UIDs are long."""
READ_AHEAD = 1024 * 1024
"""Bytes a peer may send before anybody wants them."""


class PeerGone(Exception):
    """The connection ended."""


class Malformed(Exception):
    """What came cannot be part of this protocol; the text says why."""


class Wire(asyncio.Protocol):
    """One connection. `serve` runs as a task for as long as it lives; one reader at a time."""

    def __init__(self, serve: Callable[[Wire], Awaitable[None]], started: Callable[[asyncio.Task[None]], None]) -> None:
        self._serve = serve
        self._started = started
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._ended = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._blocked = False
        self._waiting = False
        self.tls = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._started(asyncio.get_running_loop().create_task(self._run()))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._reader is None and len(self._buffer) > READ_AHEAD and not self._waiting:
            self._waiting = True
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        self._ended = True
        _wake(self._reader)
        return not self.tls  # in clear, the rest of what the peer asked for is still answered

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._blocked = False
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        _wake(self._writer)

    async def _run(self) -> None:
        try:
            await self._serve(self)
        except (PeerGone, OSError):
            pass  # also a failed TLS handshake: the peer knows why
        finally:
            self._transport.close()

    # -- reading

    async def line(self, limit: int = MAX_LINE) -> bytes:
        """The next line without its CRLF. Raises PeerGone, Malformed."""
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            if len(self._buffer) > limit:
                raise Malformed("line too long")
            seen = len(self._buffer)
            await self._more()
        if end > limit:
            raise Malformed("line too long")
        if end == 0 or self._buffer[end - 1] != 0x0D:
            raise Malformed("bare line feed")
        line = bytes(self._buffer[: end - 1])
        del self._buffer[: end + 1]
        return line

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes. Raises PeerGone."""
        while len(self._buffer) < size:
            await self._more()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def until_dot(self, limit: int) -> bytes:
        """Everything up to a line with a single dot (RFC 5321 section 4.5.2), dots removed. Raises PeerGone, Malformed.

        Only CRLF, dot, CRLF ends it: other line ends around the dot would let a second message be smuggled in.
        """
        if await self._begins(b".\r\n"):
            del self._buffer[:3]
            return b""
        seen = 0
        while (end := self._buffer.find(b"\r\n.\r\n", seen)) < 0:
            if len(self._buffer) > limit:
                raise Malformed("message too large")
            seen = max(0, len(self._buffer) - 4)
            await self._more()
        data = b"\r\n" + self._buffer[: end + 2]
        del self._buffer[: end + 5]
        return bytes(data.replace(b"\r\n.", b"\r\n")[2:])

    async def _begins(self, start: bytes) -> bool:
        while len(self._buffer) < len(start) and start.startswith(self._buffer):
            await self._more()
        return self._buffer.startswith(start)

    async def _more(self) -> None:
        if self._ended:
            raise PeerGone
        if self._waiting:
            self._waiting = False
            self._transport.resume_reading()
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    # -- writing

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the peer has taken most of what was written. Raises PeerGone."""
        while self._blocked:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        if self._transport.is_closing():
            raise PeerGone

    async def upgrade(self, context: ssl.SSLContext) -> None:
        """TLS from here on, after the peer was told to begin. Raises OSError when the handshake fails, Malformed."""
        if self._buffer:
            raise Malformed("data in clear between STARTTLS and TLS")
        loop = asyncio.get_running_loop()
        upgraded = await loop.start_tls(self._transport, self, context, server_side=True, ssl_handshake_timeout=30)
        if upgraded is None:
            raise PeerGone
        self._transport = upgraded
        self.tls = True

    def abort(self) -> None:
        with suppress(AttributeError):  # of a connection in TLS that is closed already, before Python 3.11.3
            self._transport.abort()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
