"""How a mailbox and an outgoing profile are served in rounds: `work.units.Rounds`, over the two flows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from email_router.incoming import flow as incoming
from email_router.model.errors import RouterError
from email_router.model.mailbox import AccessMethod, Approval, MailboxKind
from email_router.model.receipt import Term
from email_router.model.settings import Deployment, MailboxSettings, OutgoingProfile
from email_router.outgoing import flow as outgoing
from email_router.ports.mail import Sender

if TYPE_CHECKING:
    from email_router.app.router import Crm, Router

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
