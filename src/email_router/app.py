"""The composition: the only place that names concrete adapters.

`Router` opens the database and what lies in it, and hands out the ports; `units` says what a shard serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from email_router import store
from email_router.crm import embedded as embedded_crm
from email_router.crm.embedded import organization
from email_router.crm.embedded.actions import Actions
from email_router.crm.embedded.directory import Directory
from email_router.crm.embedded.filing import Filing
from email_router.crm.embedded.outbox import Outbox
from email_router.crm.embedded.records import Records
from email_router.incoming import flow as incoming
from email_router.mail import imap, pop3, smtp
from email_router.model.errors import NeedsOperator
from email_router.model.mailbox import AccessMethod, Approval, MailboxKind
from email_router.model.receipt import Term
from email_router.model.settings import Credentials, Deployment, MailboxSettings, OutgoingProfile, Settings
from email_router.net.postgres import open_engine
from email_router.net.spool import Spool, sweep
from email_router.outgoing import flow as outgoing
from email_router.ports.crm import Filing as FilingPort
from email_router.ports.mail import Connector, Login, Sender, Source, SourceContext
from email_router.settings.bootstrap import Bootstrap
from email_router.settings.problems import Problem
from email_router.settings.read import Kind, read
from email_router.settings.secret import resolve
from email_router.store.decisions import Decisions
from email_router.store.embedded import EmbeddedPostgres
from email_router.store.installation import Installation, Mailboxes, Revisions
from email_router.store.ledger import Ledger, Outgoing
from email_router.store.migrate import migrate
from email_router.store.receipts import Receipts
from email_router.store.secrets import Secrets, load_key
from email_router.store.shards import Shards
from email_router.store.undeliverable import Undeliverable
from email_router.web.status import Snapshot
from email_router.work.engine import Engine
from email_router.work.pokes import Pokes
from email_router.work.shard import shard_of
from email_router.work.units import Rounds, Unit

CONNECTORS: dict[str, Connector] = {c.name: c for c in (imap.CONNECTOR, pop3.CONNECTOR, smtp.CONNECTOR)}
KINDS: dict[str, Kind] = {
    name: Kind(c.settings, receives=c.source is not None, sends=c.sender is not None, check=c.check)
    for name, c in CONNECTORS.items()
}
OUTGOING_SECONDS = 2.0
"""How often the outbox is looked at when nobody tells of a new email."""


@dataclass(frozen=True, slots=True)
class Crm:
    """One deployment's CRM."""

    deployment: Deployment
    records: Records
    filing: FilingPort
    outbox: Outbox
    directory: Directory
    actions: Actions


