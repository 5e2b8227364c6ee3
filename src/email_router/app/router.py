"""The composition: the only place that names concrete adapters.

`Router` opens the database and what lies in it, and hands out the ports; `units` says what a shard serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from email_router import store
from email_router.app.rounds import ListenerRounds, MailboxRounds, ProfileRounds
from email_router.crm import embedded as embedded_crm
from email_router.crm.embedded import organization
from email_router.crm.embedded.actions import Actions
from email_router.crm.embedded.directory import Directory
from email_router.crm.embedded.filing import Filing
from email_router.crm.embedded.outbox import Outbox
from email_router.crm.embedded.records import Records
from email_router.incoming import flow as incoming
from email_router.incoming.pushed import Intake
from email_router.mail import imap, lmtp, maildir, pop3, smtp
from email_router.model.errors import NeedsOperator, Transient, said_by
from email_router.model.ids import new_id
from email_router.model.mailbox import MailboxKind, SourceAction
from email_router.model.receipt import Term
from email_router.model.settings import (
    Credentials,
    Deployment,
    IncomingProfile,
    MailboxSettings,
    OutgoingProfile,
    Settings,
)
from email_router.net.backoff import delay
from email_router.net.postgres import open_engine, transaction
from email_router.net.spool import Spool, sweep
from email_router.observe import maillog
from email_router.ports.crm import Filing as FilingPort
from email_router.ports.mail import Connector, ListenerContext, Login, Sender, Source, SourceContext
from email_router.settings.bootstrap import Bootstrap
from email_router.settings.problems import Problem
from email_router.settings.read import Kind, read
from email_router.settings.secret import resolve
from email_router.store.backup import backup, daily_name, expired, restore, restored
from email_router.store.decisions import Decisions
from email_router.store.embedded import EmbeddedPostgres
from email_router.store.installation import Installation, Mailboxes, Revisions
from email_router.store.ledger import Ledger, Outgoing
from email_router.store.migrate import migrate
from email_router.store.pseudonyms import Pseudonyms
from email_router.store.receipts import EVER, Receipts
from email_router.store.retention import Retention
from email_router.store.secrets import Secrets, key_id, load_key
from email_router.store.sent import Sent
from email_router.store.shards import Shards
from email_router.store.undeliverable import Undeliverable
from email_router.web.status import Snapshot
from email_router.work.chore import Chore
from email_router.work.engine import STALE, Engine
from email_router.work.pokes import Pokes
from email_router.work.shard import shard_of
from email_router.work.units import Rounds, Unit

NOT_PUBLISHED = Settings(0, {}, {}, {}, {})
THREADS = 64
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
BACKFILLS = 1000
"""Shard numbers of backfills begin here: a backfill is nobody else's work."""

CONNECTORS: dict[str, Connector] = {
    c.name: c for c in (imap.CONNECTOR, pop3.CONNECTOR, lmtp.CONNECTOR, maildir.CONNECTOR, smtp.CONNECTOR)
}
KINDS: dict[str, Kind] = {
    name: Kind(
        c.settings,
        receives=c.source is not None or c.listener is not None,
        sends=c.sender is not None,
        check=c.check,
        objections=c.objections,
        pushed=c.listener is not None,
    )
    for name, c in CONNECTORS.items()
}


@dataclass(frozen=True, slots=True)
class Crm:
    """One deployment's CRM."""

    deployment: Deployment
    records: Records
    filing: FilingPort
    outbox: Outbox
    directory: Directory
    actions: Actions


@dataclass(frozen=True, slots=True)
class Backfill:
    """An import that is ready to run; `total` messages lie there."""

    ways: incoming.Ways
    term: Term
    total: int

    async def run(self, report: incoming.Report) -> incoming.Report:
        return await incoming.run(self.ways, self.term, report=report)


