"""Installations to be killed: one per module, so that the modules run beside each other."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.dovecot import Dovecot
from tests.fixtures.postfix import Postfix
from tests.kill.plant import Plant
from tests.kill.shared import Shared


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A short name that everybody may enter: sockets lie in it, and the database of an ordinary user."""
    made = Path(tempfile.mkdtemp(prefix="kill-", dir="/tmp"))
    made.chmod(0o711)
    try:
        yield made
    finally:
        os.environ.get("KEEP") or shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def plant(directory: Path, dovecot: Dovecot, postfix: Postfix) -> Iterator[Plant]:
    """An installation with the embedded database. No router runs yet."""
    made = Plant(directory, dovecot, postfix)
    try:
        asyncio.run(made.prepare())
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def shared(directory: Path) -> Iterator[Shared]:
    """A PostgreSQL for several routers."""
    server = Shared(directory / "shared")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def several(directory: Path, shared: Shared, dovecot: Dovecot, postfix: Postfix) -> Iterator[Plant]:
    """An installation on a shared database. No router runs yet."""
    made = Plant(directory, dovecot, postfix, shared.dsn)
    try:
        asyncio.run(made.prepare())
        yield made
    finally:
        made.end()
