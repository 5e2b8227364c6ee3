"""The memory connector keeps the contract that it is a template for."""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path

import pytest

from email_router.mail.memory import CONNECTOR, server
from email_router.mail.memory.settings import MemorySettings
from tests.contract.sources import SourceContract, SourceRig

_numbers = itertools.count(1)


class MemoryRig(SourceRig):
    connector = CONNECTOR
    can = frozenset({"seen", "move", "delete", "usage", "threshold"})
    folder = "INBOX"

    def __init__(self, spool_directory: Path) -> None:
        self.spool_directory = spool_directory
        self.settings = MemorySettings(server=f"contract-{next(_numbers)}")
        self.server = server(self.settings.server)

    def deliver(self, message: bytes, received: datetime | None = None) -> None:
        self.server.deliver(self.mailbox, message, received)

    def bodies(self, folder: str = "") -> list[bytes]:
        return [stored.raw for stored in self.server.folder(self.mailbox, folder or "INBOX")]

    def flags(self) -> list[frozenset[str]]:
        return [frozenset({"\\Seen"} if s.seen else ()) for s in self.server.folder(self.mailbox)]

    def remove(self, index: int) -> None:
        del self.server.folder(self.mailbox)[index]


@pytest.fixture
def rig(tmp_path: Path) -> MemoryRig:
    return MemoryRig(tmp_path)


class TestMemory(SourceContract):
    pass
