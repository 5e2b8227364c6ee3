"""A PostgreSQL that several routers share, as an administrator would run one: it may be killed and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from email_router.store.embedded import EmbeddedPostgres


class Shared:
    """A server on `directory`. It ends with the test process."""

    def __init__(self, directory: Path) -> None:
        # What a server has by default: no limit to a transaction that is idle.
        self._postgres = EmbeddedPostgres(directory, idle_in_transaction_session_timeout="0")
        self._loop = asyncio.new_event_loop()

    @property
    def dsn(self) -> str:
        return self._postgres.dsn

    def start(self) -> None:
        self._loop.run_until_complete(self._postgres.start())

    def kill(self) -> None:
        os.kill(self._postgres.pid, signal.SIGKILL)
        self._loop.run_until_complete(self._postgres.wait())

    def stop(self) -> None:
        self._loop.run_until_complete(self._postgres.stop())
        self._loop.close()
