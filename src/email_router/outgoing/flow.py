"""From the CRM to the recipients: `run` is one round of a profile, and reads aloud as

    settle what is known → claim → enter in the ledger → compose → send (mark, hand over) → record → settle

What may fail: before the hand-over mark nothing was handed over, and the email is simply sent later. Between the mark
and the recorded answer lies what nobody can prove: such an email is uncertain, shown, and never sent again by itself.
After the answer is recorded only telling the CRM is repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from email_router.mime.compose import compose
from email_router.model.errors import Fenced, NeedsOperator, Permanent, RouterError, Transient
from email_router.model.message import Content
from email_router.model.outgoing import (
    Envelope,
    LedgerRow,
    OutgoingEmail,
    RecipientResult,
    RecipientState,
    SendState,
    Settlement,
)
from email_router.model.receipt import Term
from email_router.model.settings import OutgoingProfile, UncertainPolicy
from email_router.net.backoff import delay
from email_router.net.spool import Spool
from email_router.observe import maillog
from email_router.observe.failpoint import hit
from email_router.outgoing.together import Together
from email_router.ports.crm import Outbox
from email_router.ports.mail import Sender, Uncertain
from email_router.ports.store import Attempt, Ledger, Settling

ROUND = 500
"""Emails of one round."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A deployment that sends through the profile: its outbox, and the addresses it may send as now."""

    outbox: Outbox
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ways:
    """What the flow of one outgoing profile reaches. Each sender serves one email at a time."""

    profile: OutgoingProfile
    deployments: Mapping[str, Sending]
    ledger: Ledger
    settling: Settling
    senders: Sequence[Sender]
    spool: Callable[[], Spool]


@dataclass(slots=True)
class Report:
    """What one round did; `held` says why nothing may go out."""

    states: dict[SendState, int] = field(default_factory=dict)
    held: str = ""

    @property
    def emails(self) -> int:
        return sum(self.states.values())


async def run(ways: Ways, term: Term) -> Report:
    """One round. Raises Transient or NeedsOperator when the profile's server is away or refuses us, and Fenced."""
    report = Report()
    await _settle(ways, term)
    report.held = await ways.settling.held()
    if report.held:
        return report
    policy = ways.profile.uncertain_policy
    if policy is not UncertainPolicy.ASK:
        hours = ways.profile.uncertain_hours
        await ways.ledger.settle_old(ways.profile.name, policy.value, hours * 3600, term)
    claimed = await _claim(ways, term)
    rows = await ways.ledger.due(ways.profile.name, ROUND, term)
    emails = claimed | await _loaded(ways, [row for row in rows if row.email not in claimed])
    try:
        await _send_all(ways, rows, emails, term, report)
    finally:
        await _settle(ways, term)
    return report


async def _claim(ways: Ways, term: Term) -> dict[UUID, OutgoingEmail]:
    """Pending Send → Sending, and into the ledger; the CRM learns the Message-ID before a reply can name it."""
    claimed: dict[UUID, OutgoingEmail] = {}
    for name, sending in ways.deployments.items():
        hit("before-claim")
        emails = await sending.outbox.claim(sending.addresses, ROUND, term)
        hit("after-claim")
        rows = await ways.ledger.open(emails, ways.profile.name, term)
        hit("after-ledger")
        if rows:
            stamped = [Settlement(r.email, SendState.PENDING, r.stamps.message_id, 0, deployment=name) for r in rows]
            await sending.outbox.settle(stamped, term)
            hit("after-stamp")
        claimed |= {email.id: email for email in emails}
    return claimed


async def _loaded(ways: Ways, rows: Sequence[LedgerRow]) -> dict[UUID, OutgoingEmail]:
    """The emails of earlier rounds again."""
    found: dict[UUID, OutgoingEmail] = {}
    for name, sending in ways.deployments.items():
        ids = [row.email for row in rows if row.deployment == name]
        if ids:
            found |= {email.id: email for email in await sending.outbox.load(ids)}
    return found


async def _send_all(
    ways: Ways, rows: Sequence[LedgerRow], emails: Mapping[UUID, OutgoingEmail], term: Term, report: Report
) -> None:
    """All rows over all senders. When the server fails, the others finish what they hold and the rest stays pending."""
    queue = iter([row for row in rows if row.deployment in ways.deployments])
    mark = Together[UUID](lambda ids: ways.ledger.hand_over(ids, term))
    record = Together[Attempt](lambda attempts: ways.ledger.record(attempts, term))
    pace = _Pace(ways.profile.messages_per_minute)
    failed: list[RouterError] = []

    async def work(sender: Sender) -> None:
        for row in queue:
            await pace()
            try:
                attempt, stop = await _attempt(ways, sender, row, emails.get(row.email), mark)
                hit("before-record")
                await _surely(record, attempt)
                hit("after-record")
            except Fenced as error:  # another router owns the profile now; what we marked becomes uncertain there
                failed.append(error)
                return
            report.states[attempt.state] = report.states.get(attempt.state, 0) + 1
            maillog.sent(row, attempt.state, attempt.said)
            if stop is not None:
                failed.append(stop)
            if failed:
                return

    async with asyncio.TaskGroup() as group:
        for sender in ways.senders:
            group.create_task(work(sender))
    if failed:
        raise failed[0]


