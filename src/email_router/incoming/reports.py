"""Reports about mail that we sent: read, tied to the ledger before judging, and what they change after filing.

What may fail: the router ends between the change and the conclusion of the message. It is handled again then, and a
recipient that is refused already is not refused again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from email_router.incoming.forwarded import Letter
from email_router.mime import report
from email_router.model.classes import MessageClass
from email_router.model.filing import IncomingEmail
from email_router.model.receipt import Term
from email_router.model.report import Action, Report, ReportKind, SentEmail, Tied
from email_router.model.verdict import Verdict
from email_router.observe import maillog
from email_router.observe.failpoint import hit
from email_router.ports.store import Bounce, Sent
from email_router.tracking.tie import tie


async def with_reports(items: Sequence[IncomingEmail], deployment: str, sent: Sent) -> list[IncomingEmail]:
    """The messages, those that are reports with what they report, and the email of ours that it is about."""
    read = [report.read(item.email) for item in items]
    about = [r for r in read if r is not None and r.kind is not ReportKind.OTHER]
    known: Sequence[SentEmail] = ()
    if about:
        ids = list(dict.fromkeys(i for found in about for i in found.returned))
        known = await sent.find(deployment, ids, [r.envelope_id for r in about if r.envelope_id])
    return [
        replace(item, report=found, tied=_tied(found, known, item)) if found is not None else item
        for item, found in zip(items, read, strict=True)
    ]


def _tied(found: Report, known: Sequence[SentEmail], item: IncomingEmail) -> Tied | None:
    return tie(found, known, item.received) if found.kind is not ReportKind.OTHER else None


async def apply(verdicts: Sequence[tuple[Letter, Verdict]], deployment: str, sent: Sent, term: Term) -> None:
    """Verified bounces: the email did not reach these recipients after all, in the words of their server.

    Whatever names an email of ours was written by somebody who has got it: that settles one that is uncertain.
    """
    proofs = {i: words for letter, verdict in verdicts for i, words in _proofs(letter.incoming, verdict).items()}
    if proofs:
        await sent.proved(deployment, proofs, term)
    bounces = [b for letter, verdict in verdicts if _is_bounce(verdict) for b in _bounces(letter.incoming)]
    if not bounces:
        return
    hit("before-bounced")
    if await sent.bounced(bounces, term):
        for bounce in bounces:
            maillog.bounced(bounce)
    hit("after-bounced")


def _proofs(incoming: IncomingEmail, verdict: Verdict) -> dict[str, str]:
    """Message-IDs of emails that were sent, if they are ours, and how this message proves it.

    Our own email that comes back to us proves itself only: what it answers was named by us, not by a recipient.
    """
    email = incoming.email
    if verdict.classified is not None and verdict.classified.kind is MessageClass.OWN:
        return {email.message_id: "it lies in a mailbox of ours"}
    who = f" from {email.author.address}" if email.author is not None else ""
    if incoming.tied is not None:
        about = incoming.tied.email
        return {about.message_id: f"a report{who} is about it"} if about is not None else {}
    return dict.fromkeys((*email.in_reply_to, *email.references), f"a message{who} names it")


def _is_bounce(verdict: Verdict) -> bool:
    return verdict.classified is not None and verdict.classified.kind is MessageClass.BOUNCE


def _bounces(incoming: IncomingEmail) -> list[Bounce]:
    tied = incoming.tied
    if tied is None or tied.email is None:
        return []
    return [
        Bounce(
            tied.email.row,
            tied.email.message_id,
            r.address,
            r.status,
            f"{r.said or r.failure.value} (reported by a bounce)",
        )
        for r in tied.recipients
        if r.action is Action.FAILED
    ]
