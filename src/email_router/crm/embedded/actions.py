"""What people do in the embedded CRM: make users, queues, customers and cases, read a timeline, send email."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from email_router.crm.embedded import bulk
from email_router.mime.addresses import normalise
from email_router.mime.contents import BytesContent
from email_router.model.errors import Permanent
from email_router.model.ids import new_id
from email_router.model.mailbox import MailboxKind, Receiver
from email_router.model.message import Address
from email_router.model.settings import TrackingSettings
from email_router.net.postgres import clean, transaction
from email_router.tracking import token

DRAFT, PENDING_SEND = 1, 6
STATUS = {
    1: "Draft",
    2: "Completed",
    3: "Sent",
    4: "Received",
    5: "Canceled",
    6: "Pending Send",
    7: "Sending",
    8: "Failed",
}
TYPES = ("account", "contact", "lead", "opportunity", "incident", "systemuser", "queue", "equipment", "team")


@dataclass(frozen=True, slots=True)
class Draft:
    """An email as a person writes it. `answers` is the activity that it replies to."""

    sender: str
    to: tuple[Address, ...]
    subject: str
    text: str
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    html: str = ""
    regarding: UUID | None = None
    answers: UUID | None = None
    attachments: tuple[tuple[str, str, bytes], ...] = ()
    """Name, media type and content of each."""


class Actions:
    """One organization of the embedded CRM, as its people use it."""

    def __init__(self, engine: AsyncEngine, organization: UUID, settings: TrackingSettings) -> None:
        self._engine = engine
        self._organization = organization
        self._settings = settings

    async def add_receiver(self, receiver: Receiver) -> UUID:
        """A user or a queue with its mailbox address. An address that is there already keeps its id and is changed."""
        kind = "queue" if receiver.kind is MailboxKind.QUEUE else "systemuser"
        address = _address(receiver.address)
        async with transaction(self._engine) as db:
            found = await db.execute(
                text("SELECT id FROM crm.receiver WHERE organization = :o AND key = :k"),
                {"o": self._organization, "k": address.casefold()},
            )
            known = found.scalar()
            identifier = known or receiver.id
            if known is None:
                await self._insert(db, identifier, kind, receiver.name, receiver.owner, [address], None, {})
            else:
                await db.execute(
                    text(
                        "UPDATE crm.record SET name = :name, owner = :owner, active = :active, modified = now() "
                        "WHERE id = :id"
                    ),
                    {"id": known, "name": receiver.name, "owner": receiver.owner, "active": receiver.enabled},
                )
            await db.execute(_RECEIVER, self._receiver_values(identifier, receiver, address))
        return UUID(str(identifier))

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
            extra = dict(fields or {})
            if kind == "incident" and "ticketnumber" not in extra:
                extra["ticketnumber"] = f"CAS-{await self._next_case(db):05d}"
            known = [_address(a) for a in addresses]
            await self._insert(db, identifier, kind, name, owner, known, customer, extra)
        return identifier

    async def records(self, kind: str, search: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """Records of one type, newest first; `search` in name and addresses."""
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(_RECORDS),
                {"o": self._organization, "type": kind, "search": f"%{_escaped(search)}%", "limit": limit},
            )
            return [dict(row._mapping) for row in rows]

    async def timeline(self, record: UUID | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Email activities of a record (as regarding or party), oldest first; of the whole organization without one."""
        async with transaction(self._engine) as db:
            rows = await db.execute(text(_TIMELINE), {"o": self._organization, "record": record, "limit": limit})
            found = [dict(row._mapping) for row in rows]
        for row in found:
            row["status"] = STATUS[row["status"]]
        return list(reversed(found))

    async def activity(self, identifier: UUID) -> dict[str, Any] | None:
        """One email activity whole, with parties and attachments."""
        async with transaction(self._engine) as db:
            rows = await db.execute(text(_ACTIVITY), {"o": self._organization, "id": identifier})
            row = rows.first()
        if row is None:
            return None
        found = dict(row._mapping)
        found["status"] = STATUS[found["status"]]
        return found

    def content(self, sha256: bytes) -> AsyncIterator[bytes]:
        """An attachment's bytes."""
        return bulk.read(self._engine, "crm.content_chunk", "sha256", sha256)

    def raw(self, activity: UUID) -> AsyncIterator[bytes]:
        """The message as it came, while it is kept."""
        return bulk.read(self._engine, "crm.raw_chunk", "activity", activity)

    async def send(self, draft: Draft) -> UUID:
        """Write an email and put it into Pending Send with its tracking token and the headers of its conversation.

        Raises Permanent when the sender is no user or queue of this organization, or there is no recipient.
        """
        if not (draft.to or draft.cc or draft.bcc):
            raise Permanent("The email has no recipient", cure="name at least one")
        identifier = new_id()
        async with transaction(self._engine) as db:
            sender = await self._sender(db, draft.sender)
            parent = await self._parent(db, draft.answers)
            subject, issued = self._stamped(draft.subject, parent, sender)
            contents = {hashlib.sha256(d).digest(): BytesContent(d) for _, _, d in draft.attachments}
            await bulk.store_contents(db, dict(contents))
            await db.execute(_SEND, self._send_values(identifier, draft, sender, parent, subject, issued))
            await self._send_details(db, identifier, draft, sender)
            await db.execute(text("SELECT pg_notify('crm_pending_send', '')"))
        return identifier

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
        for n, address in enumerate(addresses):
            await db.execute(
                text("INSERT INTO crm.address (record, organization, n, key, address) VALUES (:r, :o, :n, :k, :a)"),
                {"r": identifier, "o": self._organization, "n": n, "k": address.casefold(), "a": address},
            )

    def _receiver_values(self, identifier: UUID, receiver: Receiver, address: str) -> dict[str, Any]:
        return {
            "id": identifier,
            "o": self._organization,
            "key": address.casefold(),
            "address": address,
            "incoming": int(receiver.incoming),
            "outgoing": int(receiver.outgoing),
            "approval": int(receiver.approval),
            "filter": int(receiver.filter_option),
            "makes_cases": receiver.makes_cases,
            "title": receiver.case_title,
            "priority": receiver.case_priority,
        }

    async def _next_case(self, db: AsyncConnection) -> int:
        taken = await db.execute(
            text("UPDATE crm.organization SET case_counter = case_counter + 1 WHERE id = :o RETURNING case_counter"),
            {"o": self._organization},
        )
        return int(taken.scalar_one())

    async def _sender(self, db: AsyncConnection, address: str) -> Any:
        """The sending user or queue with its next message number: the counter of its tracking tokens."""
        row = await db.execute(
            text(
                "UPDATE crm.receiver AS v SET token_counter = token_counter + 1 FROM crm.record r "
                "WHERE v.organization = :o AND v.key = :key AND r.id = v.id "
                "RETURNING v.id, v.address, v.token_number, v.token_counter, r.name, r.owner, r.type"
            ),
            {"o": self._organization, "key": address.casefold()},
        )
        found = row.first()
        if found is None:
            raise Permanent(
                f"{address} is no user or queue of this organization",
                cure="send as a user or queue (email-router crm users, email-router crm queues)",
            )
        return found

    async def _parent(self, db: AsyncConnection, answers: UUID | None) -> Any:
        if answers is None:
            return None
        found = await db.execute(
            text("SELECT * FROM crm.activity WHERE id = :id AND organization = :o"),
            {"id": answers, "o": self._organization},
        )
        parent = found.first()
        if parent is None:
            raise Permanent(f"There is no email activity {answers} to answer", cure="see: email-router crm timeline")
        return parent

    def _stamped(self, subject: str, parent: Any, sender: Any) -> tuple[str, str]:
        """Subject and token. A conversation keeps the token that its subject carries already."""
        subject = clean(subject)
        if not self._settings.use_tokens:
            return subject[: self._settings.maximum_subject], ""
        carried = token.find(subject, self._settings)
        if parent is not None and parent.token and parent.token in carried:
            return subject[: self._settings.maximum_subject], parent.token
        issued = token.issue(self._settings, sender.token_number, sender.token_counter)
        return token.append_token(subject, issued, self._settings.maximum_subject), issued

    def _send_values(
        self, identifier: UUID, draft: Draft, sender: Any, parent: Any, subject: str, issued: str
    ) -> dict[str, Any]:
        references = [*parent.refs, parent.message_id] if parent is not None and parent.message_id else []
        return {
            "id": identifier,
            "o": self._organization,
            "subject": subject,
            "text": clean(draft.text),
            "html": clean(draft.html),
            "sender": sender.address,
            "in_reply_to": parent.message_id if parent is not None else "",
            "refs": list(dict.fromkeys(references)),
            "token": issued,
            "regarding": draft.regarding or (parent.regarding if parent is not None else None),
            "owner": sender.owner if sender.type == "queue" else sender.id,
            "correlated": parent.id if parent is not None else None,
        }

    async def _send_details(self, db: AsyncConnection, identifier: UUID, draft: Draft, sender: Any) -> None:
        people = [("from", Address(sender.name, sender.address))]
        people += [(role, p) for role in ("to", "cc", "bcc") for p in getattr(draft, role)]
        for n, (role, person) in enumerate(people):
            await db.execute(
                _PARTY,
                {
                    "activity": identifier,
                    "n": n,
                    "role": role,
                    "address": _address(person.address),
                    "name": clean(person.name),
                    "key": person.key,
                    "o": self._organization,
                },
            )
        await bulk.copy(
            db,
            "crm.attachment",
            "activity, n, name, content_type, size, sha256, content_id, inline",
            ("uuid", "int4", "text", "text", "int8", "bytea", "text", "bool"),
            [
                (identifier, n, Path(name).name, kind, len(data), hashlib.sha256(data).digest(), "", False)
                for n, (name, kind, data) in enumerate(draft.attachments)
            ],
        )


