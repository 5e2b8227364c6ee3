"""Messages on their way: small ones in memory, large ones in a file that goes with its last handle.

What may fail: our own disk. That is Transient and says so; it is never the fault of the message, its server or its CRM.
"""

from __future__ import annotations

import io
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from email_router.model.errors import Transient

IN_MEMORY = 1024 * 1024
"""Bytes up to which a message stays in memory."""


class MemoryContent:
    """`model.message.Content` in memory."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def open(self) -> BinaryIO:
        return io.BytesIO(self._data)

    def discard(self) -> None:
        self._data = b""


class FileContent:
    """`model.message.Content` in a spool file that goes when the last handle on it goes."""

    __slots__ = ("_path", "_size")

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    @property
    def path(self) -> Path:
        return self._path

    def open(self) -> BinaryIO:
        return self._path.open("rb")

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)

    def __del__(self) -> None:
        self.discard()


class Spool:
    """Collects one message: memory first, a file in `directory` once it grows above 1 MB."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._buffer = io.BytesIO()
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Raises Transient when the disk does not take it; nothing of the message is left there then."""
        try:
            self._put(data)
        except OSError as error:
            self.abandon()
            raise _failed(error, self._directory) from error

    def _put(self, data: bytes | memoryview) -> None:
        self._size += len(data)
        if self._file is None and self._size > IN_MEMORY:
            handle, name = tempfile.mkstemp(prefix="spool-", dir=self._directory)
            self._path = Path(name)
            self._file = os.fdopen(handle, "wb")
            self._file.write(self._buffer.getbuffer())
            self._buffer = io.BytesIO()
        (self._file or self._buffer).write(data)

    def finish(self) -> MemoryContent | FileContent:
        if self._file is None or self._path is None:
            return MemoryContent(self._buffer.getvalue())
        try:
            self._file.close()
        except OSError as error:
            self.abandon()
            raise _failed(error, self._directory) from error
        return FileContent(self._path, self._size)

    def abandon(self) -> None:
        """Forget what was written (the transfer broke off)."""
        if self._file is not None and self._path is not None:
            with suppress(OSError):  # what could not be written is not wanted any more
                self._file.close()
            self._path.unlink(missing_ok=True)
        self._buffer = io.BytesIO()


def _failed(error: OSError, directory: Path) -> Transient:
    return Transient(
        "a message could not be spooled to disk",
        where=str(error.filename or directory),
        said=error.strerror or str(error),
        cure="make room on the disk of the router, or let it write to its spool directory",
        scope="router",
    )


def sweep(directory: Path) -> int:
    """Remove spool files that a killed router left behind; returns how many. Only at start, before any mailbox."""
    left = list(directory.glob("spool-*"))
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)
