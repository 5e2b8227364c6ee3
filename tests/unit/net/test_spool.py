"""Messages on their way to disk: a full disk is told with its cure, whoever writes, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from email_router.model.errors import Transient
from email_router.net.spool import IN_MEMORY, FileContent, MemoryContent, Spool, sweep

LARGE = b"x" * (IN_MEMORY + 1)


def test_small_ones_stay_in_memory_and_large_ones_go_to_a_file(tmp_path: Path) -> None:
    small, large = Spool(tmp_path), Spool(tmp_path)
    small.write(LARGE[1:])
    large.write(LARGE[:10])
    large.write(LARGE[10:])
    kept, filed = small.finish(), large.finish()
    assert isinstance(kept, MemoryContent) and isinstance(filed, FileContent)
    assert (kept.size, filed.size) == (IN_MEMORY, IN_MEMORY + 1)
    for _ in range(2):
        with filed.open() as stream:
            assert stream.read() == LARGE
    filed.discard()
    filed.discard()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_router_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "spool-left").write_bytes(b"x")
    (tmp_path / "other").write_bytes(b"x")
    assert sweep(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


class FullFile:
    """A file that takes what is written, and finds no room when it is closed."""

    def __init__(self, handle: int) -> None:
        os.close(handle)

    def write(self, data: bytes) -> int:
        return len(data)

    close = full


@pytest.mark.parametrize("where", ["open", "write", "close"])
def test_a_full_disk_is_told_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "open":
        monkeypatch.setattr("tempfile.mkstemp", lambda **_: full())
    else:
        monkeypatch.setattr("os.fdopen", lambda handle, mode: FullFile(handle))
    if where == "write":
        monkeypatch.setattr(FullFile, "write", full)
    spool = Spool(tmp_path)
    with pytest.raises(Transient) as caught:
        spool.write(LARGE)
        spool.finish()
    error = caught.value
    assert (error.what, error.where) == ("a message could not be spooled to disk", str(tmp_path))
    assert (error.said, error.scope) == ("No space left on device", "router")
    assert "make room on the disk" in error.cure
    assert list(tmp_path.iterdir()) == []