def _address(value: str) -> str:
    """An address as it is stored everywhere: lower-case A-label domain."""
    return normalise(clean(value.strip())) or clean(value.strip())


def _escaped(search: str) -> str:
    return clean(search).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


_RECEIVER = text("""
INSERT INTO crm.receiver (id, organization, key, address, incoming, outgoing, approval, filter_option, makes_cases,
    case_title, case_priority, token_number)
SELECT :id, :o, :key, :address, :incoming, :outgoing, :approval, :filter, :makes_cases, :title, :priority,
    (SELECT count(*) + 1 FROM crm.receiver WHERE organization = :o)
ON CONFLICT (id) DO UPDATE SET incoming = excluded.incoming, outgoing = excluded.outgoing,
    approval = excluded.approval, filter_option = excluded.filter_option, makes_cases = excluded.makes_cases,
    case_title = excluded.case_title, case_priority = excluded.case_priority
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
WHERE a.organization = :o AND (CAST(:record AS uuid) IS NULL OR a.regarding = :record
    OR a.id IN (SELECT activity FROM crm.party WHERE record = :record))
ORDER BY coalesce(a.received, a.sent, a.created) DESC, a.id DESC LIMIT :limit
"""
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
_SEND = text("""
INSERT INTO crm.activity (id, organization, direction, status, subject, body_text, body_html, sender, message_id,
    in_reply_to, refs, token, regarding, owner, correlated, pending_since)
VALUES (:id, :o, 'outgoing', 6, :subject, :text, :html, :sender, '', :in_reply_to, :refs, :token, :regarding, :owner,
    :correlated, now())
""")
_PARTY = text("""
INSERT INTO crm.party (activity, n, role, address, name, record)
VALUES (:activity, :n, :role, :address, :name, (SELECT a.record FROM crm.address a JOIN crm.record r ON r.id = a.record
    WHERE a.organization = :o AND a.key = :key ORDER BY r.created LIMIT 1))
""")
