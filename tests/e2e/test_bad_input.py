"""What goes wrong in real life: each time the program says what, where and the cure, and no mail is lost or doubled.

A router runs, something breaks, mail comes in meanwhile; the words are read where an administrator would read them
(`mailboxes`, the log, the command that fails). Then it is mended as the words say, and every message is filed once.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from email_router.cli.output import FAILED, NEEDS_OPERATOR, OK, TEMPORARY
from email_router.store.embedded import EmbeddedPostgres
from tests.fixtures.dovecot import Dovecot
from tests.fixtures.postfix import Postfix
from tests.kill.plant import LIMIT, Plant, Process

pytestmark = [pytest.mark.servers, pytest.mark.database]


class Installation(Plant):
    """A plant with an administrator in front of it."""

    def running(self) -> Process:
        found = super().running()
        self.until_serving(found)
        return found

    def command(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command of its own, as somebody types it. It never shows a traceback."""
        made = subprocess.run(
            [sys.executable, "-m", "email_router", *map(str, arguments)],
            env=os.environ | self.environment() | environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert "Traceback" not in made.stdout + made.stderr
        return made

    def environment(self) -> dict[str, str]:
        return {
            "EMAIL_ROUTER_DATA": str(self.directory / "data"),
            "EMAIL_ROUTER_DSN": self._shared,
            "MAILBOXES": self.dovecot.password,
        }

    def publish(self, settings: str) -> subprocess.CompletedProcess[str]:
        file = self.directory / "settings.toml"
        file.write_text(settings)
        return self.command("publish", file, "--yes")

    def mailbox(self, address: str) -> dict[str, Any]:
        shown = self.command("mailboxes", "--json").stdout.splitlines()
        [row] = [row for line in shown if (row := json.loads(line))["name"] == address]
        return dict(row)

    def until_said(self, process: Process, *words: str) -> None:
        self.until(lambda: all(word in process.log() for word in words), f"{words} in the log")

    def check_log(self, process: Process) -> None:
        assert "Traceback" not in process.log()


@contextmanager
def installation(dovecot: Dovecot, postfix: Postfix, directory: Path, dsn: str = "") -> Iterator[Installation]:
    made = Installation(directory, dovecot, postfix, dsn)
    try:
        asyncio.run(made.prepare())
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="bad-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def embedded(dovecot: Dovecot, postfix: Postfix, directory: Path) -> Iterator[Installation]:
    with installation(dovecot, postfix, directory) as made:
        yield made


# -- a mailbox that cannot be reached


def wrong_password(settings: str, made: Installation) -> str:
    (made.directory / "password").write_text("guess\n")
    return settings.replace('password = "env:MAILBOXES"', f'password = "file:{made.directory}/password"', 1)


def unknown_host(settings: str, made: Installation) -> str:
    return settings.replace('host = "127.0.0.1"', 'host = "mail.nowhere.invalid"', 1)


def bad_certificate(settings: str, made: Installation) -> str:
    ports = made.dovecot.ports
    return settings.replace(f'port = {ports.imap}\ntls = "none"', f'port = {ports.imaps}\ntls = "implicit"', 1)


def good_certificate(settings: str, made: Installation) -> str:
    return bad_certificate(settings, made).replace(
        'tls = "implicit"', f'tls = "implicit"\nca_file = "{made.dovecot.ca_file}"'
    )


@pytest.mark.parametrize(
    ("breaks", "mends", "state", "words"),
    [
        (
            wrong_password,
            None,
            "needs operator",
            ("127.0.0.1", "does not accept", "correct the user name or the password"),
        ),
        (unknown_host, None, "away", ("mail.nowhere.invalid", "name", "host")),
        (bad_certificate, good_certificate, "needs operator", ("127.0.0.1", "certificate", "ca_file")),
    ],
)
def test_a_mailbox_that_cannot_be_read_says_why_and_goes_on(
    embedded: Installation, breaks: Any, mends: Any, state: str, words: tuple[str, ...]
) -> None:
    running = embedded.running()
    help = embedded.addresses.help
    assert embedded.publish(breaks(embedded.settings, embedded)).returncode == OK
    query = "SELECT state FROM router.mailbox WHERE name = %s"
    embedded.until(lambda: embedded.ask(query, help) == [(state,)], f"{help} to be {state}")
    embedded.deliver(1)
    told = embedded.mailbox(help)["error"]
    assert [word for word in words if word.lower() not in told.lower()] == []
    assert embedded.dovecot.password not in told
    tested = embedded.command("test-access", help)
    assert tested.returncode == FAILED
    assert [word for word in words if word.lower() not in " ".join(tested.stdout.lower().split())] == []
    status = embedded.command("status")
    assert status.returncode == FAILED
    assert [word for word in words if word.lower() not in " ".join(status.stderr.lower().split())] == []
    assert embedded.publish((mends or (lambda s, _: s))(embedded.settings, embedded)).returncode == OK
    embedded.until_done()
    embedded.check()
    assert embedded.mailbox(help)["state"] == "ok"
    embedded.check_log(running)


def test_broken_toml_names_the_line_and_changes_nothing(embedded: Installation) -> None:
    running = embedded.running()
    broken = embedded.settings.replace('kind = "pop3"', "kind = pop3", 1)
    line = next(n for n, text in enumerate(broken.splitlines(), 1) if text == "kind = pop3")
    refused = embedded.publish(broken)
    assert refused.returncode == NEEDS_OPERATOR
    assert f"settings.toml:{line}" in refused.stderr.replace("\n", "")
    embedded.deliver(1)
    embedded.until_done()
    embedded.check()
    embedded.check_log(running)


def test_a_second_router_on_the_same_data_is_refused(embedded: Installation) -> None:
    embedded.running()
    second = embedded.command("run")
    assert second.returncode == NEEDS_OPERATOR
    said = " ".join(second.stderr.split())
    assert "another router" in said.lower()
    assert str(embedded.directory / "data") in said
    assert "cure" in said
    embedded.deliver(1)
    embedded.until_done()
    embedded.check()


# -- the database


@pytest.fixture(scope="module")
def small(dovecot: Dovecot, postfix: Postfix) -> Iterator[tuple[Installation, EmbeddedPostgres, Any]]:
    """An installation on a shared PostgreSQL that has few connections, and that server on a loop of its own."""
    directory = Path(tempfile.mkdtemp(prefix="small-", dir="/tmp"))
    directory.chmod(0o711)
    server = EmbeddedPostgres(directory / "shared", max_connections="40", superuser_reserved_connections="0")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(server.start())
    try:
        with installation(dovecot, postfix, directory, server.dsn) as made:
            yield made, server, loop
    finally:
        loop.run_until_complete(server.stop())
        loop.close()
        shutil.rmtree(directory, ignore_errors=True)


def test_a_database_that_is_down(small: tuple[Installation, EmbeddedPostgres, Any]) -> None:
    made, server, loop = small
    running = made.running()
    made.deliver(1)
    loop.run_until_complete(server.stop())
    made.deliver(1)
    refused = made.command("status")
    said = " ".join(refused.stderr.split())
    assert refused.returncode == TEMPORARY
    assert "The database cannot be reached" in said
    assert "start it, or correct the DSN" in said
    made.until_said(running, "The database cannot be reached", "goes on by itself")
    assert running.lives
    loop.run_until_complete(server.start())
    made.until_done()
    made.check()
    made.check_log(running)


def test_a_database_without_a_free_connection(small: tuple[Installation, EmbeddedPostgres, Any]) -> None:
    made, _, _ = small
    running = made.running()
    made.ask("SELECT 1")
    with ExitStack() as stack:
        taken = 0
        with pytest.raises(psycopg.OperationalError, match=r"too many clients|remaining connection slots"):
            while True:
                stack.enter_context(psycopg.connect(made.dsn))
                taken += 1
        assert taken > 5
        refused = made.command("status")
        said = " ".join(refused.stderr.split())
        assert refused.returncode == TEMPORARY
        assert "The database has no connection free" in said
        assert "raise max_connections, or run fewer routers" in said
        made.deliver(1)
    assert running.lives
    made.until_done()
    made.check()
    made.check_log(running)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("/email_router?", "/nothing_here?"), ("The database does not exist", "nothing_here", "createdb")),
        (("//router@", "//nobody_here@"), ("The database refused the login", "nobody_here", "user and password")),
    ],
)
def test_a_dsn_that_is_wrong(
    small: tuple[Installation, EmbeddedPostgres, Any], change: tuple[str, str], words: tuple[str, ...]
) -> None:
    made, _, _ = small
    refused = made.command("status", EMAIL_ROUTER_DSN=made.dsn.replace(*change))
    assert refused.returncode == NEEDS_OPERATOR
    assert [word for word in words if word not in " ".join(refused.stderr.split())] == []


# -- a full disk


@pytest.fixture
def full(dovecot: Dovecot, postfix: Postfix) -> Iterator[tuple[Installation, Path]]:
    """An installation on a small disk of its own, and the file that fills it."""
    directory = Path(tempfile.mkdtemp(prefix="full-", dir="/tmp"))
    directory.chmod(0o711)
    data = directory / "data"
    data.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=150m,mode=711", "tmpfs", str(data)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be made here: {mounted.stderr.strip()}")
    try:
        with installation(dovecot, postfix, directory) as made:
            yield made, data / "ballast"
    finally:
        subprocess.run(["umount", "--lazy", str(data)], check=True)
        shutil.rmtree(directory)


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(1024 * 1024))
        except OSError:
            pass


def test_a_full_disk(full: tuple[Installation, Path]) -> None:
    made, ballast = full
    running = made.running()
    made.deliver(1)
    made.until_done()
    fill(ballast)
    made.deliver(2, large=True)
    made.until(
        lambda: "full" in running.log() or "No space left on device" in running.log(), "the full disk to be told"
    )
    made.until_said(running, "free space")
    assert running.lives
    ballast.unlink()
    made.until_done()
    made.check()
    made.check_log(running)
    assert made.command("status").returncode == OK
