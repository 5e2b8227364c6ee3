"""Mail on its way out: as the CRM wrote it, as it is stamped, and what each recipient's server said."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from email_router.model.message import Address


@dataclass(frozen=True, slots=True)
class AttachmentRef:
    """An attachment of an outgoing email; its bytes come from `Outbox.attachments`."""

    name: str
    content_type: str
    size: int
    sha256: bytes
    content_id: str = ""
    inline: bool = False


@dataclass(frozen=True, slots=True)
class OutgoingEmail:
    """An email activity in Pending Send, claimed by this router. `subject` already carries the tracking token.

    `in_reply_to` and `references` are the ids of the conversation, oldest first, without angle brackets.
    """

    id: UUID
    deployment: str
    from_: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    bcc: tuple[Address, ...]
    subject: str
    text: str
    html: str
    attachments: tuple[AttachmentRef, ...] = ()
    in_reply_to: str = ""
    references: tuple[str, ...] = ()
    importance: int = 1
    """0 low, 1 normal, 2 high, as `email.prioritycode`."""
    read_receipt: bool = False
    delivery_receipt: bool = False


@dataclass(frozen=True, slots=True)
class Stamps:
    """What is fixed once, before the first attempt, so that each attempt sends the same bytes."""

    message_id: str
    date: datetime
    envelope_id: str = ""


class SendState(StrEnum):
    """State of a ledger row. `UNCERTAIN`: handed over, the answer was never seen."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    UNCERTAIN = "uncertain"
    CANCELED = "canceled"


class RecipientState(StrEnum):
    PENDING = "pending"
    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """What the server said for one recipient of one attempt. `code` is the SMTP reply code, `status` RFC 3463's."""

    address: str
    state: RecipientState
    code: int = 0
    status: str = ""
    said: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """RFC 5321 envelope: who is told of failures, and who receives. Bcc lives only here."""

    sender: str
    recipients: tuple[str, ...]
    envelope_id: str = ""
    notify: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One outgoing email in the router's own book."""

    id: UUID
    email: UUID
    deployment: str
    profile: str
    sender: str
    stamps: Stamps
    state: SendState
    attempts: int
    pending: tuple[str, ...]
    """Recipients that still have to accept."""
    accepted: bool = False
    """Whether a recipient accepted at an earlier attempt."""
    handed_over: datetime | None = None
    next_attempt: datetime | None = None
    last_error: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the CRM is told about an outgoing email."""

    email: UUID
    state: SendState
    message_id: str
    attempts: int
    results: tuple[RecipientResult, ...] = field(default=())
    said: str = ""
    deployment: str = ""
