"""From a mailbox to the CRM: `run` is the flow, and reads aloud as

    receive → note → unwrap → parse → judge → file → conclude → acknowledge

What may fail: anything, at any point, and nothing is lost: until a receipt is closed the message lies in its mailbox
(or, undeliverable, with its raw bytes in our store), and whoever serves the mailbox next finds the open receipt. What
is done twice is harmless because a message is filed by its identity. A message that fails is set aside with its cause;
a CRM that is away postpones only what is meant for it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

from email_router.incoming import reports
from email_router.incoming.forwarded import Letter, Seen, in_order, letters_of, parsed
from email_router.model.errors import Fenced, NeedsOperator, Permanent, RouterError, Transient
from email_router.model.filing import Filed, FilingItem, FilingResult, NotFiled
from email_router.model.mailbox import MailboxKind, SourceAction
from email_router.model.message import Content, DeliveryKey, ParsedEmail, RawMessage
from email_router.model.receipt import Decision, Outcome, Receipt, Term
from email_router.model.settings import Deployment, MailboxSettings
from email_router.model.verdict import Verdict
from email_router.net.backoff import delay
from email_router.observe import maillog
from email_router.observe.failpoint import hit
from email_router.ports.crm import Directory, Filing, Judge
from email_router.ports.mail import Batch, Limit, Source
from email_router.ports.store import Conclusion, Cursors, Kept, Receipts, Sent

BATCH = Limit()
AT_ONCE = 25
"""Receipts taken up again in one go: nobody knows how large their messages are until they are there."""
TRIES = 10
"""So often an item that the CRM fails on by itself is tried before it is undeliverable."""
GIVE_UP_AFTER = 3
"""So many messages one after the other that a mailbox would not change: then it is the mailbox, not the message."""
KEPT = frozenset({Outcome.UNDELIVERABLE})
"""Outcomes with which we keep a message's bytes."""
KEPT_OF_PUSHED = KEPT | {Outcome.NOT_TRACKED}
"""The same where no mailbox has them: a parent that comes later needs them."""
LONGEST_ID = 900
"""Longer ids of other messages are not remembered: no index takes them, and no honest sender makes them."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """One deployment that a mailbox serves, and its CRM's ports."""

    settings: Deployment
    judge: Judge
    filing: Filing
    directory: Directory


@dataclass(frozen=True, slots=True)
class Ways:
    """What the flow of one mailbox reaches."""

    mailbox: MailboxSettings
    folder: str
    source: Source | None
    """None for a mailbox that mail is pushed to: what was not kept by us exists nowhere we could look."""
    deployments: Mapping[str, Deployed]
    receipts: Receipts
    cursors: Cursors
    kept: Kept
    sent: Sent
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Reading ahead and acknowledging take turns at the source."""
    later: float | None = None
    """Seconds until what is not decided now is looked at again; None leaves that to the error and its repetition."""


@dataclass(slots=True)
class Report:
    """What one run did."""

    messages: int = 0
    older: int = 0
    lag: float | None = None
    """Seconds from the server's time of the newest message to its outcome."""
    again: float | None = None
    """Seconds until the first postponed receipt is due."""
    error: RouterError | None = None
    """Why something was postponed."""
    outcomes: dict[Outcome, int] = field(default_factory=dict)
    unchanged: RouterError | None = None
    """Why the mailbox did not let us mark, move or delete what has its outcome."""


@dataclass(frozen=True, slots=True)
class Read:
    """A batch with what its messages say: reading and parsing run ahead of filing."""

    batch: Batch
    emails: tuple[ParsedEmail, ...]


async def run(ways: Ways, term: Term, limit: Limit = BATCH, report: Report | None = None) -> Report:
    """Everything that the mailbox holds now. Raises Transient, NeedsOperator (the mailbox) or Fenced (stop at once)."""
    report = report or Report()
    await _take_up_again(ways, term, report)
    cursor = await ways.cursors.load(ways.mailbox.address, ways.folder)
    ahead = asyncio.create_task(_read(ways, cursor, limit))
    try:
        while True:
            read = await ahead
            if read.batch.more:
                ahead = asyncio.create_task(_read(ways, read.batch.cursor, limit))
            await _handle_batch(ways, read, term, report)
            if not read.batch.more:
                break
    finally:
        ahead.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await ahead
    if (error := report.unchanged) is not None:  # new mail goes on, so that this is no reason for a long pause
        raise Transient(error.what, where=error.where, cure=error.cure, said=error.said, scope=error.scope)
    return report


