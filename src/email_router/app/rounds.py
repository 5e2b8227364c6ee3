"""How a mailbox and an outgoing profile are served in rounds: `work.units.Rounds`, over the two flows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from email_router.incoming import flow as incoming
from email_router.incoming.pushed import AT_WORK, Intake, Room
from email_router.model.errors import Fenced, NeedsOperator, RouterError, Transient
from email_router.model.mailbox import AccessMethod, Approval, MailboxKind
from email_router.model.message import ParsedEmail
from email_router.model.receipt import Term
from email_router.model.settings import Deployment, MailboxSettings, OutgoingProfile
from email_router.observe import maillog
from email_router.outgoing import flow as outgoing
from email_router.ports.mail import Pushed, Sender

if TYPE_CHECKING:
    from email_router.app.router import Crm, Router

DATABASE_SECONDS = 5.0
"""How soon a listener looks again at a database that was away."""
OUTGOING_SECONDS = 2.0
"""How often the outbox is looked at when nobody tells of a new email."""


class MailboxRounds:
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
        report = incoming.Report()
        try:
            async with self._gate:
                await incoming.run(self._ways, term, report=report)
        except RouterError:
            with suppress(RouterError):
                await self._tell(report)
            raise
        await self._tell(report)
        period = self._poll * random.uniform(1 - self._jitter, 1 + self._jitter)  # noqa: S311 - spreads load
        return min(period, report.again) if report.again is not None else period

    async def _tell(self, report: incoming.Report) -> None:
        """How far behind, and how many older messages were passed over: also of a round that failed later."""
        if report.messages or report.older:
            await self._router.mailboxes.report(self._ways.mailbox.address, "ok", "", report.lag, report.older)

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


class ListenerRounds:
    """`work.units.Rounds` of a profile that mail is pushed to; `push` is what its listener calls meanwhile.

    While the database is away the listener stays: whoever delivers is told to come again.
    """

    def __init__(self, router: Router, name: str, intakes: Mapping[str, Intake], poll: float) -> None:
        self._router = router
        self._name = name
        self._intakes = intakes
        self._poll = poll
        self._room = Room(AT_WORK)
        self._term: Term | None = None
        self._fenced: Fenced | None = None
        self._wake = asyncio.Event()
        self._pushed: set[str] = set()
        self._known: set[str] = set()

    async def push(self, message: Pushed, mailboxes: Sequence[str]) -> AsyncGenerator[str | RouterError, None]:
        """`ports.mail.Push`."""
        async with self._room.of(message.content.size):
            email = await incoming.parsed(message.content)
            for address in mailboxes:
                yield await self._take(address, message, email)

    async def _take(self, address: str, message: Pushed, email: ParsedEmail) -> str | RouterError:
        if self._term is None:
            return Transient("the router is starting")
        self._pushed.add(address)
        answer = await self._intakes[address].take(message, email, self._term)
        if address not in self._known:  # the first of a mailbox is told at once, later ones at the next round
            self._known.add(address)
            self._wake.set()
        if isinstance(answer, Fenced):
            self._fenced = answer
            self._wake.set()
        return answer

    async def run(self, term: Term) -> float:
        self._term = term
        if self._fenced is not None:
            raise self._fenced
        try:
            await self._router.shards.check(term)
            reports = [await intake.left_over(term) for intake in self._intakes.values()]
            while self._pushed:
                await self._router.mailboxes.report(self._pushed.pop(), "ok")
        except (Transient, NeedsOperator) as error:
            maillog.profile_state(self._name, "away", str(error))
            return min(self._poll, DATABASE_SECONDS)
        return min([self._poll, *(report.again for report in reports if report.again is not None)])

    async def wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()


class ProfileRounds:
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
