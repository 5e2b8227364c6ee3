"""What judging works on: evidence (from the message alone) and facts (looked up in the CRM)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from email_router.model.classes import Mark
from email_router.model.mailbox import Receiver
from email_router.model.message import Address
from email_router.model.report import Report, Tied


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a message itself says that judging needs; made by `tracking.extract`, pure and storable.

    `tokens` are the tracking tokens of this organization's current and past prefixes found in the subject, in order.
    `receiving` is the address of the mailbox in which the message was found.
    """

    identity: bytes
    message_id: str
    sender: Address | None
    recipients: tuple[Address, ...]
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    bcc: tuple[Address, ...]
    subject: str
    in_reply_to: tuple[str, ...]
    references: tuple[str, ...]
    tokens: tuple[str, ...]
    received: datetime
    date: datetime | None
    receiving: str
    marks: tuple[Mark, ...] = ()
    """What the header says about the kind of sender."""
    report: Report | None = None
    tied: Tied | None = None
    """The email of ours that a report is about, where the ledger was asked."""

    @property
    def addresses(self) -> frozenset[str]:
        """Keys of every address whose records judging may ask for."""
        people = self.recipients if self.sender is None else (*self.recipients, self.sender)
        return frozenset(a.key for a in people if a.address) | {self.receiving.casefold()}

    @property
    def named_ids(self) -> tuple[str, ...]:
        """Ids of messages that this one answers: In-Reply-To first, then References from the newest.

        Of a report those of the message that it is about.
        """
        if self.report is not None:
            tied = (self.tied.email.message_id,) if self.tied is not None and self.tied.email is not None else ()
            return tuple(dict.fromkeys((*tied, *self.report.returned)))
        return tuple(dict.fromkeys((*self.in_reply_to, *reversed(self.references))))

    @property
    def looked_up_ids(self) -> tuple[str, ...]:
        """Those, and its own: it may be ours."""
        return tuple(dict.fromkeys((*self.named_ids, self.message_id))) if self.message_id else self.named_ids


WORDS = {"incident": "case", "systemuser": "user"}
"""Types of records that people call otherwise."""


def word_for(type: str) -> str:
    """A type of record as people call it."""
    return WORDS.get(type, type)


@dataclass(frozen=True, slots=True)
class RecordRef:
    """A CRM record by type and id. `type` is the logical name: contact, account, lead, systemuser, incident…"""

    type: str
    id: UUID
    name: str = ""
    owner: UUID | None = None
    active: bool = True

    @property
    def called(self) -> str:
        """As people call it: `case The oven stops`."""
        return f"{word_for(self.type)} {self.name}".strip()


@dataclass(frozen=True, slots=True)
class KnownActivity:
    """An email activity that is already in the CRM (or was judged earlier in this batch)."""

    id: UUID
    message_id: str
    direction: str
    created: datetime
    regarding: RecordRef | None = None
    owner: UUID | None = None
    token: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the CRM knows about one message's evidence. Looked up in a fixed number of queries per batch."""

    duplicate: KnownActivity | None = None
    by_message_id: Mapping[str, KnownActivity] = field(default_factory=dict)
    by_token: Mapping[str, KnownActivity] = field(default_factory=dict)
    records: Mapping[str, tuple[RecordRef, ...]] = field(default_factory=dict)
    """Records by address key, in the order of `tracking.resolve`'s types; users and queues among them."""
    receivers: Mapping[str, tuple[Receiver, ...]] = field(default_factory=dict)
    """Users and queues by address key."""