async def _read(ways: Ways, cursor: str, limit: Limit) -> Read:
    assert ways.source is not None
    async with ways.turn:
        batch = await ways.source.receive(cursor, limit)
    emails = []
    for raw in batch.items:
        emails.append(await parsed(raw.content))
        await asyncio.sleep(0)  # filing the batch before goes on with what the database answered meanwhile
    return Read(batch, tuple(emails))


async def _handle_batch(ways: Ways, read: Read, term: Term, report: Report) -> None:
    batch = read.batch
    keys = [raw.key for raw in batch.items] + [key for key, _ in batch.unreadable] + list(batch.passed)
    hit("before-note")
    receipts = await ways.receipts.note(
        ways.mailbox.deployments, ways.mailbox.address, ways.folder, keys, batch.cursor, term
    )
    hit("after-note")
    report.older += batch.older
    await conclude(ways, _without_content(batch, receipts), term, report)
    messages = {raw.key: (raw, email) for raw, email in zip(batch.items, read.emails, strict=True)}
    seen = [Seen(r, *messages[r.key]) for r in receipts if r.key in messages]
    await handle(ways, seen, term, report)
    for raw in batch.items:
        raw.content.discard()


async def handle(ways: Ways, seen: Sequence[Seen], term: Term, report: Report) -> None:
    """Judge, file and conclude, deployment by deployment: one that is away does not hold up the others."""
    for name, deployed in ways.deployments.items():
        mine = [s for s in seen if s.receipt.deployment == name]
        if not mine:
            continue
        try:
            told = await _judged_and_filed(ways, deployed, mine, term)
        except (Transient, NeedsOperator) as error:  # of the CRM; what the mailbox or our store raises passes through
            await _postpone(ways, [s.receipt for s in mine], error, term, report)
        else:
            await _settled(ways, name, told, term, report)
    orphans = [s for s in seen if s.receipt.deployment not in ways.deployments]
    await conclude(ways, [_orphan(s) for s in orphans], term, report)


async def _judged_and_filed(ways: Ways, deployed: Deployed, seen: Sequence[Seen], term: Term) -> list[Told]:
    letters, refused = await letters_of(ways.mailbox, deployed.directory, seen)
    items = await reports.with_reports([letter.incoming for letter in letters], deployed.settings.name, ways.sent)
    letters = [replace(letter, incoming=item) for letter, item in zip(letters, items, strict=True)]
    judged = await _judged(deployed, in_order(letters))
    verdicts = [(letter, verdict) for letter, verdict in judged if isinstance(verdict, Verdict)]
    told = [
        *(Told(r.seen, r.outcome, reason=r.reason, why=r.why) for r in refused),
        *(_bug(letter, error) for letter, error in judged if isinstance(error, Exception)),
        *await _filed(deployed, verdicts, term),
    ]
    await reports.apply(verdicts, deployed.settings.name, ways.sent, term)
    return told


async def _settled(ways: Ways, deployment: str, told: Sequence[Told], term: Term, report: Report) -> None:
    """Conclude what has an outcome; an item that the CRM failed on for the moment is tried again, a few times."""
    late = [t for t in told if isinstance(t.error, Transient) and t.seen.receipt.attempts < TRIES]
    if late and late[0].error is not None:
        await _postpone(ways, [t.seen.receipt for t in late], late[0].error, term, report)
    waiting = {t.seen.receipt.id for t in late}
    kept = KEPT if ways.source is not None else KEPT_OF_PUSHED
    conclusions = _combined([t for t in told if t.seen.receipt.id not in waiting], kept)
    await conclude(ways, conclusions, term, report)
    arrived = [c.decision.message_id for c in conclusions if c.decision.outcome in (Outcome.FILED, Outcome.DUPLICATE)]
    if arrived:
        await ways.receipts.reopen_waiting_for(deployment, arrived, term)


async def _judged(deployed: Deployed, letters: Sequence[Letter]) -> list[tuple[Letter, Verdict | Exception]]:
    """A verdict for each letter; where judging itself breaks, each is judged alone so that one harms only itself."""
    try:
        verdicts = await deployed.judge.judge([letter.incoming for letter in letters])
        return list(zip(letters, verdicts, strict=True))
    except RouterError:
        raise
    except Exception as error:
        if len(letters) == 1:
            return [(letters[0], error)]
    return [pair for letter in letters for pair in await _judged(deployed, [letter])]


