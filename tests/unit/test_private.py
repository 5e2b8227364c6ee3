"""What other users of the machine must not see or own: passwords on command lines, sockets, the database's log."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from email_router.model.errors import NeedsOperator
from email_router.net.postgres import open_engine
from email_router.store import backup, embedded
from email_router.store.embedded import EmbeddedPostgres

RECORDER = """#!/bin/sh
printf '%s\\n' "$@" > "$(dirname "$0")/arguments"
printf '%s' "$PGPASSWORD" > "$(dirname "$0")/password"
"""


async def test_the_password_of_the_database_is_on_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pg_dump"
    program.write_text(RECORDER)
    program.chmod(0o755)
    monkeypatch.setattr(backup, "wheel_binaries", lambda: tmp_path)
    dsn = "postgresql://router:hu%40sh@db.example:5433/mail?sslmode=require"
    await backup._run("pg_dump", "--format=custom", dsn=dsn, where="here")
    arguments = (tmp_path / "arguments").read_text()
    assert "hu" not in arguments
    for part in ("user=router", "host=db.example", "port=5433", "dbname=mail", "sslmode=require"):
        assert part in arguments
    assert (tmp_path / "password").read_text() == "hu@sh"


@pytest.mark.parametrize(
    "dsn", ["u:hush@h/db", "mysql://u:hush@h/db", "postgresql://u:hush@h:many/db", "", "host=h password=hush"]
)
def test_a_dsn_that_is_none_is_told_without_its_password(dsn: str) -> None:
    with pytest.raises(NeedsOperator) as caught:
        open_engine(dsn)
    assert "hush" not in str(caught.value)
    assert "postgresql://user@host/database" in caught.value.cure


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[tuple[EmbeddedPostgres, Path]]:
    """A data directory whose path is too long for sockets, and where its sockets lie instead."""
    directory = tmp_path / ("x" * 100)
    place = Path("/tmp") / f"email-router-{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}"
    yield EmbeddedPostgres(directory), place
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.exists():
        place.rmdir()


def test_a_link_that_lies_where_the_sockets_belong_is_not_followed(
    deep: tuple[EmbeddedPostgres, Path], tmp_path: Path
) -> None:
    """Anybody could have put it there: root would give the directory behind it to the database's user."""
    postgres, place = deep
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o755)
    place.symlink_to(precious)
    with pytest.raises(NeedsOperator, match="belongs to somebody else"):
        postgres._own_socket_directory()
    assert stat.S_IMODE(precious.stat().st_mode) == 0o755
    assert precious.stat().st_uid == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(deep: tuple[EmbeddedPostgres, Path]) -> None:
    postgres, place = deep
    place.mkdir()
    os.chown(place, 12345, 12345)
    with pytest.raises(NeedsOperator, match="belongs to somebody else"):
        postgres._own_socket_directory()


def test_the_socket_directory_is_ours_alone_and_may_be_there_already(deep: tuple[EmbeddedPostgres, Path]) -> None:
    postgres, place = deep
    for _ in range(2):
        postgres._own_socket_directory()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_the_log_of_the_database_is_for_its_owner(tmp_path: Path) -> None:
    """Also one that an earlier release made readable for all."""
    log = tmp_path / "postgres.log"
    log.write_text(json.dumps("old"))
    log.chmod(0o644)
    with embedded._private(log) as stream:
        stream.write(b"new")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert log.read_text() == '"old"new'