async def _surely(record: Callable[[Attempt], Awaitable[None]], attempt: Attempt) -> None:
    """The answer is known and must not be lost because the database is away for a moment: that would be uncertain."""
    tries = 0
    while True:
        try:
            return await record(attempt)
        except (Transient, NeedsOperator) as error:
            tries += 1
            maillog.waiting_for_database(attempt.state.value, error)
            await asyncio.sleep(delay(tries, first=0.2, most=10.0))


async def _attempt(
    ways: Ways, sender: Sender, row: LedgerRow, email: OutgoingEmail | None, mark: Callable[[UUID], Awaitable[None]]
) -> tuple[Attempt, RouterError | None]:
    """Send one email; what to write into the ledger, and the error that stops the profile, if it is one of those."""
    if email is None:
        return Attempt(row.id, SendState.CANCELED, said="canceled in the CRM before it was sent"), None
    handed_over = False

    async def handing_over() -> None:
        nonlocal handed_over
        hit("before-mark")
        await mark(row.id)
        handed_over = True
        hit("after-mark")

    contents: dict[bytes, Content] = {}
    try:
        contents = await _attachments(ways, email)
        message = compose(email, row.stamps, contents)
        results = await sender.send(message, _envelope(email, row), handing_over)
        return _answered(ways.profile, row, results), None
    except Uncertain as error:
        return Attempt(row.id, SendState.UNCERTAIN, said=str(error) or "the answer was never seen"), None
    except Fenced:
        raise
    except Permanent as error:
        return _refused(row, str(error)), None
    except RouterError as error:
        if handed_over:
            return Attempt(row.id, SendState.UNCERTAIN, said=str(error)), None
        return _not_reached(ways.profile, row, error)
    except Exception as error:
        maillog.bug(f"sending {row.stamps.message_id}", error)
        said = f"the router broke: {type(error).__name__}: {error}"
        if handed_over:
            return Attempt(row.id, SendState.UNCERTAIN, said=said), None
        return _refused(row, said), None
    finally:
        for content in contents.values():
            content.discard()


async def _attachments(ways: Ways, email: OutgoingEmail) -> dict[bytes, Content]:
    outbox = ways.deployments[email.deployment].outbox
    contents: dict[bytes, Content] = {}
    for ref in email.attachments:
        if ref.sha256 not in contents:
            spool = ways.spool()
            try:
                async for data in outbox.attachment(email.id, ref):
                    spool.write(data)
            except BaseException:
                spool.abandon()
                raise
            contents[ref.sha256] = spool.finish()
    return contents


def _envelope(email: OutgoingEmail, row: LedgerRow) -> Envelope:
    notify = ("SUCCESS", "FAILURE", "DELAY") if email.delivery_receipt else ()
    return Envelope(email.from_.address, row.pending, row.stamps.envelope_id, notify)


def _answered(profile: OutgoingProfile, row: LedgerRow, results: Sequence[RecipientResult]) -> Attempt:
    """Sent when one recipient accepted and none is pending; Failed when none did; else later, for the deferred only."""
    refusals = "; ".join(f"{r.address}: {r.said or r.code}" for r in results if r.state is not RecipientState.ACCEPTED)
    deferred = any(r.state is RecipientState.DEFERRED for r in results)
    if deferred and row.attempts + 1 < profile.attempts:
        return Attempt(row.id, SendState.PENDING, tuple(results), refusals, profile.retry_seconds)
    accepted = row.accepted or any(r.state is RecipientState.ACCEPTED for r in results)
    if deferred:
        refusals += f" (given up after {row.attempts + 1} attempts)"
    return Attempt(row.id, SendState.SENT if accepted else SendState.FAILED, tuple(results), refusals)


def _not_reached(profile: OutgoingProfile, row: LedgerRow, error: RouterError) -> tuple[Attempt, RouterError | None]:
    """Nothing was handed over. Only an answer to this message counts as an attempt; the server's absence does not."""
    if isinstance(error, NeedsOperator) and error.scope == "message":
        return _refused(row, str(error)), None
    if datetime.now(UTC) - row.stamps.date > timedelta(hours=profile.give_up_hours):
        return _refused(row, f"given up after {profile.give_up_hours:g} hours: {error}"), error
    wait = error.retry_after if isinstance(error, Transient) and error.retry_after is not None else 1.0
    return Attempt(row.id, SendState.PENDING, said=str(error), retry_seconds=wait, counted=False), error


def _refused(row: LedgerRow, said: str) -> Attempt:
    state = SendState.SENT if row.accepted else SendState.FAILED
    results = tuple(RecipientResult(address, RecipientState.REFUSED, said=said) for address in row.pending)
    return Attempt(row.id, state, results, said)


async def _settle(ways: Ways, term: Term) -> None:
    """Tell the CRMs what became of their emails, until they know."""
    while settlements := await ways.settling.unsettled(ways.profile.name, list(ways.deployments), ROUND):
        for name, sending in ways.deployments.items():
            mine = [s for s in settlements if s.deployment == name]
            if mine:
                hit("before-settle")
                await sending.outbox.settle(mine, term)
                hit("after-settle")
                await ways.settling.settled(mine, term)
                hit("after-settled")


class _Pace:
    """At most so many messages a minute, evenly; 0 means no limit."""

    def __init__(self, per_minute: float) -> None:
        self._gap = 60.0 / per_minute if per_minute > 0 else 0.0
        self._next = 0.0

    async def __call__(self) -> None:
        if not self._gap:
            return
        now = asyncio.get_running_loop().time()
        at = max(now, self._next)
        self._next = at + self._gap
        await asyncio.sleep(at - now)
