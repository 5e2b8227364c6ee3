"""The router's own memory: receipts, decisions, the ledger, undeliverable mail.

Writes that carry a `Term` check its epoch under a share lock in the same transaction and raise Fenced when it is old.
All methods raise Transient when the database cannot be reached.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from email_router.model.message import Content, DeliveryKey
from email_router.model.outgoing import LedgerRow, OutgoingEmail, RecipientResult, SendState, Settlement
from email_router.model.receipt import Decision, Outcome, Receipt, Term
from email_router.model.report import SentEmail
from email_router.ports.mail import Cursor


@dataclass(frozen=True, slots=True)
class Conclusion:
    """A receipt's outcome and decision. `raw` is required for UNDELIVERABLE: the bytes are kept with it.

    With NOT_TRACKED, `raw` is kept 30 days: for mail that lies in no mailbox. `cause` and `cure` go to the
    undeliverable row.
    """

    receipt: Receipt
    decision: Decision
    raw: Content | None = None
    cause: str = ""
    cure: str = ""


class Receipts(Protocol):
    async def note(
        self,
        deployments: Sequence[str],
        mailbox: str,
        folder: str,
        keys: Sequence[DeliveryKey],
        cursor: Cursor,
        term: Term,
    ) -> Sequence[Receipt]:
        """Open a receipt per deployment and key and move the cursor, in one commit.

        Returns the receipts that are open for `keys`; those that were closed before are left out, but what had
        vanished and is here again is open again. No key twice.
        """
        ...

    async def waiting(self, mailbox: str, folder: str, limit: int) -> Sequence[Receipt]:
        """Open receipts of a mailbox's folder whose next attempt is due, oldest first.

        Also those of its other folders (an import) that we keep the bytes of: for these no folder is needed.
        """
        ...

    async def postpone(self, receipts: Sequence[Receipt], seconds: float, error: str, term: Term) -> None:
        """Count an attempt and try again after `seconds`."""
        ...

    async def conclude(self, conclusions: Sequence[Conclusion], term: Term, *, close: bool) -> None:
        """Outcome, decision and (for undeliverable mail) raw bytes, in one commit.

        With `close` the receipts close in the same commit; without, they stay open until `close` is called after the
        source was changed.
        """
        ...

    async def close(self, receipts: Sequence[Receipt], term: Term) -> None:
        """The source was dealt with: nothing is left to do for these."""
        ...

    async def outcomes(self, keys: Sequence[DeliveryKey]) -> Mapping[DeliveryKey, Collection[Outcome | None]]:
        """The outcomes of each key in all its deployments, None for one that has none yet. Keys of one mailbox."""
        ...

    async def reopen_waiting_for(self, deployment: str, message_ids: Sequence[str], term: Term) -> int:
        """Open again what was not tracked and named one of these ids: its parent has arrived. Each only once."""
        ...


class Cursors(Protocol):
    async def load(self, mailbox: str, folder: str) -> Cursor: ...


class Kept(Protocol):
    async def kept(self, receipts: Sequence[Receipt]) -> Mapping[UUID, Content]:
        """The raw bytes that we hold ourselves, by receipt: judging these again does not need the mailbox."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one attempt at a ledger row led to.

    `state` PENDING with `retry_seconds` means later; `counted` is false when the server could not be reached, so that
    only an answer to this message counts as an attempt.
    """

    row: UUID
    state: SendState
    results: tuple[RecipientResult, ...] = ()
    said: str = ""
    retry_seconds: float = 0.0
    counted: bool = True


class Ledger(Protocol):
    async def open(self, emails: Sequence[OutgoingEmail], profile: str, term: Term) -> Sequence[LedgerRow]:
        """Enter emails with their stamps (Message-ID, Date) fixed; those already entered are left out.

        An email that failed, of which the CRM was told, is a new one when the CRM gives it out again.
        """
        ...

    async def due(self, profile: str, limit: int, term: Term) -> Sequence[LedgerRow]:
        """Rows to send now: pending, not handed over, their next attempt due. Oldest first.

        Asked when nothing of the profile is on its way: rows handed over without a result become UNCERTAIN here.
        """
        ...

    async def settle_old(self, profile: str, verdict: str, seconds: float, term: Term) -> int:
        """What was handed over so long ago and is still uncertain is `sent` now, or pending `again`; how many."""
        ...

    async def hand_over(self, rows: Sequence[UUID], term: Term) -> None:
        """The hand-over mark, committed before the final dot."""
        ...

    async def record(self, attempts: Sequence[Attempt], term: Term) -> None:
        """What the server answered. Clears the hand-over mark of rows that were not handed over after all."""
        ...


class Settling(Protocol):
    async def unsettled(self, profile: str, deployments: Sequence[str], limit: int) -> Sequence[Settlement]:
        """What the CRMs of these deployments have not yet been told."""
        ...

    async def settled(self, settlements: Sequence[Settlement], term: Term) -> None: ...

    async def held(self) -> str:
        """Why all outgoing mail is held (a restore, an unknown host), or ""."""
        ...


@dataclass(frozen=True, slots=True)
class Bounce:
    """One recipient whom an email of the ledger did not reach, though a server had taken it."""

    row: UUID
    message_id: str
    address: str
    status: str
    said: str


class Sent(Protocol):
    async def find(
        self, deployment: str, message_ids: Sequence[str], envelope_ids: Sequence[str]
    ) -> Sequence[SentEmail]:
        """Emails that were handed over with one of these Message-IDs or envelope ids."""
        ...

    async def bounced(self, bounces: Sequence[Bounce], term: Term) -> int:
        """These recipients are refused; an email that reached nobody failed, and the CRM is told. Idempotent.

        Returns how many emails were changed.
        """
        ...

    async def proved(self, deployment: str, proofs: Mapping[str, str], term: Term) -> int:
        """Somebody has got these, by Message-ID, as the words say: those that are uncertain are sent; how many."""
        ...


class Ownership(Protocol):
    """Which router owns which shard, by growing epochs."""

    async def take(self, shard: int, owner: str) -> Term:
        """Own `shard` from now on: its epoch moves, so that whoever had it before can write no more."""
        ...

    async def epochs(self) -> Mapping[int, int]:
        """The epoch of each shard now."""
        ...

    async def evict(self, shards: Sequence[int], but: str) -> None:
        """End the database sessions of the owners of these shards, who are dead or frozen, so that they hold no lock.

        `but` is the owner who asks.
        """
        ...