class Router:
    """One process of the Email Router. Use `opened`."""

    def __init__(
        self, bootstrap: Bootstrap, engine: AsyncEngine, dsn: str, key: bytes | None, *, alone: bool, name: str = ""
    ) -> None:
        self.bootstrap = bootstrap
        self.host = bootstrap.host_name
        self.name = name
        """Ours alone among all routers there ever were; our database sessions bear it."""
        self.engine = engine
        self.dsn = dsn
        self.alone = alone
        self.spool_directory = bootstrap.data_directory / "spool"
        self.receipts = Receipts(engine)
        self.ledger = Ledger(engine)
        self.sent = Sent(engine)
        self.undeliverable = Undeliverable(engine, self.spool)
        self.mailboxes = Mailboxes(engine)
        self.revisions = Revisions(engine)
        self.installation = Installation(engine)
        self.secrets = Secrets(engine, key)
        self.key_name = key_id(key) if key is not None else ""
        pseudonyms = Pseudonyms(key)
        self.decisions = Decisions(engine, pseudonyms)
        self.outgoing = Outgoing(engine)
        self.retention = Retention(engine, pseudonyms)
        self.shards = Shards(engine)
        self.pokes = Pokes(dsn)
        self.filing_through: Callable[[FilingPort], FilingPort] = lambda filing: filing
        """Lets the demo's CRM refuse a message."""
        self._settings = NOT_PUBLISHED
        self._units: dict[int, list[Unit]] | None = None
        self._crms: dict[str, Crm] = {}
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._states: set[asyncio.Task[None]] = set()
        self._looked: float | None = None
        self._forgot: dict[tuple[str, int], datetime] = {}

    # -- settings

    async def settings(self) -> Settings:
        """The active revision; no mailboxes and no deployments before the first publication."""
        number = await self.revisions.active()
        if number != self._settings.revision:
            source = await self.revisions.source(number)
            self._settings, _ = read(source, KINDS, file=f"revision {number}", revision=number)
            self._crms.clear()
            self._units = None
        return self._settings

    async def publish(self, text: str, who: str, file: str) -> tuple[int, tuple[Problem, ...]]:
        """Validate and activate; organizations that the embedded CRM does not have yet are made. Raises Invalid."""
        settings, warnings = read(text, KINDS, file=file)
        for deployment in settings.deployments.values():
            await organization.create(self.engine, deployment.organization)
        for address in settings.mailboxes:
            await self.mailboxes.added(address)  # mail from now on counts, not from whenever a router comes round to it
        return await self.revisions.publish(text, who, file), warnings

    async def crm(self, deployment: Deployment) -> Crm:
        known = self._crms.get(deployment.name)
        if known is None or known.deployment != deployment:
            identifier = await organization.find(self.engine, deployment.organization)
            tracking = deployment.tracking
            known = self._crms[deployment.name] = Crm(
                deployment,
                Records(self.engine, identifier, tracking),
                self.filing_through(Filing(self.engine, identifier, keep_raw=deployment.keep_raw_days > 0)),
                Outbox(self.engine, identifier, deployment.name),
                Directory(self.engine, identifier),
                Actions(self.engine, identifier, tracking),
            )
        return known

    async def snapshot(self) -> Snapshot:
        """What the status page and `status` show."""
        settings = await self.settings()
        return Snapshot(
            revision=settings.revision,
            routers=await self.installation.routers(STALE),
            hold=await self.ledger.held(),
            mailboxes=await self.listing(),
            outcomes=await self.decisions.counts(),
            outgoing=await self.outgoing.counts(),
            decisions=await self.decisions.search(limit=50),
            undeliverable=await self.undeliverable.listing(limit=20),
            undeliverable_open=await self.undeliverable.count(),
        )

    async def alive(self) -> None:
        """Raises when the database cannot be reached."""
        await self.revisions.active()

    async def listing(self) -> list[dict[str, Any]]:
        """How each published mailbox and each profile in use is that is sent through or listened for.

        What was removed is not shown any more.
        """
        settings = await self.settings()
        used = {f"outgoing {m.outgoing_profile}" for m in settings.mailboxes.values() if m.enabled}
        used |= {f"incoming {name}" for name in _listened_for(settings)}
        found: list[dict[str, Any]] = []
        for row in await self.mailboxes.listing():
            mailbox = settings.mailboxes.get(row["name"])
            if mailbox is not None and not (mailbox.enabled and mailbox.incoming_profile):
                found.append(row | {"state": "not read" if mailbox.enabled else "disabled", "error": ""})
            elif mailbox is not None or row["name"] in used:
                found.append(row)
        return found

    async def nobodys(self) -> list[tuple[str, str]]:
        """Deployment and address of each published mailbox that is no user's and no queue's there: nothing of it can
        be tracked or sent."""
        settings = await self.settings()
        found: list[tuple[str, str]] = []
        for name, deployment in settings.deployments.items():
            known = {r.address.casefold() for r in await (await self.crm(deployment)).directory.receivers()}
            found += [
                (name, mailbox.address)
                for mailbox in settings.mailboxes.values()
                if name in mailbox.deployments
                and mailbox.kind is not MailboxKind.FORWARD
                and mailbox.address.casefold() not in known
            ]
        return found

    # -- work

    async def run(self, stop: asyncio.Event) -> None:
        """Serve shards until `stop` is set; then finish what is begun."""
        # Name servers are asked in threads: those of one company that do not answer must not hold up all the others.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "router"))
        work = Engine(
            self.engine,
            self.dsn,
            self.name,
            self.shards,
            self.units,
            partial(self.pokes.wait, "published"),
            alone=self.alone,
        )
        side = [asyncio.create_task(t) for t in (self.pokes.run(), self._housekeeping(), _drain(work, stop))]
        try:
            await work.run()
        finally:
            for task in side:
                task.cancel()
            await asyncio.gather(*side, return_exceptions=True)

    async def units(self, shard: int) -> Sequence[Unit]:
        """What a shard serves now: mailboxes to read, profiles to listen for, and profiles to send through."""
        settings = await self.settings()
        if self._units is None:
            self._units = self._sharded(settings)
        return self._units.get(shard, [])

    def _sharded(self, settings: Settings) -> dict[int, list[Unit]]:
        """All units by shard; made once per revision, because every shard asks every two seconds."""
        enabled = [m for m in settings.mailboxes.values() if m.enabled]
        sending = {m.outgoing_profile for m in enabled}
        listened = _listened_for(settings)
        units = [self._mailbox_unit(settings, m) for m in enabled if m.incoming_profile not in (*listened, "")]
        units += [self._listener_unit(settings, settings.incoming[name]) for name in listened]
        units += [self._profile_unit(settings, p) for name, p in settings.outgoing.items() if name in sending]
        found: dict[int, list[Unit]] = {}
        for unit in units:
            found.setdefault(shard_of(unit.name), []).append(unit)
        return found

    def _mailbox_unit(self, settings: Settings, mailbox: MailboxSettings) -> Unit:
        profile = settings.incoming[mailbox.incoming_profile]
        deployments = tuple(settings.deployments[name] for name in mailbox.deployments)

        def state(word: str, error: str) -> None:
            self._soon(self.mailboxes.report(mailbox.address, word, error))

        return Unit(
            mailbox.address,
            (mailbox, profile, deployments),
            partial(self._open_mailbox, settings, mailbox, deployments),
            state,
        )

    def _listener_unit(self, settings: Settings, profile: IncomingProfile) -> Unit:
        mailboxes = tuple(m for m in settings.mailboxes.values() if m.incoming_profile == profile.name)
        deployments = {d: settings.deployments[d] for m in mailboxes for d in m.deployments}
        name = f"incoming {profile.name}"

        def state(word: str, error: str) -> None:
            self._soon(self.mailboxes.report(name, word, error))

        return Unit(
            name,
            (profile, mailboxes, tuple(deployments.values())),
            partial(self._open_listener, name, profile, mailboxes, deployments),
            state,
        )

    def _profile_unit(self, settings: Settings, profile: OutgoingProfile) -> Unit:
        mailboxes = tuple(m for m in settings.mailboxes.values() if m.outgoing_profile == profile.name and m.enabled)
        deployments = tuple(settings.deployments[d] for d in sorted({d for m in mailboxes for d in m.deployments}))
        name = f"outgoing {profile.name}"

        def state(word: str, error: str) -> None:
            self._soon(self.mailboxes.report(name, word, error))

        return Unit(
            name,
            (profile, mailboxes, deployments),
            partial(self._open_profile, profile, mailboxes, deployments),
            state,
        )

    @asynccontextmanager
    async def _open_mailbox(
        self, settings: Settings, mailbox: MailboxSettings, deployments: Sequence[Deployment]
    ) -> AsyncIterator[Rounds]:
        profile = settings.incoming[mailbox.incoming_profile]
        async with self.source(settings, mailbox) as (source, folder):
            crms = [await self.crm(deployment) for deployment in deployments]
            ways = self._incoming_ways(mailbox, folder, source, crms)
            gate = self._gates.setdefault(profile.name, asyncio.Semaphore(profile.connections))
            yield MailboxRounds(self, ways, profile.poll_seconds, profile.jitter, gate)

    @asynccontextmanager
    async def _open_listener(
        self,
        name: str,
        profile: IncomingProfile,
        mailboxes: Sequence[MailboxSettings],
        deployments: Mapping[str, Deployment],
    ) -> AsyncIterator[Rounds]:
        await self.mailboxes.added(name)
        connector = CONNECTORS[profile.kind]
        crms = {d.name: await self.crm(d) for d in deployments.values()}
        intakes = {
            m.address: Intake(self._incoming_ways(m, connector.title, None, [crms[d] for d in m.deployments]))
            for m in mailboxes
            if m.enabled
        }
        rounds = ListenerRounds(self, name, intakes, profile.poll_seconds)
        paused = [m.address for m in mailboxes if not m.enabled]
        context = ListenerContext(list(intakes), paused, rounds.push, self.spool)
        assert connector.listener is not None
        async with connector.listener(profile.server, context) as listener:
            maillog.profile_state(name, f"listening on {listener.where}")
            yield rounds

    def _incoming_ways(
        self, mailbox: MailboxSettings, folder: str, source: Source | None, crms: Sequence[Crm]
    ) -> incoming.Ways:
        deployed = {c.deployment.name: incoming.Deployed(c.deployment, c.records, c.filing, c.directory) for c in crms}
        return incoming.Ways(
            mailbox, folder, source, deployed, self.receipts, self.receipts, self.undeliverable, self.sent
        )

    @asynccontextmanager
    async def source(self, settings: Settings, mailbox: MailboxSettings) -> AsyncIterator[tuple[Source, str]]:
        """The mailbox's source, and the folder that it reads."""
        profile = settings.incoming[mailbox.incoming_profile]
        connector = CONNECTORS[profile.kind]
        folder = mailbox.folder or str(getattr(profile.server, "folder", "")) or "INBOX"
        since = mailbox.threshold or (await self.mailboxes.added(mailbox.address)).replace(microsecond=0)
        context = SourceContext(
            mailbox.address,
            folder,
            self.login(mailbox.credentials, profile.credentials, mailbox.address),
            since,
            self.spool,
            partial(self.receipts.known, mailbox.address, folder),
        )
        assert connector.source is not None
        async with connector.source(profile.server, context) as source:
            yield source, folder

    @asynccontextmanager
    async def _open_profile(
        self, profile: OutgoingProfile, mailboxes: Sequence[MailboxSettings], deployments: Sequence[Deployment]
    ) -> AsyncIterator[Rounds]:
        await self.mailboxes.added(f"outgoing {profile.name}")
        connector = CONNECTORS[profile.kind]
        login = self.login(Credentials(), profile.credentials, f"outgoing profile {profile.name}")
        async with AsyncExitStack() as stack:
            assert connector.sender is not None
            senders: list[Sender] = [
                await stack.enter_async_context(connector.sender(profile.server, login))
                for _ in range(profile.connections)
            ]
            yield ProfileRounds(self, profile, mailboxes, [await self.crm(d) for d in deployments], senders)

    def login(self, own: Credentials, profile: Credentials, where: str) -> Login:
        """The mailbox's own credentials, else the profile's; `{address}` in a user name is the mailbox."""
        used = own if own.username or own.secret else profile
        username = (used.username or profile.username).replace("{address}", where)
        return Login(username, partial(resolve, used.secret or profile.secret, self.secrets.read, where))

    def spool(self) -> Spool:
        return Spool(self.spool_directory)

    def _soon(self, work: Any) -> None:
        """Write a state without making the round wait; a database that is away is no reason to fail."""

        async def quietly() -> None:
            with contextlib.suppress(Exception):
                await work

        task = asyncio.create_task(quietly())
        self._states.add(task)
        task.add_done_callback(self._states.discard)

    async def _housekeeping(self) -> None:
        chores = (
            Chore("replies", self._reopen_missed, 15.0),
            Chore("daily dump", self._daily_dump, 3600.0),
            Chore("retention", self.forget, 3600.0),
        )
        while True:
            for chore in chores:
                await chore.attend()
            await asyncio.sleep(15)

    async def _reopen_missed(self) -> None:
        """Looks back to the last time that it worked, and a little more: what was filed long ago is not looked at."""
        now = time.monotonic()
        await self.receipts.reopen_missed(EVER if self._looked is None else now - self._looked + 600.0)
        self._looked = now

    async def forget(self) -> None:
        """What each deployment does not want kept for longer goes, at most an hour late. What went once is not looked
        for again, unless other days were published."""
        await self.retention.forget_pushed()
        for deployment in (await self.settings()).deployments.values():
            raw, untracked = (
                datetime.now(UTC) - timedelta(days=days)
                for days in (deployment.keep_raw_days, deployment.keep_untracked_days)
            )
            key = (deployment.name, deployment.keep_untracked_days)
            since = self._forgot.get(key, LONG_AGO)
            if untracked - since < timedelta(hours=1):
                continue
            await (await self.crm(deployment)).actions.forget_raw(raw)
            await self.retention.forget_untracked(deployment.name, since, untracked)
            self._forgot[key] = untracked

    async def _daily_dump(self) -> None:
        """The embedded database is the only holder of its company's records: dumped each day, seven days kept."""
        directory = self.bootstrap.data_directory / "backups"
        today = daily_name(directory, datetime.now(UTC).date())
        if bool(self.bootstrap.dsn) or await asyncio.to_thread(today.exists):
            return
        await self.backup(today)
        for old in expired(directory):
            old.unlink(missing_ok=True)

    # -- backfill

    @asynccontextmanager
    async def backfill(self, path: Path, mailbox: MailboxSettings, since: datetime | None) -> AsyncIterator[Backfill]:
        """Old mail of `mailbox` from a Maildir or a directory of messages, to be filed by `Backfill.run`."""
        folder = f"import:{path}"
        settings = await self.settings()
        crms = [await self.crm(settings.deployments[name]) for name in mailbox.deployments]
        known = partial(self.receipts.known, mailbox.address, folder)
        login = self.login(Credentials(), Credentials(), mailbox.address)
        context = SourceContext(mailbox.address, folder, login, since, self.spool, known)
        term = await self.shards.take(BACKFILLS + shard_of(mailbox.address), f"backfill on {self.host}")
        connector = maildir.CONNECTOR
        assert connector.source is not None
        async with connector.source(connector.settings(path=str(path)), context) as source:
            target = replace(mailbox, source_action=SourceAction.LEAVE)
            yield Backfill(self._incoming_ways(target, folder, source, crms), term, (await source.usage()).messages)

    # -- backup

    async def backup(self, file: Path) -> dict[str, Any]:
        return await backup(self.engine, self.dsn, file, self.key_name)

    async def restore(self, file: Path, *, replace: bool) -> tuple[dict[str, Any], int]:
        """Restore; what was waiting to be sent is uncertain now, because the original may have sent it since.

        Returns the manifest and how many emails are uncertain.
        """
        manifest = await restore(self.engine, self.dsn, file, replace=replace)
        await _migrate(self.dsn)
        self._settings = NOT_PUBLISHED  # revision numbers of the backup say nothing about what was known before
        settings = await self.settings()
        uncertain = 0
        for profile in settings.outgoing.values():
            term = await self.shards.take(shard_of(f"outgoing {profile.name}"), "restore")
            for deployment in settings.deployments.values():
                uncertain += await self._doubt(settings, profile, deployment, term)
        await restored(self.engine, manifest)
        return manifest, uncertain

    async def _doubt(self, settings: Settings, profile: OutgoingProfile, deployment: Deployment, term: Term) -> int:
        crm = await self.crm(deployment)
        senders = [
            m.address
            for m in settings.mailboxes.values()
            if m.outgoing_profile == profile.name and deployment.name in m.deployments
        ]
        while emails := await crm.outbox.claim(senders, 500, term):
            await self.ledger.open(emails, profile.name, term)
            if len(emails) < 500:
                break
        number = await self.ledger.doubt(profile.name, "restored from a backup: it may have been sent since", term)
        settlements = await self.ledger.unsettled(profile.name, [deployment.name], 10_000)
        if settlements:
            await crm.outbox.settle(settlements, term)
            await self.ledger.settled(settlements, term)
        return number


