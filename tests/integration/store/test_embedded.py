"""The embedded PostgreSQL: what a kill leaves behind, two owners, other people's directories, wrong versions."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from email_router.model.errors import NeedsOperator
from email_router.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.database

LIVING = """
import asyncio, sys
from pathlib import Path
from email_router.store.embedded import EmbeddedPostgres
async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""

ONCE = """
import asyncio, sys
from pathlib import Path
from email_router.store.embedded import EmbeddedPostgres
async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]))
    await server.start()
    print(server.pid > 0)
    await server.stop()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A data directory that was made, used and stopped; each test has a copy."""
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    directory.chmod(0o711)

    async def make() -> None:
        server = EmbeddedPostgres(directory / "template")
        await server.start()
        query(server, "CREATE TABLE kept AS SELECT 1 AS n")
        await server.stop()

    asyncio.run(make())
    yield directory / "template"
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def data(template: Path) -> Iterator[Path]:
    copy = template.with_name(f"copy-{os.urandom(3).hex()}")
    subprocess.run(["cp", "-a", str(template), str(copy)], check=True)
    yield copy
    shutil.rmtree(copy, ignore_errors=True)


def query(server: EmbeddedPostgres, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.dsn, autocommit=True) as db:
        done = db.execute(statement.encode())
        return done.fetchall() if done.description else []


def rows(server: EmbeddedPostgres) -> list[tuple[object, ...]]:
    return query(server, "SELECT n FROM kept ORDER BY n")


async def test_a_server_that_was_killed_is_started_again_with_every_row(data: Path) -> None:
    server = EmbeddedPostgres(data)
    await server.start()
    query(server, "INSERT INTO kept SELECT generate_series(2, 1000)")
    os.kill(server.pid, signal.SIGKILL)
    assert await server.wait() == -signal.SIGKILL
    assert server.pid == 0
    await server.start()
    assert len(rows(server)) == 1000
    await server.stop()


async def test_a_killed_router_takes_its_server_along_and_the_next_one_has_every_row(data: Path) -> None:
    router = await asyncio.create_subprocess_exec(sys.executable, "-c", LIVING, str(data), stdout=subprocess.PIPE)
    assert router.stdout is not None
    pid = int(await router.stdout.readline())
    server = EmbeddedPostgres(data)
    assert server.in_use()
    query(server, "INSERT INTO kept VALUES (2)")
    router.kill()
    await router.wait()
    assert not server.in_use()
    await server.start()  # the old server may be just ending
    assert server.pid != pid
    assert rows(server) == [(1,), (2,)]
    await server.stop()


@pytest.mark.parametrize("pid", [os.getpid(), 1, 4_000_000, 0], ids=["ours", "init", "nobody's", "none"])
async def test_a_lock_file_whose_number_is_another_programs_now(data: Path, pid: int) -> None:
    (data / "data" / "postmaster.pid").write_text(f"{pid}\n{data / 'data'}\n1700000000\n5432\n{data / 'run'}\n\n")
    server = EmbeddedPostgres(data)
    await server.start()
    assert rows(server) == [(1,)]
    await server.stop()


async def test_a_lock_file_of_a_server_that_really_runs_is_respected(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("email_router.store.embedded.LEAVING", 0.3)
    first = EmbeddedPostgres(data)
    await first.start()
    assert first._lock is not None
    first._lock.close()  # as if its router were gone
    with pytest.raises(NeedsOperator, match=rf"pid {first.pid}\) is still running.*kill -INT {first.pid}"):
        await EmbeddedPostgres(data).start()
    assert rows(first) == [(1,)]
    await first.stop()


async def test_two_routers_on_one_directory(data: Path) -> None:
    first = EmbeddedPostgres(data)
    await first.start()
    with pytest.raises(NeedsOperator) as refused:
        await EmbeddedPostgres(data).start()
    assert (
        refused.value.what
        == f"Another router is running on this data directory (pid {os.getpid()} on {os.uname().nodename})"
    )
    assert refused.value.where == str(data)
    assert "for several routers use one shared PostgreSQL" in refused.value.cure
    assert rows(first) == [(1,)]
    await first.stop()
    second = EmbeddedPostgres(data)
    await second.start()
    await second.stop()


async def test_a_database_of_another_major_version(data: Path) -> None:
    version = data / "data" / "PG_VERSION"
    made = version.read_text()
    version.write_text("14\n")
    with pytest.raises(
        NeedsOperator, match=r"made by PostgreSQL 14, and this program brings PostgreSQL \d+.*backup"
    ) as told:
        await EmbeddedPostgres(data).start()
    assert told.value.where == str(data / "data")
    version.write_text(made)
    server = EmbeddedPostgres(data)
    await server.start()
    assert rows(server) == [(1,)]
    await server.stop()


async def test_a_path_that_is_too_long_for_a_socket(data: Path) -> None:
    deep = data / ("d" * 60) / ("e" * 60)
    deep.parent.mkdir(mode=0o711)
    deep.parent.chmod(0o711)
    data.chmod(0o711)
    server = EmbeddedPostgres(deep)
    await server.start()
    assert server.dsn.partition("host=")[2].startswith("/tmp/email-router-")
    assert query(server, "SELECT 1") == [(1,)]
    await server.stop()


async def test_a_socket_directory_of_somebody_else_is_not_used(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = data / ("d" * 60) / ("e" * 60)
    deep.parent.mkdir(parents=True)
    server = EmbeddedPostgres(deep)
    taken = Path(server.dsn.partition("host=")[2])
    taken.symlink_to("/tmp")
    try:
        with pytest.raises(NeedsOperator, match="socket belongs to somebody else"):
            await server.start()
    finally:
        taken.unlink()


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NeedsOperator, match=r"The data directory cannot be written.*--data"):
        await EmbeddedPostgres(tmp_path / "file" / "data").start()


async def test_a_start_that_fails_tells_the_servers_own_words_and_lets_the_directory_go(data: Path) -> None:
    with pytest.raises(NeedsOperator, match=r"ended while it was starting.*no_such_setting.*postgres.log"):
        await EmbeddedPostgres(data, no_such_setting="1").start()
    server = EmbeddedPostgres(data)
    assert not server.in_use()
    await server.start()
    assert rows(server) == [(1,)]
    await server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_as_an_ordinary_user() -> None:
    directory = Path(tempfile.mkdtemp(prefix="pg-user-", dir="/tmp"))
    try:
        shutil.chown(directory, "nobody", "nogroup")
        program = [sys.executable, "-c", ONCE, str(directory / "data")]
        done = subprocess.run(
            ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", *program],
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": "/"},
        )
        if "Permission denied" in done.stderr and "True" not in done.stdout:
            pytest.skip("the ordinary user may not reach this Python")
        assert done.stdout == "True\n", done.stderr
        made = (directory / "data" / "data").stat()
        assert (made.st_uid, made.st_mode & 0o777) == (directory.stat().st_uid, 0o700)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
async def test_as_root_the_server_is_somebody_else_and_only_its_directory_is_his(data: Path) -> None:
    server = EmbeddedPostgres(data)
    await server.start()
    owner = Path(f"/proc/{server.pid}").stat().st_uid
    assert owner != 0
    assert (data / "data").stat().st_uid == owner
    assert data.stat().st_uid == 0
    assert (data / "postgres.log").stat().st_mode & 0o777 == 0o600
    await server.stop()
