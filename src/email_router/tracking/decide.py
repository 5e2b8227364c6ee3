"""From evidence and facts to a verdict. Pure: what-if runs and `explain` call the same function as the router."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC
from uuid import UUID

from email_router.model.classes import Classification, MessageClass
from email_router.model.evidence import Evidence, Facts, KnownActivity, RecordRef
from email_router.model.mailbox import AccessMethod, Approval, FilterOption, MailboxKind, Receiver
from email_router.model.settings import TrackingSettings
from email_router.model.verdict import Correlation, NewCase, Reason, Verdict
from email_router.tracking import resolve
from email_router.tracking.classify import classify
from email_router.tracking.correlate import Match, correlate

TAKES = {
    FilterOption.ALL: "takes all email messages",
    FilterOption.IN_RESPONSE: "tracks only replies to CRM email",
    FilterOption.FROM_LEADS_CONTACTS_ACCOUNTS: "tracks mail from leads, contacts and accounts",
    FilterOption.FROM_EMAIL_ENABLED: "tracks mail from records that are email enabled",
    FilterOption.NONE: "tracks no email messages",
}
LONGEST_TITLE = 200


def decide(evidence: Evidence, facts: Facts, settings: TrackingSettings, new_id: Callable[[], UUID]) -> Verdict:
    """Never raises. The order of the questions is the policy."""
    classified = classify(evidence, facts)
    return replace(_decide(evidence, facts, settings, new_id, classified), classified=classified)


def _decide(
    evidence: Evidence,
    facts: Facts,
    settings: TrackingSettings,
    new_id: Callable[[], UUID],
    classified: Classification,
) -> Verdict:
    if classified.kind is MessageClass.OWN:
        return _own(facts.by_message_id[evidence.message_id])
    if evidence.sender is None and not classified.kind.is_report:  # mail systems often have no address
        return _refused(Reason.INVALID_SENDER, new_id, "Not tracked: the message names no valid sender (From).")
    if facts.duplicate is not None:
        return _duplicate(facts.duplicate)
    receivers = _receivers(evidence, facts)
    usable = [r for r in receivers if not _unusable(r, settings)]
    if not usable:
        why = ["Not tracked: no recipient is a user or queue whose mail this router tracks."]
        return _refused(Reason.NO_RECIPIENT_MATCH, new_id, *why, *(_unusable(r, settings) for r in receivers))
    if _is_internal(evidence, facts, usable) and not settings.track_internal_as_two:
        return _refused(
            Reason.INTERNAL_EMAIL_REJECT,
            new_id,
            "Not tracked: sender and receivers are users of this CRM, and mail between users is tracked once, as sent.",
        )
    match = correlate(evidence, facts, settings)
    record, losing = resolve.sender(evidence, facts, settings, _owner_of(_receiving(evidence, usable)))
    judges = _judges(evidence, usable, settings)
    accepting = [(r, reason) for r in judges if (reason := _accepts(r, match, record)) is not None]
    if not accepting:
        return _nobody(evidence, judges, match, record, new_id, losing)
    return _accepted(evidence, facts, classified, match, record, accepting, losing, new_id)


def _accepted(
    evidence: Evidence,
    facts: Facts,
    classified: Classification,
    match: Match,
    record: RecordRef | None,
    accepting: Sequence[tuple[Receiver, Reason]],
    losing: tuple[str, ...],
    new_id: Callable[[], UUID],
) -> Verdict:
    first, reason = accepting[0]
    owner = _owner(match, record, [r for r, _ in accepting])
    regarding = match.parent.regarding if match.parent is not None else None
    case = None
    if regarding is None:
        case = next((_case(r, evidence, record, new_id) for r, _ in accepting if _makes_case(r, classified.kind)), None)
    queues = tuple(r.id for r, _ in accepting if r.kind is MailboxKind.QUEUE)
    parties, left_out = resolve.parties(evidence, facts, record)
    return Verdict(
        accept=True,
        reason=reason,
        activity=new_id(),
        why=tuple(_why(evidence, classified, first, reason, match, record, regarding, case)),
        correlation=match.method,
        correlated=match.parent.id if match.parent is not None else None,
        regarding=RecordRef("incident", case.id, case.title, case.owner) if case is not None else regarding,
        new_case=case,
        parties=parties,
        owner=owner,
        accepting=first.id,
        queues=queues,
        losing=(*match.losing, *losing, *left_out),
    )


def _why(
    evidence: Evidence,
    classified: Classification,
    first: Receiver,
    reason: Reason,
    match: Match,
    record: RecordRef | None,
    regarding: RecordRef | None,
    case: NewCase | None,
) -> list[str]:
    because = {
        Reason.ACCEPT_ALL: f"{_name(first)} {TAKES[FilterOption.ALL]}",
        Reason.CORRELATION_MATCH: f"{_name(first)} tracks replies, and {match.why}",
        Reason.SENDER_MATCH: f"{_name(first)} {TAKES[first.filter_option]}, and the sender is "
        + (record.called if record is not None else "known"),
    }
    lines = [f"Accepted: {because[reason]}."]
    if classified.kind is not MessageClass.HUMAN:
        lines += _why_class(evidence, classified)
    sender = evidence.sender.address if evidence.sender is not None else ""
    if record is not None:
        lines.append(f"Sender {sender} is {record.called}.")
    elif sender:
        lines.append(f"Sender {sender} matches no record and is kept as an address.")
    if match.parent is not None:
        place = f" and is filed regarding {regarding.called}" if regarding is not None else ""
        lines.append(f"It belongs to an earlier conversation: {match.why}{place}.")
    else:
        lines.append(f"It starts a conversation: {match.why}.")
    if case is not None:
        lines.append(f'A new case is made by the rule of its queue: "{case.title}".')
    elif first.makes_cases and regarding is None:
        lines.append(f"No case is made of it: it is {classified.kind.value}.")
    return lines


def _why_class(evidence: Evidence, classified: Classification) -> list[str]:
    lines = [f"It is {_a(classified.kind)} ({classified.line})."]
    if evidence.report is None or not classified.kind.is_report:
        return lines
    if evidence.tied is None:
        return [*lines, "Whether it is about an email of ours was not looked up."]
    if evidence.tied.email is None:
        return [*lines, f"It changes nothing, since it cannot be verified: {evidence.tied.why}."]
    about = f'"{evidence.tied.email.subject}"' if evidence.tied.email.subject else "an email"
    lines.append(f"It is about {about}, sent from here: {evidence.tied.why}.")
    for reported in evidence.tied.recipients:
        words = " ".join(w for w in (reported.status, reported.said) if w)[:200] or reported.failure.value
        lines.append(f"{reported.address}: {reported.action.value}{f', {words}' if words else ''}.")
    return lines


def _a(kind: MessageClass) -> str:
    if kind in (MessageClass.LIST, MessageClass.SUPPRESS):
        return kind.value
    return f"{'an' if kind.value[0] in 'aeiou' else 'a'} {kind.value}"


def _nobody(
    evidence: Evidence,
    judges: Sequence[Receiver],
    match: Match,
    record: RecordRef | None,
    new_id: Callable[[], UUID],
    losing: tuple[str, ...],
) -> Verdict:
    reasons = []
    for receiver in judges:
        said = f"{_name(receiver)} {TAKES[receiver.filter_option]}"
        if receiver.filter_option is FilterOption.IN_RESPONSE:
            said += f", and this message answers none: {match.why}"
        elif receiver.filter_option is not FilterOption.NONE:
            sender = evidence.sender.address if evidence.sender is not None else "the sender"
            said += f", and {sender} is " + (record.called if record is not None else "no record of this CRM")
        reasons.append(said)
    if not reasons:
        reasons.append("the mailbox was reached by Bcc, an alias or a list, and does not take all email messages")
        return _refused(Reason.NO_RECIPIENT_MATCH, new_id, f"Not tracked: {reasons[0]}.", losing=losing)
    return _refused(Reason.NO_CORRELATION_MATCH, new_id, *(f"Not tracked: {r}." for r in reasons), losing=losing)


def _accepts(receiver: Receiver, match: Match, record: RecordRef | None) -> Reason | None:
    """The reason code with which this receiver's filter accepts, or None. Replies to tracked mail pass all but NONE."""
    option = receiver.filter_option
    if option is FilterOption.NONE:
        return None
    if match.parent is not None:
        return Reason.CORRELATION_MATCH
    if option is FilterOption.ALL:
        return Reason.ACCEPT_ALL
    known = record is not None and (
        record.type in resolve.CUSTOMERS
        if option is FilterOption.FROM_LEADS_CONTACTS_ACCOUNTS
        else option is FilterOption.FROM_EMAIL_ENABLED
    )
    return Reason.SENDER_MATCH if known else None


