"""`email-router run` as a process of its own, watched through its database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from bench.installation import PASSWORD
from email_router.store.embedded import EmbeddedPostgres


class Running:
    """A router that runs on `directory`/data."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.pid = process.pid
        self._process = process
        self._dsn = EmbeddedPostgres(directory / "data").dsn

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._dsn, connect_timeout=5) as connection:
            return connection.execute(query).fetchall()

    def until(self, query: str, wanted: int, limit: float) -> None:
        """Wait until the one number that `query` asks for is `wanted` or more. Raises TimeoutError with the log."""
        deadline = time.monotonic() + limit
        found: Any = None
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(psycopg.Error):
                found = self.ask(query)[0][0]
                if found >= wanted:
                    return
            time.sleep(0.1)
        log = (self.directory / "router.log").read_text(errors="replace")[-3000:]
        raise TimeoutError(f"{query} is {found} and not {wanted} after {limit:g} s\n{log}")


@contextmanager
def running(directory: Path) -> Iterator[Running]:
    """Started here, ended by SIGTERM. Its settings must be published already."""
    environment = os.environ | {
        PASSWORD: "secret",
        "EMAIL_ROUTER_DATA": str(directory / "data"),
        "EMAIL_ROUTER_LISTEN": "",
        "EMAIL_ROUTER_LOG": "json",
    }
    with (directory / "router.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "email_router", "run"], env=environment, stdout=log, stderr=log
        )
    try:
        yield Running(directory, process)
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        if process.poll() is None:
            process.kill()
            process.wait()