def _listened_for(settings: Settings) -> list[str]:
    """Incoming profiles that mail is pushed to, as far as a mailbox uses them."""
    used = {m.incoming_profile for m in settings.mailboxes.values() if m.enabled}
    return [n for n, p in settings.incoming.items() if CONNECTORS[p.kind].listener is not None and n in used]


async def _drain(work: Engine, stop: asyncio.Event) -> None:
    await stop.wait()
    work.drain()


@asynccontextmanager
async def opened(bootstrap: Bootstrap, *, beside: bool = False) -> AsyncIterator[Router]:
    """A router on its database: the embedded one, started here, or the shared one that `dsn` names.

    With `beside` (a command of an operator) the database of a router that is running is used.
    Raises NeedsOperator or Transient with what, where and the cure.
    """
    key = load_key(os.environ, Path(bootstrap.key_file) if bootstrap.key_file else None)
    async with AsyncExitStack() as stack:
        dsn = bootstrap.dsn
        postgres = EmbeddedPostgres(bootstrap.data_directory)
        running = beside and not dsn and postgres.in_use()
        if running:
            dsn = postgres.dsn
        if not dsn:
            stack.push_async_callback(postgres.stop)
            await postgres.start()
            watching = asyncio.create_task(_keep_running(postgres))
            stack.push_async_callback(_cancel, watching)
            dsn = postgres.dsn
        if running:
            await _until_reachable(dsn)
        await _migrate(dsn)
        name = f"{new_id().hex[-8:]}@{socket.gethostname()}:{os.getpid()}"
        engine = open_engine(dsn, name=name)
        stack.push_async_callback(engine.dispose)
        router = Router(bootstrap, engine, dsn, key, alone=not bootstrap.dsn, name=name)
        _make_spool(router.spool_directory, clean=router.alone and not running)
        await router.installation.open(router.host, shared=bool(bootstrap.dsn))
        yield router


