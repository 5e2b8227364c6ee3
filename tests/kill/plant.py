"""A whole installation to be killed: routers as processes of their own, real Dovecot and Postfix, and the books.

What goes in is remembered in `books`; `check` compares it with what the CRM holds, what the mailboxes hold and what the
customers got, content by content, so that nothing lost and nothing doubled can hide behind equal numbers.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from email_router.app import opened
from email_router.crm.embedded import organization
from email_router.crm.embedded.writing import Writing
from email_router.model.ids import new_id
from email_router.model.mailbox import FilterOption, MailboxKind, Receiver
from email_router.model.settings import TrackingSettings
from email_router.net.postgres import open_engine
from email_router.settings.bootstrap import Bootstrap
from email_router.store.embedded import EmbeddedPostgres
from email_router.work.shard import SHARDS, shard_of
from tests.fixtures.dovecot import Dovecot
from tests.fixtures.postfix import Postfix
from tests.kill.books import Addresses, Books

LIMIT = 90.0
"""Seconds within which a state must be reached on a slow machine."""

OUTGOING = "outgoing smtp"
"""What the shard of the outgoing profile is found by."""

SETTINGS = """\
[deployment.sales]
organization = "Acme"
incoming_profile = "imap"
outgoing_profile = "smtp"

[incoming.imap]
kind = "imap"
host = "127.0.0.1"
port = {imap}
tls = "none"
username = "{{address}}"
password = "env:MAILBOXES"
poll_seconds = 1

[incoming.pop3]
kind = "pop3"
host = "127.0.0.1"
port = {pop3}
tls = "none"
username = "{{address}}"
password = "env:MAILBOXES"
poll_seconds = 1

[outgoing.smtp]
kind = "smtp"
host = "127.0.0.1"
port = {smtp}
tls = "none"
connections = 1

[mailbox."{help}"]
kind = "queue"
source_action = "move"
move_to = "Tracked"

[mailbox."{ann}"]
kind = "user"

[mailbox."{sue}"]
kind = "user"
source_action = "seen"

[mailbox."{pop}"]
kind = "user"
incoming_profile = "pop3"
source_action = "delete"
"""


class Process:
    """A router that runs. Its failpoints are armed while it runs."""

    def __init__(self, directory: Path, number: int, environment: dict[str, str]) -> None:
        self._failpoints = directory / f"failpoints-{number}"
        self._failpoints.write_text("")
        self._log = directory / f"router-{number}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "email_router", "run"],
                env=os.environ | environment | {"EMAIL_ROUTER_FAILPOINTS": str(self._failpoints)},
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def failed(self) -> bool:
        """It ended, neither killed nor as it should."""
        return (self._process.poll() or 0) > 0

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def tail(self) -> str:
        """The end of the log, for a test that fails."""
        return "\n".join(line[:400] for line in self.log().splitlines()[-12:])

    def arm(self, point: str, nth: int = 1, action: str = "kill") -> None:
        """At the nth passing of `point` from now on the router is killed, or stops."""
        written = self._failpoints.with_suffix(".new")
        written.write_text(f"{point}:{nth}:{action}")
        written.rename(self._failpoints)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(LIMIT)

    def until_killed(self) -> None:
        """Until the armed point has killed it."""
        code = self._process.wait(LIMIT)
        assert code == -signal.SIGKILL, f"the router ended by itself ({code}):\n{self.tail()}"

    def stop(self) -> None:
        """As an administrator stops it: SIGTERM, and it ends by itself."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(LIMIT)
        assert code == 0, f"the router ended with {code}:\n{self.tail()}"

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        self.until_frozen()

    def until_frozen(self) -> None:
        deadline = time.monotonic() + LIMIT
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert self.lives and time.monotonic() < deadline, f"the router does not stop:\n{self.tail()}"
            time.sleep(0.005)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


