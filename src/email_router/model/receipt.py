"""Receipts: a message was seen, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from email_router.model.classes import Classification
from email_router.model.message import DeliveryKey


@dataclass(frozen=True, slots=True)
class Term:
    """A router's ownership of a shard. Writes that carry an old epoch are refused with `Fenced`."""

    shard: int
    epoch: int


class Outcome(StrEnum):
    """What became of a message. Each is durable before the source is touched."""

    FILED = "filed"
    DUPLICATE = "duplicate"
    NOT_TRACKED = "not-tracked"
    UNDELIVERABLE = "undeliverable"
    VANISHED = "vanished"
    """It was gone from the mailbox before it could be read again."""
    TOO_OLD = "too-old"
    """Received before the mailbox's threshold; counted, offered as backfill."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One message of one mailbox for one deployment, seen and not yet closed."""

    id: UUID
    deployment: str
    key: DeliveryKey
    seen: datetime
    attempts: int = 0
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What the router decided for one message, in words; kept for every message seen.

    `subject`, `sender` and `recipients` are the only content kept of mail that is not tracked.
    """

    outcome: Outcome
    reason: str
    why: tuple[str, ...]
    losing: tuple[str, ...] = ()
    message_id: str = ""
    identity: bytes = b""
    sender: str = ""
    recipients: tuple[str, ...] = ()
    subject: str = ""
    received: datetime | None = None
    activity: UUID | None = None
    named_ids: tuple[str, ...] = ()
    defects: tuple[str, ...] = field(default=())
    traceback: str = ""
    classified: Classification | None = None