async def _filed(deployed: Deployed, verdicts: Sequence[tuple[Letter, Verdict]], term: Term) -> list[Told]:
    accepted = [(letter, verdict) for letter, verdict in verdicts if verdict.accept]
    results: Sequence[FilingResult] = ()
    if accepted:
        hit("before-file")
        results = await deployed.filing.file(
            [FilingItem(letter.incoming, verdict, letter.raw) for letter, verdict in accepted], term
        )
        hit("after-file")
    planned = {verdict.activity: result for (_, verdict), result in zip(accepted, results, strict=True)}
    told = [_told(letter, verdict, result) for (letter, verdict), result in zip(accepted, results, strict=True)]
    told += [_not_accepted(letter, v, planned.get(v.activity)) for letter, v in verdicts if not v.accept]
    copies = [
        (t.activity, t.letter.incoming.receiving)
        for t in told
        if t.letter is not None and t.verdict is not None and t.verdict.is_duplicate and t.activity is not None
    ]
    if copies:
        hit("before-join")
        await deployed.filing.join(copies, term)
        hit("after-join")
    return told


async def conclude(ways: Ways, conclusions: Sequence[Conclusion], term: Term, report: Report) -> None:
    """Outcome and decision in one commit; the source is changed after it, and only then the receipts close."""
    if not conclusions:
        return
    leave = ways.mailbox.source_action is SourceAction.LEAVE
    hit("before-conclude")
    await ways.receipts.conclude(conclusions, term, close=leave)
    hit("after-conclude")
    for conclusion in conclusions:
        outcome = conclusion.decision.outcome
        report.messages += 1
        report.outcomes[outcome] = report.outcomes.get(outcome, 0) + 1
        maillog.decided(conclusion.receipt, conclusion.decision)
    received = [c.decision.received for c in conclusions if c.decision.received is not None]
    if received:
        report.lag = (datetime.now(UTC) - max(received)).total_seconds()
    if not leave:
        await _acknowledge(ways, [c.receipt for c in conclusions], term, report)


async def _acknowledge(ways: Ways, receipts: Sequence[Receipt], term: Term, report: Report) -> None:
    """Change the source where every deployment has its outcome, then close.

    What the source does not change is tried again later: it must not hold up the mail behind it.
    """
    outcomes = await ways.receipts.outcomes([r.key for r in receipts])
    ready = [key for key, all_of_it in outcomes.items() if None not in all_of_it and key.folder == ways.folder]
    change = [key for key in ready if any(_may_change(ways.mailbox, o) for o in outcomes[key] if o is not None)]
    unchanged = await _unchanged(ways, change, alone=any(r.attempts for r in receipts)) if change else {}
    late = [r for r in receipts if r.key in unchanged]
    if late:
        report.unchanged = next(iter(unchanged.values()))
        await _postpone(ways, late, report.unchanged, term, report)
    hit("before-close")
    await ways.receipts.close([r for r in receipts if r.key not in unchanged], term)
    hit("after-close")


async def _unchanged(ways: Ways, keys: Sequence[DeliveryKey], *, alone: bool) -> dict[DeliveryKey, RouterError]:
    """Change these in the source; returns those that it did not change, and why.

    All in one go; `alone`, when that failed before: one by one, until it fails at one after the other.
    """
    unchanged: dict[DeliveryKey, RouterError] = {}
    error: RouterError | None = None
    in_a_row = 0
    for group in [[key] for key in keys] if alone else [keys]:
        if in_a_row < GIVE_UP_AFTER:
            error = await _change(ways, group)
            in_a_row = in_a_row + 1 if error is not None else 0
        if error is not None:
            unchanged |= dict.fromkeys(group, error)
    return unchanged


async def _change(ways: Ways, keys: Sequence[DeliveryKey]) -> RouterError | None:
    assert ways.source is not None
    hit("before-acknowledge")
    try:
        async with ways.turn:
            await ways.source.acknowledge(keys, ways.mailbox.source_action, ways.mailbox.move_to)
    except (Transient, NeedsOperator) as error:
        return error
    hit("after-acknowledge")
    return None