class Plant:
    """One installation on `directory`, embedded or on a shared database (`dsn`). `connections` are those of SMTP."""

    _plants = itertools.count(1)

    def __init__(self, directory: Path, dovecot: Dovecot, postfix: Postfix, dsn: str = "", smtp: int = 0) -> None:
        self.directory = directory
        self.dovecot = dovecot
        number = f"{next(self._plants)}-{os.getpid()}"
        names = ("help", "ann", "sue", "pop", "customer", "bystander")
        self.addresses = Addresses(*(f"{name}{number}@router.test" for name in names))
        self.books = Books(self.addresses, dovecot)
        self._shared = dsn
        self._bootstrap = Bootstrap(data=str(directory / "data"), dsn=dsn, listen="")
        self.dsn = dsn or EmbeddedPostgres(directory / "data").dsn
        self._connection: psycopg.Connection[Any] | None = None
        self.processes: list[Process] = []
        self.settings = SETTINGS.format(
            imap=dovecot.ports.imap,
            pop3=dovecot.ports.pop3,
            smtp=smtp or postfix.smtp,
            **self.addresses.mailboxes,
        )

    async def prepare(self) -> None:
        """Settings, a queue and three users."""
        async with opened(self._bootstrap) as router:
            await router.publish(self.settings, "test", "settings.toml")
            crm = await router.crm((await router.settings()).deployments["sales"])
            for name, address in self.addresses.mailboxes.items():
                kind = MailboxKind.QUEUE if name == "help" else MailboxKind.USER
                receiver = Receiver(new_id(), kind, name, address, filter_option=FilterOption.ALL, makes_cases=True)
                await crm.actions.add_receiver(receiver)

    # -- routers

    def start(self) -> Process:
        environment = {
            "EMAIL_ROUTER_DATA": str(self.directory / "data"),
            "EMAIL_ROUTER_LISTEN": "",
            "EMAIL_ROUTER_LOG": "json",
            "EMAIL_ROUTER_DSN": self._shared,
            "MAILBOXES": self.dovecot.password,
        }
        made = Process(self.directory, len(self.processes), environment)
        self.processes.append(made)
        return made

    def living(self) -> list[Process]:
        """The routers that run, oldest first."""
        return [process for process in self.processes if process.lives]

    def running(self) -> Process:
        """A router that has done all of its work: the newest that lives, else a new one."""
        found = self.living()[-1] if self.living() else self.start()
        self.until_done()
        return found

    def two(self) -> list[Process]:
        """Two routers that share the work and have done all of it."""
        for process in self.living():
            process.thaw()  # a test that failed may have left it frozen
        for process in self.living()[2:]:
            process.stop()
        while len(self.living()) < 2:
            self.start()
        self.until_shared()
        self.until_done()
        return self.living()

    def end(self) -> None:
        """Whatever still runs is killed."""
        if self._connection is not None:
            self._connection.close()
        for process in self.processes:
            if process.lives:
                process.kill()

    def postgres_pid(self) -> int:
        path = self.directory / "data" / "data" / "postmaster.pid"
        return int(path.read_text().splitlines()[0])

    def logs(self) -> str:
        """The ends of the newest routers' logs, for a test that fails."""
        return "\n".join(f"--- router of pid {p.pid}\n{p.tail()}" for p in self.processes[-3:])

    # -- traffic

    def deliver(self, rounds: int = 2, *, large: bool = False) -> None:
        self.books.deliver(rounds, large=large)

    def write(self, number: int = 3) -> None:
        """Emails written in the CRM, in Pending Send. The database must be running."""

        async def written(writing: Writing) -> None:
            for _ in range(number):
                await writing.send(self.books.draft())

        self.act(written)

    def act(self, what: Callable[[Writing], Awaitable[None]]) -> None:
        """Something that a person does in the CRM."""

        async def done() -> None:
            engine = open_engine(self.dsn, 1)
            try:
                await what(Writing(engine, await organization.find(engine, "Acme"), TrackingSettings()))
            finally:
                await engine.dispose()

        asyncio.run(done())

    # -- looking

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows from the database. Raises psycopg.Error while it is away."""
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(self.dsn, autocommit=True, connect_timeout=5)
            return self._connection.execute(query, values or None).fetchall()  # type: ignore[arg-type]
        except psycopg.Error:
            if self._connection is not None:
                self._connection.close()
            raise

    def number(self, query: str, *values: object) -> int:
        [(number,)] = self.ask(query, *values)
        return int(number)

    def open_receipts(self) -> int:
        return self.number("SELECT count(*) FROM router.receipt WHERE closed IS NULL")

    def open_sends(self) -> int:
        return self.number("SELECT count(*) FROM router.ledger WHERE state = 'pending' OR NOT settled")

    def marked(self) -> set[UUID]:
        """Emails handed over without a recorded answer: uncertain, should their router end now."""
        rows = self.ask("SELECT email FROM router.ledger WHERE state = 'pending' AND handed_over IS NOT NULL")
        return {email for (email,) in rows}

    def uncertain(self) -> set[UUID]:
        return {email for (email,) in self.ask("SELECT email FROM router.ledger WHERE state = 'uncertain'")}

    def quiet(self) -> bool:
        """The database works for no router: with all of them stopped it changes no more."""
        return not self.number(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active' "
            "AND coalesce(wait_event_type, '') NOT IN ('Client', 'Lock') AND pid <> pg_backend_pid()"
        )

    def shards(self, process: Process) -> int:
        """How many shards this router serves."""
        return self.number("SELECT count(*) FROM router.shard WHERE owner LIKE %s", f"%:{process.pid}")

    def until_serving(self, process: Process) -> None:
        self.until(lambda: self.shards(process) > 0, "the router's taking up its work")

    def owner(self, name: str) -> Process:
        """The router that serves a mailbox, or the outgoing profile."""
        [(owner,)] = self.ask("SELECT owner FROM router.shard WHERE number = %s", shard_of(name))
        return next(process for process in self.processes if owner.endswith(f":{process.pid}"))

    def work_of(self, process: Process) -> int:
        """Open receipts and sends that are this router's."""
        receipts = self.ask("SELECT mailbox, count(*) FROM router.receipt WHERE closed IS NULL GROUP BY mailbox")
        mine = sum(number for mailbox, number in receipts if self.owner(mailbox) is process)
        return mine + (self.open_sends() if self.owner(OUTGOING) is process else 0)

    def kill_one(self, process: Process) -> set[UUID]:
        """Kill one of several; the emails that are uncertain now because it had them in hand."""
        sends = self.owner(OUTGOING) is process
        process.kill()
        self.until(self.quiet, "a quiet database")
        return self.marked() if sends else set()

    def in_hand(self, process: Process) -> set[UUID]:
        """What becomes uncertain should this router, which is frozen, never wake up."""
        return self.marked() if self.owner(OUTGOING) is process else set()

    def until_shared(self) -> None:
        """Until all routers that run have about the same."""
        share = math.ceil(SHARDS / len(self.living()))

        def even() -> bool:
            held = [self.shards(process) for process in self.living()]
            return sum(held) == SHARDS and max(held) <= share

        self.until(even, "an even share")

    def until_beating(self, processes: Sequence[Process]) -> None:
        """Until each of these routers has given a sign of life to the others since now."""
        [(now,)] = self.ask("SELECT now()")
        beating = "SELECT count(*) FROM work.procrastinate_workers WHERE last_heartbeat > %s"
        self.until(lambda: self.number(beating, now) == len(processes), "a sign of life of each router")

    def until_database_restarted(self) -> None:
        """After a kill of the server, or of one of its processes, which ends all of its connections."""

        def lost() -> bool:
            try:
                return not self.ask("SELECT 1")
            except psycopg.Error:
                return True

        self.until(lost, "the end of the database")
        self.until(lambda: self.number("SELECT 1") == 1, "the restart of the database")

    def froze_at_work(self, process: Process, work: Callable[[], object], later: int) -> bool:
        """Stop the router while there is some of `work` (open receipts or sends): at look number `later` that sees it.

        False, and the router runs, when all work was done before; else the database changes no more.
        """
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            process.freeze()
            self.until(self.quiet, "a quiet database")
            busy = bool(work())
            if busy and later <= 0:
                return True
            later -= busy
            done = not busy and self.done()
            process.thaw()
            if done:
                return False
            time.sleep(0.005)
        raise AssertionError(f"the router does not finish its work\n{self.logs()}")

    def until(self, true: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
        """Wait for a state, with a limit; a database that is away is not that state."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            with suppress(psycopg.OperationalError, psycopg.InterfaceError):
                if true():
                    return
            assert not any(process.failed for process in self.processes), f"a router ended by itself\n{self.logs()}"
            time.sleep(0.02)
        raise AssertionError(f"{what} did not happen within {limit:g} s\n{self.logs()}")

    def done(self) -> bool:
        """Every copy has its outcome, every mailbox was dealt with, and everything is sent or uncertain and settled."""
        closed = dict(
            self.ask("SELECT mailbox, count(*) FROM router.receipt WHERE closed IS NOT NULL GROUP BY mailbox")
        )
        left = self.number(
            "SELECT count(*) FROM crm.activity a LEFT JOIN router.ledger l ON l.email = a.id "
            "WHERE a.direction = 'outgoing' AND (l.id IS NULL OR l.state = 'pending' OR NOT l.settled)"
        )
        return closed == self.books.copies() and not self.open_receipts() and not left

    def until_done(self, limit: float = LIMIT) -> None:
        self.until(self.done, "the end of all work", limit)

    # -- the books

    def check(self) -> Counter[str]:
        """Nothing lost, nothing doubled, in content. Returns how many emails are in which state."""
        self.books.check_activities(self.ask)
        self.books.check_receipts(self.ask)
        self.books.check_mailboxes()
        return self.check_sent()

    def missing(self) -> set[str]:
        """Subjects of emails that the customer does not have."""
        return set(self.books.written) - set(self.books.at(self.addresses.customer))

    def check_sent(self) -> Counter[str]:
        sent = self.books.check_ledger(self.ask)
        self.until(lambda: self.books.arrived(sent), "the delivery of what is sent")
        self.books.check_customers(self.ask)
        return Counter(str(state) for (state,) in self.ask("SELECT state FROM router.ledger"))
