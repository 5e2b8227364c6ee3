"""Messages in a folder, in memory, with the numbers that IMAP and POP3 promise."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime

_BARE_LF = re.compile(rb"(?<!\r)\n")

SEEN = "\\Seen"
DELETED = "\\Deleted"


class StoredMessage:
    """One message. `raw` has CRLF line ends, `received` is the time of arrival (INTERNALDATE)."""

    __slots__ = ("expunged", "flags", "raw", "received", "uid")

    def __init__(self, uid: int, raw: bytes, received: datetime, flags: frozenset[str]) -> None:
        self.uid = uid
        self.raw = raw
        self.received = received
        self.flags = flags
        self.expunged = False

    @property
    def header(self) -> bytes:
        """The header with the empty line that ends it."""
        if self.raw.startswith(b"\r\n"):
            return b"\r\n"
        end = self.raw.find(b"\r\n\r\n")
        return self.raw if end < 0 else self.raw[: end + 4]

    @property
    def body(self) -> bytes:
        return self.raw[len(self.header) :]


class Folder:
    """UIDs only grow (RFC 3501 section 2.3.1.1). `version` grows with each change; watchers are told of each."""

    def __init__(self, name: str, uidvalidity: int) -> None:
        self.name = name
        self.uidvalidity = uidvalidity
        self.uid_next = 1
        self.first_recent = 1
        """Messages from this UID on were not yet announced to any session that may change the folder."""
        self.messages: list[StoredMessage] = []
        self.version = 0
        self.watchers: set[Callable[[], None]] = set()

    def add(self, raw: bytes, received: datetime, flags: Iterable[str] = ()) -> StoredMessage:
        message = StoredMessage(self.uid_next, _BARE_LF.sub(b"\r\n", raw), received, frozenset(flags))
        self.uid_next += 1
        self.messages.append(message)
        self._changed()
        return message

    def remove(self, messages: Iterable[StoredMessage]) -> None:
        """Take messages out; those that are gone already stay gone."""
        for message in messages:
            message.expunged = True
        self.messages = [message for message in self.messages if not message.expunged]
        self._changed()

    def set_flags(self, message: StoredMessage, flags: frozenset[str]) -> None:
        if flags != message.flags:
            message.flags = flags
            self._changed()

    def _changed(self) -> None:
        self.version += 1
        for watcher in tuple(self.watchers):
            watcher()
