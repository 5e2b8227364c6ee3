"""Mailboxes, users and queues, and how mail reaches them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from uuid import UUID


class MailboxKind(StrEnum):
    USER = "user"
    QUEUE = "queue"
    FORWARD = "forward"


class AccessMethod(IntEnum):
    """How mail of a user or queue is handled, with the numbers of the original's mailbox record."""

    NONE = 0
    OUTLOOK = 1
    ROUTER = 2
    FORWARD_MAILBOX = 3


class Approval(IntEnum):
    """State of a primary address (`emailrouteraccessapproval`)."""

    EMPTY = 0
    APPROVED = 1
    PENDING = 2
    REJECTED = 3


class FilterOption(IntEnum):
    """Which mail of a user or queue becomes an activity; numbers of the original's option set."""

    ALL = 0
    IN_RESPONSE = 1
    FROM_LEADS_CONTACTS_ACCOUNTS = 2
    FROM_EMAIL_ENABLED = 3
    NONE = 4


class SourceAction(StrEnum):
    """What is done to a message in its mailbox once its outcome is durable."""

    LEAVE = "leave"
    SEEN = "seen"
    MOVE = "move"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Receiver:
    """A CRM user or queue as the directory tells it: somebody whose mail may be tracked or sent.

    `filter_option` applies to incoming mail. `owner` is who owns what is filed for a queue (for a user: the user).
    """

    id: UUID
    kind: MailboxKind
    name: str
    address: str
    incoming: AccessMethod = AccessMethod.ROUTER
    outgoing: AccessMethod = AccessMethod.ROUTER
    approval: Approval = Approval.APPROVED
    filter_option: FilterOption = FilterOption.IN_RESPONSE
    owner: UUID | None = None
    enabled: bool = True
    makes_cases: bool = False
    """Queues only: mail that belongs to no record makes a case."""
    machines_make_cases: bool = False
    """Also automatic messages and list mail do: of monitors, shops, forms. Automatic replies and reports never."""
    case_title: str = "{subject}"
    case_priority: int = 2
    """1 high, 2 normal, 3 low, as in Dynamics (`incident.prioritycode`)."""