def _may_change(mailbox: MailboxSettings, outcome: Outcome) -> bool:
    """People's mail that is not tracked stays as it is; a forward mailbox holds nothing but copies for us."""
    if outcome is Outcome.NOT_TRACKED:
        return mailbox.kind is MailboxKind.FORWARD
    return outcome in (Outcome.FILED, Outcome.DUPLICATE)


async def _postpone(ways: Ways, receipts: Sequence[Receipt], error: RouterError, term: Term, report: Report) -> None:
    asked = error.retry_after if isinstance(error, Transient | NeedsOperator) else None
    if asked is None:
        asked = 60.0 if isinstance(error, NeedsOperator) else delay(max(r.attempts for r in receipts) + 1, first=2.0)
    seconds = asked if ways.later is None else ways.later
    report.again = min(seconds, report.again) if report.again is not None else seconds
    report.error = error
    maillog.postponed(receipts, seconds, error)
    await ways.receipts.postpone(receipts, seconds, str(error), term)


# -- what was left over


async def _take_up_again(ways: Ways, term: Term, report: Report) -> None:
    """Open receipts from before: a router that ended half-way, a CRM that was away, a retry that somebody asked for."""
    while True:
        waiting = await ways.receipts.waiting(ways.mailbox.address, ways.folder, AT_ONCE)
        concluded = [r for r in waiting if r.outcome is not None]
        if concluded:
            await _acknowledge(ways, concluded, term, report)
        again = [r for r in waiting if r.outcome is None]
        if again:
            kept = await ways.kept.kept(again)
            await handle(ways, [await from_kept(r, kept[r.id]) for r in again if r.id in kept], term, report)
            await _fetch_again(ways, [r for r in again if r.id not in kept], term, report)
        if len(waiting) < AT_ONCE:
            return


async def _fetch_again(ways: Ways, receipts: Sequence[Receipt], term: Term, report: Report) -> None:
    if not receipts:
        return
    keys = list(dict.fromkeys(r.key for r in receipts))
    raws, unreadable = await _fetched(ways, keys)
    messages = {raw.key: (raw, await parsed(raw.content)) for raw in raws}
    seen = [Seen(r, *messages[r.key]) for r in receipts if r.key in messages]
    missing = [r for r in receipts if r.key not in messages]
    await conclude(ways, [_missing(r, unreadable.get(r.key)) for r in missing], term, report)
    await handle(ways, seen, term, report)


async def _fetched(ways: Ways, keys: Sequence[DeliveryKey]) -> tuple[list[RawMessage], dict[DeliveryKey, Permanent]]:
    """These messages; when one of them cannot be had for good, one by one."""
    assert ways.source is not None
    try:
        async with ways.turn:
            return list(await ways.source.fetch(keys)), {}
    except Permanent as error:
        if len(keys) == 1:
            return [], {keys[0]: error}
    found: list[RawMessage] = []
    refused: dict[DeliveryKey, Permanent] = {}
    for key in keys:
        raws, errors = await _fetched(ways, [key])
        found += raws
        refused |= errors
    return found, refused


async def from_kept(receipt: Receipt, content: Content) -> Seen:
    return Seen(receipt, RawMessage(receipt.key, content, receipt.seen), await parsed(content))


