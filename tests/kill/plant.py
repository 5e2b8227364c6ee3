"""A whole installation to be killed: the router as a process of its own, real Dovecot and Postfix, and the books.

What goes in is remembered here; `check` compares it with what the CRM holds and what the customers got, content by
content, so that nothing lost and nothing doubled can hide behind equal numbers.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from email_router.app import Crm, Router, opened
from email_router.crm.embedded.writing import Draft
from email_router.mime.identity import identity_of
from email_router.model.ids import new_id
from email_router.model.mailbox import FilterOption, MailboxKind, Receiver
from email_router.model.message import Address
from email_router.settings.bootstrap import Bootstrap
from email_router.store.embedded import EmbeddedPostgres
from tests.fixtures.dovecot import Dovecot
from tests.fixtures.postfix import Postfix

LIMIT = 60.0
LARGE = 5 * 1024 * 1024

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

[mailbox."{pop}"]
kind = "user"
incoming_profile = "pop3"
source_action = "delete"
"""


class Plant:
    """One installation on `directory`, embedded or on a shared database (`dsn`)."""

    _plants = itertools.count(1)

    def __init__(self, directory: Path, dovecot: Dovecot, postfix: Postfix, dsn: str = "") -> None:
        self.directory = directory
        self.dovecot = dovecot
        number = next(self._plants)
        self.help, self.ann, self.pop = (f"{n}{number}{os.getpid()}@router.test" for n in ("help", "ann", "pop"))
        self.customer = f"customer{number}{os.getpid()}@router.test"
        self._shared = dsn
        self._bootstrap = Bootstrap(data=str(directory / "data"), dsn=dsn, listen="")
        self.dsn = dsn or EmbeddedPostgres(directory / "data").dsn
        self.delivered: list[bytes] = []
        """Every distinct message that went in."""
        self.written: list[str] = []
        """Subject of every email written in the CRM."""
        self.routers: list[subprocess.Popen[bytes]] = []
        self._letters = itertools.count(1)
        self.settings = SETTINGS.format(
            imap=dovecot.ports.imap,
            pop3=dovecot.ports.pop3,
            smtp=postfix.smtp,
            help=self.help,
            ann=self.ann,
            pop=self.pop,
        )

    async def prepare(self) -> None:
        """Settings, a queue and two users; folders."""
        async with opened(self._bootstrap) as router:
            await router.publish(self.settings, "test", "settings.toml")
            crm = await self._crm(router)
            for address, kind in (
                (self.help, MailboxKind.QUEUE),
                (self.ann, MailboxKind.USER),
                (self.pop, MailboxKind.USER),
            ):
                receiver = Receiver(new_id(), kind, address, address, filter_option=FilterOption.ALL, makes_cases=True)
                await crm.actions.add_receiver(receiver)
        with self.dovecot.login(self.help) as imap, suppress(Exception):
            imap.create_folder("Tracked")

    async def _crm(self, router: Router) -> Crm:
        settings = await router.settings()
        return await router.crm(settings.deployments["sales"])

    # -- routers

    def start(self, failpoint: str = "") -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "EMAIL_ROUTER_DATA": str(self.directory / "data"),
            "EMAIL_ROUTER_LISTEN": "",
            "EMAIL_ROUTER_LOG": "json",
            "EMAIL_ROUTER_FAILPOINT": failpoint,
            "MAILBOXES": self.dovecot.password,
        }
        if self._shared:
            environment["EMAIL_ROUTER_DSN"] = self._shared
        with (self.directory / f"router-{len(self.routers)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "email_router", "run"], env=environment, stdout=log, stderr=log
            )
        self.routers.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """As an administrator stops it: SIGTERM, and it ends by itself."""
        process.send_signal(signal.SIGTERM)
        return process.wait(LIMIT)

    def end(self) -> None:
        """Whatever still runs is killed."""
        for process in self.routers:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(LIMIT)

    def postgres_pid(self) -> int:
        path = self.directory / "data" / "data" / "postmaster.pid"
        return int(path.read_text().splitlines()[0])

    def log(self) -> str:
        """The ends of the routers' logs, for a test that fails."""
        files = sorted(self.directory.glob("router-*.log"), key=lambda p: p.stat().st_mtime)[-3:]
        return "\n".join(f"--- {f.name}\n{f.read_text(errors='replace')[-3000:]}" for f in files)

    # -- traffic

    def deliver(self, number: int = 8, *, large: bool = False) -> None:
        """Mail of every ugly kind: without Message-ID, with a reused one, twins, one message in two mailboxes."""
        for _ in range(number // 4):
            n = next(self._letters)
            plain = self._letter(n)
            nameless = self._letter(n, "nameless").replace(f"Message-ID: <nameless-{n}@x.test>\r\n".encode(), b"")
            reused = self._letter(n, "plain", "the same Message-ID with other words")
            twin = self._letter(n, "twin")
            for user, messages in (
                (self.help, [plain, twin, twin]),
                (self.ann, [plain, nameless]),
                (self.pop, [reused, twin]),
            ):
                self.dovecot.deliver_many(user, messages)
            self.delivered += [plain, nameless, reused, twin]
        if large:
            big = self._letter(next(self._letters), "large", "", os.urandom(LARGE // 2).hex())
            self.dovecot.deliver_many(self.help, [big])
            self.delivered.append(big)

    def _letter(self, n: int, name: str = "plain", words: str = "", attached: str = "") -> bytes:
        lines = "\r\n".join(attached[i : i + 76] for i in range(0, len(attached), 76))
        return (
            f"From: Bob <bob@x.test>\r\nTo: {self.help}, {self.ann}, {self.pop}\r\nSubject: {name} {n}\r\n"
            f"Message-ID: <{name}-{n}@x.test>\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n"
            'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n'
            f"{words or 'words'} {n}\r\n--b\r\nContent-Type: text/plain\r\n"
            f'Content-Disposition: attachment; filename="a{n}.txt"\r\n\r\nattached {n}\r\n{lines}\r\n--b--\r\n'
        ).encode()

    def write(self, number: int = 3) -> None:
        """Emails written in the CRM, in Pending Send. The database must be running."""

        async def written() -> None:
            async with opened(self._bootstrap, beside=True) as router:
                crm = await self._crm(router)
                for _ in range(number):
                    subject = f"outgoing {next(self._letters)}"
                    await crm.actions.send(Draft(self.help, (Address("", self.customer),), subject, "words"))
                    self.written.append(subject)

        asyncio.run(written())

    # -- the books

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, connect_timeout=5) as connection:
            return connection.execute(query).fetchall()  # type: ignore[call-overload,no-any-return]

    def open_work(self) -> tuple[int, int]:
        """Receipts that are open, and sends that are under way."""
        [(receipts, sends)] = self.ask(
            "SELECT (SELECT count(*) FROM router.receipt WHERE closed IS NULL),"
            "(SELECT count(*) FROM router.ledger WHERE state = 'pending' OR NOT settled)"
        )
        return receipts, sends

    def until(self, true: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
        """Wait for a state, with a limit; a database that is away is not that state."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            with suppress(psycopg.Error):
                if true():
                    return
            time.sleep(0.03)
        raise AssertionError(f"{what} did not happen within {limit:g} s\n{self.log()}")

    def until_done(self) -> None:
        """Every mailbox read to its end, everything filed and sent or uncertain."""

        def done() -> bool:
            [(filed,)] = self.ask("SELECT count(*) FROM crm.activity WHERE direction = 'incoming'")
            [(pending,)] = self.ask(
                "SELECT count(*) FROM crm.activity a WHERE a.direction = 'outgoing' AND NOT EXISTS "
                "(SELECT 1 FROM router.ledger l WHERE l.email = a.id AND l.state <> 'pending')"
            )
            # each copy has a decision, so that no mailbox can have been passed over
            [(copies,)] = self.ask("SELECT count(*) FROM router.receipt WHERE closed IS NOT NULL")
            return filed >= len(self.delivered) and pending == 0 and copies >= self.copies and not any(self.open_work())

        self.until(done, "the end of all work")

    @property
    def copies(self) -> int:
        """Copies that lie, or lay, in the mailboxes."""
        small = sum(1 for raw in self.delivered if b"Subject: large" not in raw)
        return small // 4 * 7 + len(self.delivered) - small

    def check(self) -> dict[str, int]:
        """Nothing lost, nothing doubled, in content. Returns how many emails are in which state."""
        self._check_incoming()
        return self._check_outgoing()

    def _check_incoming(self) -> None:
        expected = {identity_of(raw): raw for raw in self.delivered}
        assert len(expected) == len(self.delivered)
        rows = self.ask(
            "SELECT a.identity, a.id, (SELECT string_agg(c.data, '' ORDER BY c.n) FROM crm.raw_chunk c "
            "WHERE c.activity = a.id), (SELECT count(*) FROM crm.party p WHERE p.activity = a.id), "
            "(SELECT count(*) FROM crm.attachment t WHERE t.activity = a.id), "
            "(SELECT count(*) FROM crm.received_by r WHERE r.activity = a.id) "
            "FROM crm.activity a WHERE a.direction = 'incoming'"
        )
        found = Counter(bytes(row[0]) for row in rows)
        assert found == Counter(expected.keys()), "an activity is lost, doubled, or of nobody's message"
        for identity, _, raw, parties, attachments, received_by in rows:
            message = expected[bytes(identity)]
            subject = message.partition(b"Subject: ")[2].split()[0]
            assert bytes(raw).replace(b"\r\n", b"\n") == message.replace(b"\r\n", b"\n"), "content differs"
            assert (parties, attachments) == (4, 1)
            mailboxes = 2 if subject in (b"plain", b"twin") and b"other words" not in message else 1
            assert received_by == mailboxes, f"{subject!r} was received by {received_by} mailboxes"

    def _check_outgoing(self) -> dict[str, int]:
        rows = self.ask(
            "SELECT a.subject, l.state, a.status FROM crm.activity a LEFT JOIN router.ledger l ON l.email = a.id "
            "WHERE a.direction = 'outgoing'"
        )
        states = {str(subject).rpartition(" CRM:")[0]: (state, status) for subject, state, status in rows}
        assert sorted(states) == sorted(self.written)
        sent = [subject for subject, (state, _) in states.items() if state == "sent"]
        self.until(lambda: set(sent) <= set(self._copies_at_customer()), "the delivery of what is sent")
        copies = self._copies_at_customer()
        assert all(number == 1 for number in copies.values()), f"a second copy: {copies}"
        for subject, (state, status) in states.items():
            assert state in ("sent", "uncertain"), f"{subject} is {state}"
            assert status == (3 if state == "sent" else 7), f"{subject} is {state}, and {status} in the CRM"
        return dict(Counter(state for state, _ in states.values()))

    def _copies_at_customer(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for stored in self.dovecot.messages(self.customer.partition("@")[0]):
            subject = stored.body.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()
            found[subject.rpartition(" CRM:")[0]] += 1
        return found


def processes(pids: Sequence[int]) -> list[int]:
    """Those of these processes that still live."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
