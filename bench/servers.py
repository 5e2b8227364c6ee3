"""Real servers for the benchmarks: a private Dovecot with full mailboxes, smtp-sink, a Postfix that relays to it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.fixtures.dovecot import Dovecot, free_ports

from bench.letters import as_sent

SYSTEM = ":/usr/sbin:/usr/local/sbin"
FIRST_ARRIVAL = 1_767_225_600
"""INTERNALDATE of the first message, 1 January 2026; the others follow second by second."""


def program(name: str) -> str:
    """Its path, or "" when it is not installed."""
    return shutil.which(name, path=os.environ.get("PATH", "") + SYSTEM) or ""


def unprivileged() -> list[str]:
    """A command's beginning that lets it run as an ordinary user: several peers refuse to run as root."""
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    return ["setpriv", "--reuid", str(nobody.pw_uid), "--regid", str(nobody.pw_gid), "--clear-groups"]


def own(directory: Path) -> None:
    """Give a tree to the user that `unprivileged` runs as."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (directory, *directory.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)


@contextmanager
def working_directory(prefix: str) -> Iterator[Path]:
    """A short path (sockets lie in it) that everybody may enter and that goes at the end."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def dovecot() -> Iterator[Dovecot]:
    """A running Dovecot. Raises SystemExit when it is not installed."""
    found = program("dovecot")
    if not found:
        raise SystemExit("Dovecot is not installed: run `make servers` as root")
    with working_directory("bench-dovecot-") as directory:
        server = Dovecot(directory, found)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def fill(server: Dovecot, user: str, messages: Sequence[bytes]) -> None:
    """Put messages (line ends LF) into the user's mailbox, and let Dovecot learn their sizes, as after any delivery."""
    box = server.directory / "mail" / user
    for name in ("cur", "new", "tmp"):
        (box / name).mkdir(parents=True, exist_ok=True)
    for n, message in enumerate(messages):
        when = FIRST_ARRIVAL + n
        path = box / "cur" / f"{when}.M{n}P1.bench,S={len(message)},W={len(as_sent(message))}:2,"
        path.write_bytes(message)
        os.utime(path, (when, when))
    own(box)
    with server.login(user, "INBOX") as client:
        there = client.fetch(client.search(), ["RFC822.SIZE", "INTERNALDATE"])
    if len(there) != len(messages):
        raise SystemExit(f"Dovecot sees {len(there)} of {len(messages)} messages:\n{server.log()}")


class Sink:
    """smtp-sink: takes everything and counts it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, counter: Path) -> None:
        self.process = process
        self.port = port
        self._counter = counter

    @property
    def count(self) -> int:
        """Messages taken so far; the program prints `sessions quits messages` over one line again and again."""
        with self._counter.open("rb") as file:
            file.seek(max(0, self._counter.stat().st_size - 200))
            lines = file.read().replace(b"\r", b"\n").split(b"\n")
        numbers = [line.split() for line in lines[:-1] if line.strip()]
        return int(numbers[-1][-1].rpartition(b"=")[2]) if numbers else 0

    def wait_for(self, count: int, limit: float) -> bool:
        """Whether it has so many before `limit` seconds are over."""
        deadline = time.monotonic() + limit
        while self.count < count:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True


@contextmanager
def sink(directory: Path) -> Iterator[Sink]:
    [port] = free_ports(1)
    counter = directory / f"sink-{port}"
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with counter.open("wb") as out:
        process = subprocess.Popen(
            [program("smtp-sink"), *user, "-c", f"127.0.0.1:{port}", "1000"], stdout=out, stderr=subprocess.DEVNULL
        )
    try:
        _until_listening(port)
        yield Sink(process, port, counter)
    finally:
        process.kill()
        process.wait()


def _until_listening(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"nothing listens on port {port}")