class Router:
    """One process of the Email Router. Use `opened`."""

    def __init__(self, bootstrap: Bootstrap, engine: AsyncEngine, dsn: str, key: bytes | None, *, alone: bool) -> None:
        self.bootstrap = bootstrap
        self.engine = engine
        self.dsn = dsn
        self.alone = alone
        self.spool_directory = bootstrap.data_directory / "spool"
        self.receipts = Receipts(engine)
        self.ledger = Ledger(engine)
        self.undeliverable = Undeliverable(engine)
        self.mailboxes = Mailboxes(engine)
        self.revisions = Revisions(engine)
        self.installation = Installation(engine)
        self.secrets = Secrets(engine, key)
        self.decisions = Decisions(engine)
        self.outgoing = Outgoing(engine)
        self.pokes = Pokes(dsn)
        self.filing_through: Callable[[FilingPort], FilingPort] = lambda filing: filing
        """Lets the demo's CRM refuse a message."""
        self._settings: tuple[int, Settings] | None = None
        self._crms: dict[str, Crm] = {}
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._states: set[asyncio.Task[None]] = set()

    # -- settings

    async def settings(self) -> Settings:
        """The active revision; no mailboxes and no deployments before the first publication."""
        active = await self.revisions.active()
        if active is None:
            return Settings(0, {}, {}, {}, {})
        number, source = active
        if self._settings is None or self._settings[0] != number:
            settings, _ = read(source, KINDS, file=f"revision {number}", revision=number)
            self._settings = (number, settings)
            self._crms.clear()
        return self._settings[1]

    async def publish(self, text: str, who: str, file: str) -> tuple[int, tuple[Problem, ...]]:
        """Validate and activate; organizations that the embedded CRM does not have yet are made. Raises Invalid."""
        settings, warnings = read(text, KINDS, file=file)
        for deployment in settings.deployments.values():
            await organization.create(self.engine, deployment.organization)
        for address in settings.mailboxes:
            await self.mailboxes.added(address)  # mail from now on counts, not from whenever a router comes round to it
        return await self.revisions.publish(text, who), warnings

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
            hold=await self.ledger.held(),
            mailboxes=await self.mailboxes.listing(),
            outcomes=await self.decisions.counts(),
            outgoing=await self.outgoing.counts(),
            decisions=await self.decisions.search(limit=50),
            undeliverable=await self.undeliverable.listing(limit=20),
        )

    # -- work

    async def run(self, stop: asyncio.Event) -> None:
        """Serve shards until `stop` is set; then finish what is begun."""
        work = Engine(
            self.engine,
            self.dsn,
            Shards(self.engine).take,
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
        """What a shard serves now: mailboxes to read, and profiles to send through."""
        settings = await self.settings()
        found = [
            self._mailbox_unit(settings, mailbox)
            for name, mailbox in settings.mailboxes.items()
            if shard_of(name) == shard and mailbox.enabled and mailbox.incoming_profile
        ]
        used = {m.outgoing_profile for m in settings.mailboxes.values() if m.enabled}
        found += [
            self._profile_unit(settings, profile)
            for name, profile in settings.outgoing.items()
            if shard_of(f"outgoing {name}") == shard and name in used
        ]
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
            ways = incoming.Ways(
                mailbox,
                folder,
                source,
                {c.deployment.name: incoming.Deployed(c.deployment, c.records, c.filing, c.directory) for c in crms},
                self.receipts,
                self.receipts,
                self.undeliverable,
            )
            gate = self._gates.setdefault(profile.name, asyncio.Semaphore(profile.connections))
            yield _MailboxRounds(self, ways, profile.poll_seconds, profile.jitter, gate)

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
            yield _ProfileRounds(self, profile, mailboxes, [await self.crm(d) for d in deployments], senders)

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
        while True:
            await asyncio.sleep(15)
            with contextlib.suppress(Exception):
                await self.receipts.reopen_missed()


class _MailboxRounds:
    """`work.units.Rounds` of a mailbox."""

    def __init__(
        self, router: Router, ways: incoming.Ways, poll: float, jitter: float, gate: asyncio.Semaphore
    ) -> None:
        self._router = router
        self._ways = ways
        self._poll = poll
        self._jitter = jitter
        self._gate = gate

    async def run(self, term: Term) -> float:
        async with self._gate:
            report = await incoming.run(self._ways, term)
        if report.messages or report.older:
            await self._router.mailboxes.report(self._ways.mailbox.address, "ok", "", report.lag, report.older)
        period = self._poll * random.uniform(1 - self._jitter, 1 + self._jitter)  # noqa: S311 - spreads load
        return min(period, report.again) if report.again is not None else period

    async def wait(self, seconds: float) -> None:
        address = self._ways.mailbox.address
        changed = getattr(self._ways.source, "changed", None)
        waits = [asyncio.ensure_future(self._router.pokes.wait(address, seconds))]
        if changed is not None:
            waits.append(asyncio.ensure_future(changed(seconds)))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


class _ProfileRounds:
    """`work.units.Rounds` of an outgoing profile."""

    def __init__(
        self,
        router: Router,
        profile: OutgoingProfile,
        mailboxes: Sequence[MailboxSettings],
        crms: Sequence[Crm],
        senders: Sequence[Sender],
    ) -> None:
        self._router = router
        self._profile = profile
        self._mailboxes = mailboxes
        self._crms = crms
        self._senders = senders

    async def run(self, term: Term) -> float:
        ways = outgoing.Ways(
            self._profile,
            {crm.deployment.name: outgoing.Sending(crm.outbox, await self._addresses(crm)) for crm in self._crms},
            self._router.ledger,
            self._router.ledger,
            self._senders,
            self._router.spool,
        )
        report = await outgoing.run(ways, term)
        return 0.0 if report.emails else OUTGOING_SECONDS

    async def wait(self, seconds: float) -> None:
        await self._router.pokes.wait("outgoing", seconds)

    async def _addresses(self, crm: Crm) -> tuple[str, ...]:
        """Who may send now: published for this profile and deployment, and allowed to by the CRM."""
        mine = {m.address.casefold() for m in self._mailboxes if crm.deployment.name in m.deployments}
        return tuple(
            receiver.address
            for receiver in await crm.directory.receivers()
            if receiver.address.casefold() in mine
            and receiver.enabled
            and receiver.outgoing is AccessMethod.ROUTER
            and (receiver.approval is Approval.APPROVED or not _approval_wanted(crm.deployment, receiver.kind))
        )


def _approval_wanted(deployment: Deployment, kind: MailboxKind) -> bool:
    tracking = deployment.tracking
    return tracking.approved_queues_only if kind is MailboxKind.QUEUE else tracking.approved_users_only


async def _drain(work: Engine, stop: asyncio.Event) -> None:
    await stop.wait()
    work.drain()


@asynccontextmanager
async def opened(bootstrap: Bootstrap) -> AsyncIterator[Router]:
    """A router on its database: the embedded one, started here, or the shared one that `dsn` names.

    Raises NeedsOperator or Transient with what, where and the cure.
    """
    key = load_key(os.environ, Path(bootstrap.key_file) if bootstrap.key_file else None)
    async with AsyncExitStack() as stack:
        dsn = bootstrap.dsn
        if not dsn:
            postgres = EmbeddedPostgres(bootstrap.data_directory)
            stack.push_async_callback(postgres.stop)
            await postgres.start()
            watching = asyncio.create_task(_keep_running(postgres))
            stack.push_async_callback(_cancel, watching)
            dsn = postgres.dsn
        await migrate(dsn, store.MIGRATIONS, store.SCHEMA)
        await migrate(dsn, embedded_crm.MIGRATIONS, embedded_crm.SCHEMA)
        engine = open_engine(dsn)
        stack.push_async_callback(engine.dispose)
        router = Router(bootstrap, engine, dsn, key, alone=not bootstrap.dsn)
        _make_spool(router.spool_directory, clean=router.alone)
        await router.installation.open(socket.gethostname(), shared=bool(bootstrap.dsn))
        yield router


async def _keep_running(postgres: EmbeddedPostgres) -> None:
    """The embedded server was killed: start it again; the flows wait and go on."""
    while True:
        await postgres.wait()
        with contextlib.suppress(Exception):
            await postgres.start()
        await asyncio.sleep(0.2)


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
            said=str(error),
            cure="give this user the right to write there, or name another data directory",
            scope="router",
        ) from error
    if clean:
        sweep(directory)
