"""Who plays in the tests of tracking: users, queues, records, messages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from email_router.model.evidence import Evidence, Facts, KnownActivity, RecordRef
from email_router.model.mailbox import FilterOption, MailboxKind, Receiver
from email_router.model.message import Address
from email_router.model.settings import TrackingSettings

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
SETTINGS = TrackingSettings()
BOB = "bob@customer.test"

_numbers = itertools.count(1)


def new_id() -> UUID:
    return UUID(int=next(_numbers))


def receiver(kind: MailboxKind, name: str, option: FilterOption = FilterOption.IN_RESPONSE, **changes: Any) -> Receiver:
    return replace(Receiver(new_id(), kind, name.title(), f"{name}@acme.test", filter_option=option), **changes)


def user(name: str, option: FilterOption = FilterOption.IN_RESPONSE, **changes: Any) -> Receiver:
    return receiver(MailboxKind.USER, name, option, **changes)


def queue(name: str, option: FilterOption = FilterOption.ALL, **changes: Any) -> Receiver:
    return receiver(MailboxKind.QUEUE, name, option, **changes)


def record(kind: str, name: str = "Bob", **changes: Any) -> RecordRef:
    return replace(RecordRef(kind, new_id(), name), **changes)


def sent(message_id: str, **changes: Any) -> KnownActivity:
    """An email that went out of the CRM an hour ago."""
    return replace(KnownActivity(new_id(), message_id, "outgoing", NOW.replace(hour=9)), **changes)


def people(*addresses: str) -> tuple[Address, ...]:
    return tuple(Address("", address) for address in addresses)


def evidence(to: Iterable[str] = (), **changes: Any) -> Evidence:
    """A message from Bob, found in the mailbox of the first of `to` unless `receiving` says otherwise."""
    to, cc, bcc = people(*to), people(*changes.pop("cc", ())), people(*changes.pop("bcc", ()))
    sender = changes.pop("sender", BOB)
    made = Evidence(
        identity=new_id().bytes,
        message_id=f"{next(_numbers)}@customer.test",
        sender=Address("Bob", sender) if sender else None,
        recipients=to + cc + bcc,
        to=to,
        cc=cc,
        bcc=bcc,
        subject="Hello",
        in_reply_to=(),
        references=(),
        tokens=(),
        received=NOW,
        date=NOW,
        receiving=to[0].address if to else "nobody@acme.test",
    )
    return replace(made, **changes)


def facts(*receivers: Receiver, sender: Iterable[RecordRef] = (), **changes: Any) -> Facts:
    """`receivers` are the CRM's users and queues, known as records too; `sender` are Bob's records."""
    kinds = {MailboxKind.USER: "systemuser", MailboxKind.QUEUE: "queue"}
    records = {r.address: (RecordRef(kinds[r.kind], r.id, r.name, r.owner),) for r in receivers}
    known = {BOB: tuple(sender)} if sender else {}
    return replace(Facts(records=records | known, receivers={r.address: (r,) for r in receivers}), **changes)
