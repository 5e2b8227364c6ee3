"""What was decided for one message, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from uuid import UUID

from email_router.model.classes import Classification
from email_router.model.evidence import RecordRef


class Reason(IntEnum):
    """Reason codes of `CheckIncomingEmail`, with the original's numbers and names."""

    UNKNOWN = -1
    DUPLICATE = 0
    NO_CORRELATION_MATCH = 1
    CORRELATION_MATCH = 2
    NO_RECIPIENT_MATCH = 3
    INTERNAL_EMAIL_REJECT = 4
    SENDER_MATCH = 5
    ACCEPT_ALL = 6
    INVALID_SENDER = 7

    @property
    def label(self) -> str:
        """The name as Dynamics prints it: `NoCorrelationMatch`."""
        return self.name.title().replace("_", "")


class Correlation(IntEnum):
    """How the parent was found; numbers of `email.correlationmethod`."""

    NONE = 0
    SKIPPED = 1
    X_HEADER = 2
    IN_REPLY_TO = 3
    TRACKING_TOKEN = 4
    CONVERSATION_INDEX = 5
    SMART_MATCHING = 6
    CUSTOM = 7


class PartyRole(StrEnum):
    FROM = "from"
    TO = "to"
    CC = "cc"
    BCC = "bcc"


@dataclass(frozen=True, slots=True)
class Party:
    """One participant of an activity: an address, resolved to a record or not."""

    role: PartyRole
    address: str
    name: str = ""
    record: RecordRef | None = None


@dataclass(frozen=True, slots=True)
class NewCase:
    """A case that filing makes because a queue's rule asks for one. Its id is fixed at judging."""

    id: UUID
    title: str
    queue: UUID
    owner: UUID | None
    priority: int
    customer: RecordRef | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accept or not, the reason code, where the message belongs, and the words that explain it.

    `why` reads as sentences, the deciding one first. `losing` names candidates that were considered and not taken.
    `activity` is the id the activity will have (or, for a duplicate, has).
    """

    accept: bool
    reason: Reason
    activity: UUID
    why: tuple[str, ...]
    correlation: Correlation = Correlation.NONE
    correlated: UUID | None = None
    regarding: RecordRef | None = None
    new_case: NewCase | None = None
    parties: tuple[Party, ...] = ()
    owner: UUID | None = None
    accepting: UUID | None = None
    """The user or queue whose filter accepted the mail (*Accepting Entity*)."""
    queues: tuple[UUID, ...] = ()
    """Queues that get a queue item."""
    losing: tuple[str, ...] = field(default=())
    classified: Classification | None = None

    @property
    def is_duplicate(self) -> bool:
        return self.reason is Reason.DUPLICATE
