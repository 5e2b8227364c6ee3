"""What people do in the embedded CRM: make users, queues, customers and cases, read a timeline, write email."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from email_router.crm.embedded import bulk
from email_router.crm.embedded.status import EmailStatus
from email_router.crm.embedded.writing import Writing, stored_address
from email_router.model.errors import Permanent
from email_router.model.evidence import word_for
from email_router.model.ids import first_id, new_id
from email_router.model.mailbox import MailboxKind, Receiver
from email_router.net.postgres import clean, transaction

TYPES = (
    "account",
    "contact",
    "lead",
    "opportunity",
    "incident",
    "systemuser",
    "queue",
    "equipment",
    "team",
    "businessunit",
)
"""Types of records that every organization has; each may carry email addresses, and so may types of its own."""


class Actions(Writing):
    """One organization of the embedded CRM, as its people use it."""

    async def add_receiver(self, receiver: Receiver) -> UUID:
        """A user or a queue with its mailbox address. An address that is there already keeps its id and is changed.

        Raises Permanent when the address is a queue's and a user is meant, or the other way round.
        """
        kind = "queue" if receiver.kind is MailboxKind.QUEUE else "systemuser"
        address = stored_address(receiver.address)
        async with transaction(self._engine) as db:
            await db.execute(text("SELECT 1 FROM crm.organization WHERE id = :o FOR UPDATE"), {"o": self._organization})
            known = (await db.execute(_KNOWN, {"o": self._organization, "k": address.casefold()})).first()
            if known is None:
                await self._insert(db, receiver.id, kind, receiver.name, receiver.owner, [address], None, {})
            elif known.type != kind:
                raise Permanent(f"{address} is the {word_for(known.type)} {known.name}", cure="choose another address")
            identifier = UUID(str(known.id)) if known is not None else receiver.id
            await db.execute(_NAME, {"id": identifier, "name": clean(receiver.name), "owner": receiver.owner,
                                     "active": receiver.enabled})  # fmt: skip
            if known is None:
                number = await self._next(db, "user_counter")
                await db.execute(_ENTER, {"id": identifier, "o": self._organization, "key": address.casefold(),
                                          "address": address, "number": number})  # fmt: skip
            await db.execute(_CHANGE, _access(identifier, receiver))
        return identifier

    async def add_record(
        self,
        kind: str,
        name: str,
        addresses: Sequence[str] = (),
        *,
        owner: UUID | None = None,
        customer: UUID | None = None,
        fields: dict[str, Any] | None = None,
    ) -> UUID:
        """An account, contact, lead, opportunity, case or another record; each of its addresses is found by mail."""
        identifier = new_id()
        async with transaction(self._engine) as db:
            for other in (owner, customer):
                if other is not None:
                    await self._check_record(db, other)
            extra = dict(fields or {})
            if kind == "incident" and "ticketnumber" not in extra:
                extra["ticketnumber"] = f"CAS-{await self._next(db, 'case_counter'):05d}"
            known = [stored_address(a) for a in addresses]
            await self._insert(db, identifier, kind, name, owner, known, customer, extra)
        return identifier

    async def change_record(
        self, record: UUID, *, name: str = "", addresses: Sequence[str] | None = None, active: bool | None = None
    ) -> None:
        """Another name, other addresses, in use or not; what is not given stays. Raises Permanent."""
        async with transaction(self._engine) as db:
            await self._check_record(db, record)
            await db.execute(
                text(
                    "UPDATE crm.record SET name = coalesce(NULLIF(:name, ''), name), "
                    "active = coalesce(CAST(:active AS boolean), active), modified = now() WHERE id = :id"
                ),
                {"id": record, "name": clean(name), "active": active},
            )
            if addresses is not None:
                await db.execute(text("DELETE FROM crm.address WHERE record = :id"), {"id": record})
                await self._index(db, record, [stored_address(a) for a in addresses])

    async def records(self, kind: str, search: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """Records of one type, newest first; `search` in name and addresses."""
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(_RECORDS),
                {"o": self._organization, "type": kind, "search": f"%{_escaped(search)}%", "limit": limit},
            )
            return [dict(row._mapping) for row in rows]

    async def record(self, named: str) -> UUID:
        """The record with this id, or the case with this ticket number. Raises Permanent when there is none."""
        async with transaction(self._engine) as db:
            found = await db.execute(_NAMED, {"o": self._organization, "named": named.strip()})
            identifier = found.scalar()
        if identifier is None:
            raise Permanent(
                f"There is no record {named}", cure="name an id or a ticket number that email-router crm cases shows"
            )
        return UUID(str(identifier))

    async def timeline(self, record: UUID | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Email activities of a record (as regarding or party), oldest first; of the whole organization without one."""
        async with transaction(self._engine) as db:
            values = {"o": self._organization, "record": record, "limit": limit}
            rows = await db.execute(TIMELINE if record is None else TIMELINE_OF_RECORD, values)
            found = [dict(row._mapping) for row in rows]
        for row in found:
            row["status"] = EmailStatus(row["status"]).label
        return list(reversed(found))

    async def activity(self, identifier: UUID) -> dict[str, Any] | None:
        """One email activity whole, with parties and attachments."""
        async with transaction(self._engine) as db:
            rows = await db.execute(text(_ACTIVITY), {"o": self._organization, "id": identifier})
            row = rows.first()
        if row is None:
            return None
        found = dict(row._mapping)
        found["status"] = EmailStatus(found["status"]).label
        return found

    def content(self, activity: UUID, sha256: bytes) -> AsyncIterator[bytes]:
        """The bytes of an activity's attachment."""
        return bulk.content(self._engine, self._organization, activity, sha256)

    def raw(self, activity: UUID) -> AsyncIterator[bytes]:
        """The message as it came, while it is kept."""
        return bulk.raw(self._engine, self._organization, activity)

    async def forget_raw(self, before: datetime) -> int:
        """Messages that came before this moment are not kept as they came any more; their activities stay."""
        async with transaction(self._engine) as db:
            gone = await db.execute(FORGET_RAW, {"organization": self._organization, "before": first_id(before)})
            return int(gone.rowcount)

    # -- parts

    async def _insert(
        self,
        db: AsyncConnection,
        identifier: UUID,
        kind: str,
        name: str,
        owner: UUID | None,
        addresses: Sequence[str],
        customer: UUID | None,
        fields: dict[str, Any],
    ) -> None:
        await db.execute(
            text(
                "INSERT INTO crm.record (id, organization, type, name, owner, customer, fields) "
                "VALUES (:id, :o, :type, :name, :owner, :customer, :fields)"
            ),
            {
                "id": identifier,
                "o": self._organization,
                "type": kind,
                "name": clean(name),
                "owner": owner,
                "customer": customer,
                "fields": Jsonb(fields),
            },
        )
        await self._index(db, identifier, addresses)

    async def _index(self, db: AsyncConnection, record: UUID, addresses: Sequence[str]) -> None:
        for n, address in enumerate(addresses):
            await db.execute(
                text("INSERT INTO crm.address (record, organization, n, key, address) VALUES (:r, :o, :n, :k, :a)"),
                {"r": record, "o": self._organization, "n": n, "k": address.casefold(), "a": address},
            )

    async def _next(self, db: AsyncConnection, counter: str) -> int:
        taken = await db.execute(
            text(f"UPDATE crm.organization SET {counter} = {counter} + 1 WHERE id = :o RETURNING {counter}"),
            {"o": self._organization},
        )
        return int(taken.scalar_one())


