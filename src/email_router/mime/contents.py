"""Content that lies in memory, is a slice of another content, or is joined from pieces; read in chunks.

What may fail: the content below is discarded or its spool file is gone. Then `open` (or the read that follows) raises
what the content below raises; nothing is changed by reading.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from email_router.mime import transfer
from email_router.model.message import Content

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 256 * 1024
"""Bytes read at a time."""


class BytesContent:
    """`model.message.Content` in memory."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data

    @property
    def size(self) -> int:
        return len(self._data or b"")

    def open(self) -> BinaryIO:
        if self._data is None:
            raise ValueError("this content was discarded")
        return io.BytesIO(self._data)

    def discard(self) -> None:
        self._data = None


class ChunkStream(io.RawIOBase):
    """A readable stream over an iterator of chunks; memory is one chunk."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        """Also closes the generator, and with it the stream it reads from."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
        super().close()


def stream(chunks: Iterable[bytes]) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(ChunkStream(iter(chunks)), CHUNK))


def slice_chunks(content: Content, start: int, end: int) -> Iterator[bytes]:
    """The bytes from `start` up to `end`, also from a stream that cannot seek."""
    while isinstance(content, SliceContent) and (found := content.plain(start, end)) is not None:
        # Parts of an attached message: each is read where it lies, not by reading all that lies before it.
        content, start, end = found
    with content.open() as source:
        if source.seekable():
            source.seek(start)
        else:
            left = start
            while left and (skipped := source.read(min(left, CHUNK))):
                left -= len(skipped)
        left = end - start
        while left > 0 and (chunk := source.read(min(left, CHUNK))):
            left -= len(chunk)
            yield chunk


class SliceContent:
    """A part of another content, decoded while it is read.

    It lives only as long as the content below: discarding that one ends this one too.
    """

    __slots__ = ("_below", "_encoding", "_end", "_size", "_start")

    def __init__(self, below: Content, start: int, end: int, encoding: str, size: int) -> None:
        self._below: Content | None = below
        self._start = start
        self._end = end
        self._encoding = encoding
        self._size = size

    @property
    def size(self) -> int:
        """Decoded bytes."""
        return self._size

    def open(self) -> BinaryIO:
        if self._below is None:
            raise ValueError("this content was discarded")
        return stream(transfer.decode_chunks(slice_chunks(self._below, self._start, self._end), self._encoding))

    def plain(self, start: int, end: int) -> tuple[Content, int, int] | None:
        """Where in the content below these bytes lie; None when they must be decoded."""
        if self._below is None or self._encoding:
            return None
        return self._below, self._start + start, min(self._start + end, self._end)

    def discard(self) -> None:
        """Lets go of the content below without discarding it: other parts may still be read from it."""
        self._below = None


class JoinedContent:
    """Bytes and base64-encoded contents one after the other; only one chunk is in memory at a time.

    The contents belong to the caller, who discards them.
    """

    __slots__ = ("_pieces", "_size")

    def __init__(self, pieces: Iterable[bytes | Content]) -> None:
        self._pieces: tuple[bytes | Content, ...] | None = tuple(pieces)
        self._size = sum(len(p) if isinstance(p, bytes) else transfer.base64_size(p.size) for p in self._pieces)

    @property
    def size(self) -> int:
        return self._size

    def open(self) -> BinaryIO:
        if self._pieces is None:
            raise ValueError("this content was discarded")
        return stream(chunk for piece in self._pieces for chunk in _encoded(piece))

    def discard(self) -> None:
        self._pieces = None


def _encoded(piece: bytes | Content) -> Iterator[bytes]:
    if isinstance(piece, bytes):
        yield piece
        return
    with piece.open() as source:
        yield from transfer.base64_lines(iter(lambda: source.read(CHUNK), b""))


def read_all(content: Content, limit: int = -1) -> bytes:
    """Everything, or the first `limit` bytes."""
    with content.open() as source:
        return source.read(limit)
