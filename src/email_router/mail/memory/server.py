"""What the mailboxes of a memory server hold, and how it may be told to fail."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime

from email_router.model.outgoing import Envelope


@dataclass(slots=True)
class Stored:
    """A message in a folder."""

    uid: int
    raw: bytes
    received: datetime
    seen: bool = False


@dataclass(slots=True)
class Server:
    """Folders by (address, folder), what was sent, and `fail`: raised by the next call of that name."""

    folders: dict[tuple[str, str], list[Stored]] = field(default_factory=dict)
    sent: list[tuple[Envelope, bytes]] = field(default_factory=list)
    fail: dict[str, list[Exception]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _uids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def deliver(self, address: str, raw: bytes, received: datetime | None = None, folder: str = "INBOX") -> int:
        """Put a message into a folder; returns its uid."""
        stored = Stored(next(self._uids), raw, received or datetime.now(UTC))
        self.folders.setdefault((address, folder), []).append(stored)
        self.changed.set()
        return stored.uid

    def folder(self, address: str, name: str = "INBOX") -> list[Stored]:
        return self.folders.setdefault((address, name), [])

    def trip(self, call: str) -> None:
        """Raise what a test has put up for this call."""
        waiting = self.fail.get(call)
        if waiting:
            raise waiting.pop(0)


_servers: dict[str, Server] = {}


def server(name: str) -> Server:
    """The server of that name, made when it is first asked for."""
    return _servers.setdefault(name, Server())