def _receivers(evidence: Evidence, facts: Facts) -> list[Receiver]:
    """Users and queues among the recipients, in the order of To, Cc, Bcc, then the mailbox's own."""
    keys = [a.key for a in evidence.recipients] + [evidence.receiving.casefold()]
    found = [r for key in dict.fromkeys(keys) for r in facts.receivers.get(key, ())]
    return list({r.id: r for r in found}.values())


def _receiving(evidence: Evidence, receivers: Sequence[Receiver]) -> Receiver | None:
    return next((r for r in receivers if r.address.casefold() == evidence.receiving.casefold()), None)


def _judges(evidence: Evidence, usable: Sequence[Receiver], settings: TrackingSettings) -> list[Receiver]:
    """Whose filter counts. A mailbox that is not among the recipients counts only when it takes everything."""
    own = _receiving(evidence, usable)
    if settings.only_receiving_filter:
        return [own] if own is not None else []
    named = {a.key for a in evidence.recipients}
    return [r for r in usable if r.address.casefold() in named or (r is own and r.filter_option is FilterOption.ALL)]


def _unusable(receiver: Receiver, settings: TrackingSettings) -> str:
    """Why this receiver's mail is not tracked at all, or ""."""
    if not receiver.enabled:
        return f"{_name(receiver)} is disabled."
    if receiver.incoming not in (AccessMethod.ROUTER, AccessMethod.FORWARD_MAILBOX):
        return (
            f"{_name(receiver)} does not receive through the router (incoming access method {receiver.incoming.name})."
        )
    only_approved = (
        settings.approved_queues_only if receiver.kind is MailboxKind.QUEUE else settings.approved_users_only
    )
    if only_approved and receiver.approval is not Approval.APPROVED:
        return f"The address of {_name(receiver)} is not approved ({receiver.approval.name.lower()})."
    return ""


