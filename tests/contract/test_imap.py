"""IMAP against a real Dovecot, and against servers that misbehave."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from email_router.mail.imap import CONNECTOR
from email_router.mail.imap.settings import ImapSettings
from email_router.model.settings import AuthMechanism, TlsMode
from tests.contract.sources import SourceContract, SourceRig
from tests.fixtures.dovecot import QUOTAS, Dovecot

_numbers = itertools.count(1)


class ImapRig(SourceRig):
    connector = CONNECTOR
    can = frozenset({"seen", "move", "delete", "usage", "threshold", "flags", "password", "network", "tls", "restart"})

    def __init__(self, dovecot: Dovecot, spool_directory: Path, user: str = "", folder: str = "") -> None:
        self.dovecot = dovecot
        self.username = user or f"imap{next(_numbers)}"
        self.mailbox = f"{self.username}@router.test"
        self.folder = folder
        self.spool_directory = spool_directory
        self.settings = ImapSettings(
            host="localhost", port=dovecot.ports.imap, tls=TlsMode.STARTTLS, ca_file=str(dovecot.ca_file), timeout=20
        )

    @property
    def _folder(self) -> str:
        return self.folder or "INBOX"

    def deliver(self, message: bytes, received: datetime | None = None) -> None:
        self.dovecot.deliver(self.username, message, self._folder, received)

    def bodies(self, folder: str = "") -> list[bytes]:
        return [stored.body for stored in self.dovecot.messages(self.username, folder or self._folder)]

    def flags(self) -> list[frozenset[str]]:
        return [stored.flags for stored in self.dovecot.messages(self.username, self._folder)]

    def remove(self, index: int) -> None:
        uid = self.dovecot.messages(self.username, self._folder)[index].uid
        self.dovecot.remove(self.username, [uid], self._folder)

    def restart(self) -> None:
        self.dovecot.restart()

    def untrusted(self) -> ImapSettings:
        return ImapSettings(host="localhost", port=self.dovecot.ports.imap, tls=TlsMode.STARTTLS)


@pytest.fixture
def rig(dovecot: Dovecot, tmp_path: Path) -> ImapRig:
    return ImapRig(dovecot, tmp_path)


@pytest.mark.servers
class TestImap(SourceContract):
    pass
