"""What is handed to a CRM to be filed, and what it answers: one result per item."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from email_router.model.errors import RouterError
from email_router.model.evidence import RecordRef
from email_router.model.message import Content, ParsedEmail
from email_router.model.report import Report, Tied
from email_router.model.verdict import Verdict


@dataclass(frozen=True, slots=True)
class IncomingEmail:
    """A parsed message in the mailbox of a receiver: what is judged. `receiving` is that mailbox's address.

    `report` is what it reports, `tied` the email of ours that this is about, as the ledger told.
    """

    email: ParsedEmail
    received: datetime
    receiving: str
    report: Report | None = None
    tied: Tied | None = None


@dataclass(frozen=True, slots=True)
class FilingItem:
    """An accepted message with its verdict; `raw` is kept beside the activity for the deployment's retention."""

    incoming: IncomingEmail
    verdict: Verdict
    raw: Content


@dataclass(frozen=True, slots=True)
class Filed:
    """The activity that now stands for the message. `created` is false when it was there already."""

    activity: UUID
    created: bool
    regarding: RecordRef | None = None


@dataclass(frozen=True, slots=True)
class NotFiled:
    """Why one item of a batch was not filed; the others were."""

    error: RouterError
    traceback: str = ""


FilingResult = Filed | NotFiled
