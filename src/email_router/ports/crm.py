"""CRM systems: judging, filing, the outbox, the directory. Errors crossing this port are those of `model.errors`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol
from uuid import UUID

from email_router.model.evidence import Evidence, Facts, RecordRef
from email_router.model.filing import FilingItem, FilingResult, IncomingEmail
from email_router.model.mailbox import Receiver
from email_router.model.outgoing import AttachmentRef, OutgoingEmail, Settlement
from email_router.model.receipt import Term
from email_router.model.verdict import Verdict


class Judge(Protocol):
    async def judge(self, items: Sequence[IncomingEmail]) -> Sequence[Verdict]:
        """One verdict per item, in order; each item sees the verdicts before it. Changes nothing in the CRM."""
        ...


class Filing(Protocol):
    async def file(self, items: Sequence[FilingItem], term: Term) -> Sequence[FilingResult]:
        """File accepted messages; idempotent by (organization, direction, identity). One result per item, in order.

        A batch that fails as a whole is replayed item by item, so that one bad item does not hold up the others.
        Raises Transient when the CRM cannot be reached (nothing is known to be filed), Fenced when `term` is old.
        """
        ...

    async def join(self, copies: Sequence[tuple[UUID, str]], term: Term) -> None:
        """Add to each activity a further mailbox (its address) that holds a copy of the message. Idempotent."""
        ...

    async def relink(self, activity: UUID, record: RecordRef) -> None:
        """Set what an activity is regarding."""
        ...


class Records(Protocol):
    async def lookup(self, evidence: Sequence[Evidence]) -> Sequence[Facts]:
        """Facts for each evidence, in a fixed number of queries however many there are."""
        ...


class Outbox(Protocol):
    async def claim(self, senders: Sequence[str], limit: int, term: Term) -> Sequence[OutgoingEmail]:
        """Take emails in Pending Send of these sender addresses, oldest first and fair among senders: now Sending.

        Emails already in Sending whose claim is of an older epoch (or older than 30 minutes) are returned as well, so
        that a router that died between claim and ledger loses nothing; the ledger tells which of them are known.
        """
        ...

    async def load(self, emails: Sequence[UUID]) -> Sequence[OutgoingEmail]:
        """Claimed emails again, for another attempt. Those that were canceled meanwhile are left out."""
        ...

    def attachment(self, email: UUID, ref: AttachmentRef) -> AsyncIterator[bytes]:
        """The bytes of one attachment, in chunks."""
        ...

    async def settle(self, settlements: Sequence[Settlement], term: Term) -> None:
        """Sent, Failed with the server's words, retry later, or uncertain. Idempotent."""
        ...


class Directory(Protocol):
    async def receivers(self) -> Sequence[Receiver]:
        """All users and queues with their addresses, access methods, approvals and filters."""
        ...
