"""Whose the embedded database's directory is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from email_router.model.errors import NeedsOperator
from email_router.store.embedded import EmbeddedPostgres


async def test_root_starts_nothing_on_the_directory_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    if os.geteuid() == 0:
        os.chown(directory, 65534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(NeedsOperator) as told:
        await EmbeddedPostgres(directory).start()
    assert "as root nothing is started on it" in told.value.what
    assert told.value.cure.startswith("run it as that user: sudo -u ")
    assert list(directory.iterdir()) == []