# -- outcomes in words


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one letter; a receipt whose forward held several letters has several."""

    seen: Seen
    outcome: Outcome
    reason: str
    why: tuple[str, ...]
    letter: Letter | None = None
    verdict: Verdict | None = None
    activity: UUID | None = None
    error: RouterError | None = None
    traceback: str = ""


def _told(letter: Letter, verdict: Verdict, result: FilingResult) -> Told:
    if not isinstance(result, Filed):
        why = (f"It could not be filed: {result.error}",)
        return Told(
            letter.seen, Outcome.UNDELIVERABLE, "not filed", why, letter, verdict, None, result.error, result.traceback
        )
    if result.created:
        return Told(letter.seen, Outcome.FILED, verdict.reason.label, verdict.why, letter, verdict, result.activity)
    words = ("Already tracked: the same message was filed meanwhile; this mailbox is added to it.", *verdict.why)
    return Told(letter.seen, Outcome.DUPLICATE, "Duplicate", words, letter, verdict, result.activity)


def _not_accepted(letter: Letter, verdict: Verdict, first: FilingResult | None) -> Told:
    """Of a copy within the batch `first` tells what became of the one that was filed for both."""
    if isinstance(first, NotFiled):
        return _told(letter, verdict, first)
    outcome, activity = Outcome.NOT_TRACKED, None
    if verdict.is_duplicate:
        outcome, activity = Outcome.DUPLICATE, first.activity if first is not None else verdict.activity
    return Told(letter.seen, outcome, verdict.reason.label, verdict.why, letter, verdict, activity)


def _bug(letter: Letter, error: Exception) -> Told:
    maillog.bug(f"judging {letter.seen.receipt.key}", error)
    trace = "".join(traceback.format_exception(error))
    told = Permanent(
        "Judging this message broke", said=f"{type(error).__name__}: {error}", cure="report it with the message"
    )
    return Told(letter.seen, Outcome.UNDELIVERABLE, "bug", (str(told),), letter, error=told, traceback=trace)


_STRENGTH = (
    Outcome.UNDELIVERABLE,
    Outcome.FILED,
    Outcome.DUPLICATE,
    Outcome.NOT_TRACKED,
)


def _combined(told: Sequence[Told], kept: Collection[Outcome]) -> list[Conclusion]:
    """One conclusion per receipt. Of several letters the strongest outcome names it, and all reasons are told."""
    by_receipt: dict[object, list[Told]] = {}
    for one in told:
        by_receipt.setdefault(one.seen.receipt.id, []).append(one)
    groups = [sorted(group, key=lambda t: _STRENGTH.index(t.outcome)) for group in by_receipt.values()]
    return [_conclusion(group, kept) for group in groups]


def _conclusion(group: Sequence[Told], kept: Collection[Outcome]) -> Conclusion:
    first = group[0]
    email = first.letter.incoming.email if first.letter is not None else first.seen.email
    verdict, error = first.verdict, first.error
    prefix: tuple[str, ...] = first.letter.why if first.letter is not None else ()
    why: tuple[str, ...] = (*prefix, *(line for one in group for line in one.why))
    named = (*email.in_reply_to, *reversed(email.references)) if verdict is None or verdict.correlated is None else ()
    decision = Decision(
        first.outcome,
        first.reason,
        why,
        losing=verdict.losing if verdict is not None else (),
        message_id=email.message_id,
        identity=email.identity,
        sender=email.author.address if email.author is not None else "",
        recipients=tuple(a.address for a in email.recipients[:20]),
        subject=email.subject[:500],
        received=first.seen.raw.received,
        activity=first.activity,
        named_ids=tuple(dict.fromkeys(i for i in named if len(i) <= LONGEST_ID))[:32],
        defects=tuple(f"{d.code}: {d.detail}" for d in email.defects[:20]),
        traceback=first.traceback,
        classified=verdict.classified if verdict is not None else None,
    )
    raw = first.seen.raw.content if first.outcome in kept else None
    cause, cure = (error.cause, error.cure) if error is not None else ("", "")
    return Conclusion(first.seen.receipt, decision, raw, cause, cure)


def _orphan(seen: Seen) -> Conclusion:
    why = f"Not tracked: this mailbox does not serve the deployment {seen.receipt.deployment} any more."
    return Conclusion(seen.receipt, Decision(Outcome.NOT_TRACKED, "no deployment", (why,), received=seen.raw.received))


def _missing(receipt: Receipt, error: Permanent | None) -> Conclusion:
    if error is not None:
        return _unreadable(receipt, error.cause, error.cure)
    why = "The message was gone from the mailbox before it could be read again."
    return Conclusion(receipt, Decision(Outcome.VANISHED, "vanished", (why,)))


def _unreadable(receipt: Receipt, said: str, cure: str) -> Conclusion:
    cause = f"This message could not be read: {said}"
    return Conclusion(receipt, Decision(Outcome.UNDELIVERABLE, "unreadable", (cause,)), None, cause, cure)


def _without_content(batch: Batch, receipts: Sequence[Receipt]) -> list[Conclusion]:
    """Messages that were only listed: those the server would not give, and those that are too old."""
    said, passed = dict(batch.unreadable), frozenset(batch.passed)
    cure = "read it with another mail program; retry it when what is said is cured"
    old = Decision(Outcome.TOO_OLD, "too old", ("It was received before this mailbox's threshold date.",))
    unreadable = [_unreadable(r, said[r.key], cure) for r in receipts if r.key in said]
    return unreadable + [Conclusion(r, old) for r in receipts if r.key in passed]


__all__ = ["Deployed", "Fenced", "Report", "Ways", "conclude", "from_kept", "handle", "parsed", "run"]
