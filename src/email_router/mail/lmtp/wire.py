"""One peer's bytes: command lines, and message data up to its final dot (RFC 5321 section 4.5.2).

What may fail: the peer goes away (`PeerGone`), is silent for too long (TimeoutError), or sends what cannot be a line of
this protocol (`Malformed`), after which the next command cannot be found and only hanging up is safe.

Lines end with CR LF and with nothing else, and only CR LF `.` CR LF ends a message: a lone CR or LF around the dot is
part of the message. Two servers that disagree about this let a second message be smuggled in inside the first.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress

READ = 64 * 1024
MAX_LINE = 4096
"""Bytes of a command line; RFC 5321 asks for 512, and its extensions for some hundreds more."""
MAX_BODY_SECONDS = 3600.0
"""A message that drips in for longer than this is given up."""
_END = b"\r\n.\r\n"


class PeerGone(Exception):
    """The connection ended."""


class Malformed(Exception):
    """What came cannot be part of this protocol; the text says why."""


class Dots:
    """Takes the dots out of message data that comes in pieces of any size."""

    def __init__(self) -> None:
        self._tail = b"\r\n"
        """The end of what came, as far as it may be the beginning of the end; before the first line, its line end."""
        self._first = True

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """The message's next bytes, and what came behind its final dot: None while that is still to come."""
        data = self._tail + data
        end = data.find(_END)
        if end >= 0:
            return self._plain(data[: end + 2]), data[end + len(_END) :]
        kept = next(n for n in range(len(_END) - 1, -1, -1) if data.endswith(_END[:n]))
        self._tail = data[len(data) - kept :]
        return self._plain(data[: len(data) - kept]), None

    def _plain(self, data: bytes) -> bytes:
        data = data.replace(b"\r\n.", b"\r\n")
        if self._first and data:
            self._first = False
            return data[2:]
        return data


class Wire:
    """A connection to one peer. One reader at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout = timeout
        self._buffer = bytearray()
        self.tls = False

    async def line(self) -> bytes:
        """The next line without its CR LF. Raises PeerGone, Malformed, TimeoutError."""
        seen = 0
        async with asyncio.timeout(self._timeout):
            while (end := self._buffer.find(b"\n", seen)) < 0 and len(self._buffer) <= MAX_LINE:
                seen = len(self._buffer)
                await self._more()
        if not 0 <= end <= MAX_LINE:
            raise Malformed("line too long")
        if not self._buffer.endswith(b"\r", 0, end):
            raise Malformed("lines end with CR LF")
        line = bytes(self._buffer[: end - 1])
        del self._buffer[: end + 1]
        return line

    async def message(self, take: Callable[[bytes], None]) -> None:
        """Give the message's bytes to `take`, piece by piece, up to its final dot. Raises what `line` raises."""
        dots = Dots()
        async with asyncio.timeout(MAX_BODY_SECONDS):
            while True:
                if not self._buffer:
                    async with asyncio.timeout(self._timeout):
                        await self._more()
                data, rest = dots.feed(bytes(self._buffer))
                self._buffer = bytearray(rest or b"")
                take(data)
                if rest is not None:
                    return

    async def say(self, *lines: str) -> None:
        """Send an answer of these lines. Raises PeerGone, TimeoutError (nobody takes it)."""
        self._writer.write("".join(f"{line}\r\n" for line in lines).encode())
        async with asyncio.timeout(self._timeout):
            try:
                await self._writer.drain()
            except OSError as error:
                raise PeerGone from error

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """TLS from here on. Raises PeerGone when none is agreed on, Malformed for what came in clear behind STARTTLS.

        Such words could be anybody's (CVE-2011-0411).
        """
        if self._buffer or self._reader._buffer:  # type: ignore[attr-defined]
            raise Malformed("data in clear between STARTTLS and TLS")
        try:
            await self._writer.start_tls(context, ssl_handshake_timeout=self._timeout)
        except OSError as error:  # also a handshake that fails: the peer knows why
            raise PeerGone from error
        self.tls = True

    async def bye(self, *lines: str) -> None:
        """Say these last words and hang up, without waiting long for a peer that does not listen. Never raises.

        What the peer still sends is read and forgotten: closing over it would take our words back (RFC 1122, 4.2.2.13).
        """
        with suppress(OSError, PeerGone):  # OSError holds time-outs and TLS, too
            async with asyncio.timeout(2.0):
                if lines:
                    await self.say(*lines)
                    if self._writer.can_write_eof():
                        self._writer.write_eof()
                        while await self._reader.read(READ):
                            pass
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), 2.0)
        except OSError:  # it does not take what we said
            self._writer.transport.abort()

    async def _more(self) -> None:
        try:
            data = await self._reader.read(READ)
        except OSError as error:
            raise PeerGone from error
        if not data:
            raise PeerGone
        self._buffer += data
