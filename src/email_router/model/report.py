"""Reports about mail: failed and delayed deliveries, read receipts, complaints. As read, not yet believed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class ReportKind(StrEnum):
    DELIVERY = "delivery status"
    """RFC 3464, and the many that only look alike."""
    DISPOSITION = "read receipt"
    """RFC 8098."""
    FEEDBACK = "complaint"
    """RFC 5965."""
    OTHER = "report"


class Action(StrEnum):
    """What the reporting server did about one recipient (RFC 3464 section 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


class Failure(StrEnum):
    """What an enhanced status code says is wrong. Only `DEAD` is about the address itself."""

    DEAD = "the address does not exist"
    FULL = "the mailbox is full"
    SIZE = "the message is too large"
    ROUTING = "the server of the recipient could not be reached"
    SYSTEM = "the server of the recipient has a problem"
    POLICY = "the content or a policy was the reason"
    EXPIRED = "it was tried for too long"
    UNKNOWN = "no reason is given"


@dataclass(frozen=True, slots=True)
class RecipientReport:
    """One recipient of a delivery report. `status` is an enhanced code (RFC 3463) or "", `said` the server's words."""

    address: str
    action: Action
    original: str = ""
    status: str = ""
    said: str = ""
    remote: str = ""

    @property
    def failure(self) -> Failure:
        return failure_of(self.status)


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says. `formal` is false for one that is recognised by its looks only.

    `rule` names the header line or the signs that made it one. `returned` are the ids of the message that it is about,
    as far as it brings them; `envelope_id` is ours, when we gave one (RFC 3461 section 4.4).
    """

    kind: ReportKind
    rule: str
    formal: bool
    envelope_id: str = ""
    returned: tuple[str, ...] = ()
    recipients: tuple[RecipientReport, ...] = ()
    said: str = ""
    """The kind of disposition or of complaint."""

    @property
    def action(self) -> Action | None:
        """The worst that it tells: a message that failed for one recipient failed."""
        actions = {r.action for r in self.recipients}
        return next((a for a in Action if a in actions), None)


_DEAD = frozenset({"1.1", "1.2", "1.3", "1.6", "1.10", "2.1"})


def failure_of(status: str) -> Failure:
    """The sort of failure of an enhanced status code (RFC 3463); `5.0.0` and "" say nothing."""
    kind, _, detail = status.partition(".")
    subject = detail.partition(".")[0]
    if detail in _DEAD and kind == "5":
        return Failure.DEAD
    if detail == "2.2":
        return Failure.FULL
    if detail in ("3.4", "2.3"):
        return Failure.SIZE
    if detail == "4.7":
        return Failure.EXPIRED
    found = {"3": Failure.SYSTEM, "4": Failure.ROUTING, "6": Failure.POLICY, "7": Failure.POLICY}
    if subject in found:
        return found[subject]
    return Failure.EXPIRED if kind == "4" else Failure.UNKNOWN


@dataclass(frozen=True, slots=True)
class SentEmail:
    """An email that was handed over: what a report may be about. `email` is its activity, `row` that of the ledger."""

    row: UUID
    email: UUID
    message_id: str
    envelope_id: str
    handed_over: datetime
    recipients: tuple[str, ...]
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Tied:
    """A report and the email of ours that it is about. Without `email` it is not believed, and changes nothing.

    `recipients` are those of the report that the email really went to.
    """

    email: SentEmail | None
    recipients: tuple[RecipientReport, ...]
    why: str