def _access(identifier: UUID, receiver: Receiver) -> dict[str, Any]:
    return {
        "id": identifier,
        "incoming": int(receiver.incoming),
        "outgoing": int(receiver.outgoing),
        "approval": int(receiver.approval),
        "filter": int(receiver.filter_option),
        "makes_cases": receiver.makes_cases,
        "machines": receiver.machines_make_cases,
        "title": clean(receiver.case_title),
        "priority": receiver.case_priority,
    }


def _escaped(search: str) -> str:
    return clean(search).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


_KNOWN = text("""
SELECT v.id, r.type, r.name FROM crm.receiver v JOIN crm.record r ON r.id = v.id
WHERE v.organization = :o AND v.key = :k
""")
_NAMED = text("""
SELECT id FROM crm.record WHERE organization = :o
    AND (lower(:named) = CAST(id AS text) OR (type = 'incident' AND fields->>'ticketnumber' = upper(:named)))
""")
_NAME = text("""
UPDATE crm.record SET name = :name, owner = :owner, active = :active, modified = now() WHERE id = :id
""")
_ENTER = text("""
INSERT INTO crm.receiver (id, organization, key, address, incoming, outgoing, approval, filter_option, token_number)
VALUES (:id, :o, :key, :address, 0, 0, 0, 0, :number)
""")
_CHANGE = text("""
UPDATE crm.receiver SET incoming = :incoming, outgoing = :outgoing, approval = :approval, filter_option = :filter,
    makes_cases = :makes_cases, machines_make_cases = :machines, case_title = :title, case_priority = :priority
WHERE id = :id
""")
FORGET_RAW = text("""
DELETE FROM crm.raw_chunk r USING crm.activity a
WHERE r.activity < :before AND a.id = r.activity AND a.organization = :organization
""")
_RECORDS = """
SELECT r.id, r.name, r.active, r.owner, r.customer, c.name AS customer_name, r.fields, r.created,
    array(SELECT address FROM crm.address a WHERE a.record = r.id ORDER BY n) AS addresses,
    v.address AS mailbox, v.incoming, v.outgoing, v.approval, v.filter_option, v.makes_cases
FROM crm.record r LEFT JOIN crm.record c ON c.id = r.customer LEFT JOIN crm.receiver v ON v.id = r.id
WHERE r.organization = :o AND r.type = :type
    AND (r.name ILIKE :search OR EXISTS (SELECT 1 FROM crm.address a WHERE a.record = r.id AND a.key ILIKE :search))
ORDER BY r.created DESC LIMIT :limit
"""
_TIMELINE = """
SELECT a.id, a.direction, a.status, a.subject, a.sender, a.created, a.received, a.sent, a.message_id, a.token, a.said,
    a.attempts, r.name AS regarding, r.type AS regarding_type, a.regarding AS regarding_id,
    array(SELECT address FROM crm.party p WHERE p.activity = a.id AND p.role IN ('to', 'cc') ORDER BY n) AS recipients,
    (SELECT count(*) FROM crm.attachment t WHERE t.activity = a.id) AS attachments
FROM crm.activity a LEFT JOIN crm.record r ON r.id = a.regarding
WHERE a.organization = :o"""
_NEWEST = " ORDER BY coalesce(a.received, a.sent, a.created) DESC, a.id DESC LIMIT :limit"
TIMELINE = text(_TIMELINE + _NEWEST)
TIMELINE_OF_RECORD = text(
    f"{_TIMELINE} AND a.id IN (SELECT id FROM crm.activity WHERE regarding = :record "
    f"UNION SELECT activity FROM crm.party WHERE record = :record) {_NEWEST}"
)
_ACTIVITY = """
SELECT a.*, r.name AS regarding_name, r.type AS regarding_type,
    (SELECT json_agg(json_build_object('role', role, 'address', address, 'name', name, 'record', record,
        'state', state, 'said', said) ORDER BY n) FROM crm.party p WHERE p.activity = a.id) AS parties,
    (SELECT json_agg(json_build_object('name', name, 'content_type', content_type, 'size', size,
        'sha256', encode(sha256, 'hex'), 'inline', inline, 'content_id', content_id) ORDER BY n)
        FROM crm.attachment t WHERE t.activity = a.id) AS attachments,
    array(SELECT address FROM crm.received_by b WHERE b.activity = a.id ORDER BY address) AS received_by,
    array(SELECT q.name FROM crm.queue_item i JOIN crm.record q ON q.id = i.queue WHERE i.activity = a.id
        ORDER BY q.name) AS queues
FROM crm.activity a LEFT JOIN crm.record r ON r.id = a.regarding WHERE a.id = :id AND a.organization = :o
"""