def _is_internal(evidence: Evidence, facts: Facts, usable: Sequence[Receiver]) -> bool:
    senders = facts.receivers.get(evidence.sender.key, ()) if evidence.sender is not None else ()
    return any(s.kind is MailboxKind.USER for s in senders) and all(r.kind is MailboxKind.USER for r in usable)


def _owner_of(receiver: Receiver | None) -> UUID | None:
    if receiver is None:
        return None
    return receiver.owner or (receiver.id if receiver.kind is MailboxKind.USER else None)


def _owner(match: Match, record: RecordRef | None, accepting: Sequence[Receiver]) -> UUID | None:
    """The candidate who owns the correlated email, else who owns the sender's record, else the first."""
    candidates = [o for r in accepting if (o := _owner_of(r)) is not None]
    for wanted in (
        match.parent.owner if match.parent is not None else None,
        record.owner if record is not None else None,
    ):
        if wanted is not None and wanted in candidates:
            return wanted
    return candidates[0] if candidates else None


def _makes_case(receiver: Receiver, kind: MessageClass) -> bool:
    """People's mail does; robots' only where somebody wants it; what a robot answers, or reports, never."""
    return receiver.makes_cases and (kind.makes_records or (kind.is_machine and receiver.machines_make_cases))


def _case(queue: Receiver, evidence: Evidence, record: RecordRef | None, new_id: Callable[[], UUID]) -> NewCase:
    sender = evidence.sender.address if evidence.sender is not None else ""
    title = queue.case_title.replace("{subject}", evidence.subject).replace("{sender}", sender).strip()
    customer = record if record is not None and record.type in ("contact", "account") else None
    return NewCase(
        new_id(),
        title[:LONGEST_TITLE] or f"Email from {sender}",
        queue.id,
        _owner_of(queue),
        queue.case_priority,
        customer,
    )


def _own(known: KnownActivity) -> Verdict:
    when = f"{known.created.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    words = f"It is our own email, sent on {when}; this mailbox is added to it."
    return Verdict(False, Reason.DUPLICATE, known.id, (words,), Correlation.SKIPPED, regarding=known.regarding)


def _duplicate(known: KnownActivity) -> Verdict:
    when = f"{known.created.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    words = f"Already tracked: the same message was filed on {when}; this mailbox is added to it."
    return Verdict(False, Reason.DUPLICATE, known.id, (words,), Correlation.SKIPPED, regarding=known.regarding)


def _refused(reason: Reason, new_id: Callable[[], UUID], *why: str, losing: tuple[str, ...] = ()) -> Verdict:
    return Verdict(False, reason, new_id(), tuple(w for w in why if w), losing=losing)


def _name(receiver: Receiver) -> str:
    return f"{receiver.kind.value} {receiver.name} <{receiver.address}>"