async def _migrate(dsn: str) -> None:
    await migrate(dsn, store.MIGRATIONS, store.SCHEMA)
    await migrate(dsn, embedded_crm.MIGRATIONS, embedded_crm.SCHEMA)


async def _until_reachable(dsn: str) -> None:
    """The running router may be just starting its database: wait a little. Raises Transient."""
    engine = open_engine(dsn, 1)
    try:
        async with asyncio.timeout(15):
            while True:
                try:
                    async with transaction(engine):
                        return
                except Transient:
                    await asyncio.sleep(0.1)
    except TimeoutError:
        async with transaction(engine):
            return
    finally:
        await engine.dispose()


async def _keep_running(postgres: EmbeddedPostgres) -> None:
    """The embedded server was killed: start it again; the flows wait and go on. Why it cannot be is told once."""
    failures, told = 0, ""
    while True:
        await postgres.wait()
        try:
            await postgres.start()
            if told:
                maillog.mailbox_state("database", "ok")
            failures, told = 0, ""
        except Exception as error:
            failures += 1
            if str(error) != told:
                told = str(error)
                maillog.mailbox_state("database", "away", told)
        await asyncio.sleep(delay(failures, first=0.2, most=5.0) if failures else 0.2)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _make_spool(directory: Path, *, clean: bool) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NeedsOperator(
            "The spool directory cannot be made",
            where=str(directory),
            said=said_by(error),
            cure="give this user the right to write there, or name another data directory",
            scope="router",
        ) from error
    if clean:
        sweep(directory)
