"""What would be decided for a message, and why, without filing it, and without a database if need be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from email_router.incoming.reports import with_reports
from email_router.mime import report
from email_router.mime.parse import parse
from email_router.mime.received import received_in
from email_router.mime.structure import Limits
from email_router.model.evidence import Facts
from email_router.model.filing import IncomingEmail
from email_router.model.ids import new_id
from email_router.model.mailbox import FilterOption, MailboxKind, Receiver
from email_router.model.message import ParsedEmail
from email_router.model.settings import TrackingSettings
from email_router.model.verdict import Verdict
from email_router.net.spool import MemoryContent
from email_router.ports.crm import Judge
from email_router.ports.store import Sent
from email_router.tracking.decide import decide
from email_router.tracking.extract import extract

HEADER = 64 * 1024
MOST = Limits().total_bytes
"""Bytes from which a file is no message."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A message and its verdict; `viewpoint` says for whom it was judged and what was known."""

    file: str
    email: ParsedEmail
    receiving: str
    viewpoint: str
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        email, verdict = self.email, self.verdict
        return {
            "file": self.file,
            "viewpoint": self.viewpoint,
            "mailbox": self.receiving,
            "accepted": verdict.accept,
            "reason": verdict.reason.label,
            "why": list(verdict.why),
            "losing": list(verdict.losing),
            "class": verdict.classified.kind.value if verdict.classified is not None else "",
            "class_line": verdict.classified.line if verdict.classified is not None else "",
            "regarding": _record(verdict),
            "message_id": email.message_id,
            "identity": email.identity.hex(),
            "from": [a.address for a in email.from_],
            "to": [a.address for a in email.to],
            "cc": [a.address for a in email.cc],
            "subject": email.subject,
            "in_reply_to": list(email.in_reply_to),
            "references": list(email.references),
            "attachments": [
                {"name": a.name, "type": a.content_type, "size": a.size, "inline": a.inline} for a in email.attachments
            ],
            "defects": [{"code": d.code, "detail": d.detail} for d in email.defects],
        }


def incoming(data: bytes, mailbox: str) -> IncomingEmail:
    """The message as if `mailbox` had received it; without one, its first recipient."""
    email = parse(MemoryContent(data))
    received = received_in(data[:HEADER]) or email.date or datetime.now(UTC)
    if received.tzinfo is None:
        received = received.replace(tzinfo=UTC)
    receiving = mailbox or next((a.address for a in email.recipients if a.address), "") or "mailbox@localhost"
    return IncomingEmail(email, received, receiving, report.read(email))


def read(file: Path) -> bytes:
    """The message. Raises OSError, and ValueError for what is larger than any message (or has no end)."""
    with file.open("rb") as stream:
        data = stream.read(MOST + 1)
    if len(data) > MOST:
        raise ValueError(f"it is larger than {MOST >> 20} MB")
    return data


def alone(file: Path, mailbox: str, option: FilterOption) -> Explained:
    """From the message alone: a user of that mailbox with that filter, and a CRM that knows nobody."""
    item = incoming(read(file), mailbox)
    user = Receiver(new_id(), MailboxKind.USER, item.receiving, item.receiving, filter_option=option)
    tracking = TrackingSettings()
    facts = Facts(receivers={item.receiving.casefold(): (user,)})
    verdict = decide(extract(item, tracking), facts, tracking, new_id)
    viewpoint = f"no CRM asked; {item.receiving} as a user who {_OPTIONS[option]}"
    return Explained(str(file), item.email, item.receiving, viewpoint, verdict)


async def asked(file: Path, mailbox: str, deployment: str, judge: Judge, sent: Sent) -> Explained:
    """As the running router would decide now: the CRM's records and the ledger are looked up, nothing is changed."""
    [item] = await with_reports([incoming(read(file), mailbox)], deployment, sent)
    [verdict] = await judge.judge([item])
    return Explained(str(file), item.email, item.receiving, f"deployment {deployment}, as it is now", verdict)


_OPTIONS = {
    FilterOption.ALL: "tracks all email messages",
    FilterOption.IN_RESPONSE: "tracks only replies",
    FilterOption.FROM_LEADS_CONTACTS_ACCOUNTS: "tracks mail from leads, contacts and accounts",
    FilterOption.FROM_EMAIL_ENABLED: "tracks mail from email-enabled records",
    FilterOption.NONE: "tracks nothing",
}


def _record(verdict: Verdict) -> dict[str, str] | None:
    record = verdict.regarding
    return {"type": record.type, "id": str(record.id), "name": record.name} if record is not None else None
