"""Other people's programs that copy the same mailbox, each at its best: what is compared with.

mbsync writes a Maildir and flushes each message to disk. getmail6 writes a Maildir and flushes too. fetchmail hands
each message to a delivery agent, as it is made for; ours is the quickest there can be, `cat` into one file, and flushes
nothing. As `fetchmail-batch` it writes what it would say to a mail server into one file, and nothing is delivered.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.dovecot import PASSWORD, Dovecot

from bench.figures import Run
from bench.servers import own, program, unprivileged

STALLED = 15.0
"""Seconds without a new message after which a peer is given up; what it copied until then counts."""


@dataclass(frozen=True, slots=True)
class Peer:
    """`prepare` writes its configuration into a directory and returns its command; `copied` counts its messages."""

    name: str
    program: str
    protocols: Sequence[str]
    prepare: Callable[[Path, str, int, str], list[str]]
    copied: Callable[[Path], int]
    rounds: int
    """How often it runs: the slow ones only once."""


def run(peer: Peer, directory: Path, server: Dovecot, user: str, protocol: str, count: int) -> Run:
    """Copy the mailbox into `directory`. Raises SystemExit when nothing of it arrives."""
    port = server.ports.imap if protocol == "imap" else server.ports.pop3
    command = peer.prepare(directory, protocol, port, user)
    own(directory)
    with (directory / "out").open("wb") as out:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*unprivileged(), *command],
            env=os.environ | {"HOME": str(directory), "FETCHMAILHOME": str(directory)},
            stdout=out,
            stderr=out,
            cwd=directory,
            start_new_session=True,
        )
        last, seconds = 0, 0.0
        for copied in _progress(peer, directory, process):
            now = time.perf_counter() - started
            if copied > last:
                last, seconds = copied, now
            elif now - seconds > STALLED:
                os.killpg(process.pid, 9)
                process.wait()
        if process.returncode == 0:
            seconds = time.perf_counter() - started
        last = peer.copied(directory)
    if not last:
        raise SystemExit(f"{peer.name} copied nothing:\n{(directory / 'out').read_text(errors='replace')[-2000:]}")
    return Run(last, seconds, "" if last >= count else f"it copied {last:,}")


def _progress(peer: Peer, directory: Path, process: subprocess.Popen[bytes]) -> Iterator[int]:
    """How many messages are there, now and then (looking costs time too), until the process has ended."""
    pause = 1.0 if peer.rounds == 1 else 5.0
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(pause)
            return
        yield peer.copied(directory)


def _mbsync(directory: Path, protocol: str, port: int, user: str) -> list[str]:
    (directory / "mail").mkdir()
    (directory / "rc").write_text(
        f"FSync yes\nIMAPAccount far\nHost 127.0.0.1\nPort {port}\nUser {user}\nPass {PASSWORD}\n"
        "SSLType None\nAuthMechs LOGIN\n\nIMAPStore far\nAccount far\n\n"
        f"MaildirStore near\nPath {directory}/mail/\nInbox {directory}/mail/inbox\n\n"
        "Channel all\nFar :far:\nNear :near:\nPatterns INBOX\nSync PullNew\nCreate Near\nSyncState *\n"
    )
    return [program("mbsync"), "-c", str(directory / "rc"), "-a"]


def _getmail(directory: Path, protocol: str, port: int, user: str) -> list[str]:
    for name in ("cur", "new", "tmp"):
        (directory / "mail" / name).mkdir(parents=True)
    (directory / "rc").write_text(
        f"[retriever]\ntype = Simple{protocol.upper()}Retriever\nserver = 127.0.0.1\nport = {port}\n"
        f"username = {user}\npassword = {PASSWORD}\n[destination]\ntype = Maildir\npath = {directory}/mail/\n"
        "[options]\nread_all = true\ndelete = false\nverbose = 0\n"
    )
    return [program("getmail"), "--getmaildir", str(directory), "--rcfile", str(directory / "rc")]


def _fetchmail(directory: Path, protocol: str, port: int, user: str) -> list[str]:
    agent = f"cat >> {directory}/mbox; echo >> {directory}/delivered"
    return _fetchmail_with(f'mda "{agent}"', directory, protocol, port, user)


def _fetchmail_batch(directory: Path, protocol: str, port: int, user: str) -> list[str]:
    return _fetchmail_with(f"bsmtp {directory}/batch", directory, protocol, port, user)


def _fetchmail_with(delivery: str, directory: Path, protocol: str, port: int, user: str) -> list[str]:
    rc = directory / "rc"
    rc.write_text(
        f"set idfile {directory}/ids\nset no syslog\npoll 127.0.0.1 protocol {protocol} port {port} "
        f'user "{user}" password "{PASSWORD}" fetchall keep sslproto \'\' {delivery}\n'
    )
    rc.chmod(0o700)
    return [program("fetchmail"), "-f", str(rc), "--nodetach", "--silent", "--pidfile", str(directory / "pid")]


def _in_maildir(inbox: str) -> Callable[[Path], int]:
    def copied(directory: Path) -> int:
        box = directory / inbox
        return sum(1 for name in ("new", "cur") if (box / name).is_dir() for _ in (box / name).iterdir())

    return copied


def _lines(name: str, start: bytes) -> Callable[[Path], int]:
    def copied(directory: Path) -> int:
        path = directory / name
        if not path.is_file():
            return 0
        with path.open("rb") as file:
            return sum(line.startswith(start) for line in file)

    return copied


PEERS = (
    Peer("mbsync", "mbsync", ("imap",), _mbsync, _in_maildir("mail/inbox"), 3),
    Peer("fetchmail", "fetchmail", ("imap", "pop3"), _fetchmail, _lines("delivered", b""), 1),
    Peer("fetchmail-batch", "fetchmail", ("imap", "pop3"), _fetchmail_batch, _lines("batch", b"MAIL FROM:"), 3),
    Peer("getmail6", "getmail", ("imap", "pop3"), _getmail, _in_maildir("mail"), 1),
)
