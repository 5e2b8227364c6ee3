"""Email that people write: a draft, put into Pending Send, canceled, or completed without being sent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from email_router.crm.embedded import bulk
from email_router.crm.embedded.status import MAY_BECOME, EmailStatus
from email_router.mime.addresses import normalise
from email_router.mime.contents import BytesContent
from email_router.model.errors import Permanent
from email_router.model.ids import new_id
from email_router.model.message import Address
from email_router.model.settings import TrackingSettings
from email_router.net.postgres import clean, copy, transaction
from email_router.tracking import token


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


class Writing:
    """Email of one organization, as its people write it. Raises Permanent for what they may not do."""

    def __init__(self, engine: AsyncEngine, organization: UUID, settings: TrackingSettings) -> None:
        self._engine = engine
        self._organization = organization
        self._settings = settings

    async def save(self, draft: Draft) -> UUID:
        """Keep an email as a Draft."""
        async with transaction(self._engine) as db:
            return await self._save(db, draft)

    async def send(self, draft: Draft) -> UUID:
        """Write an email and put it into Pending Send."""
        async with transaction(self._engine) as db:
            identifier = await self._save(db, draft)
            await self._submit(db, identifier)
        return identifier

    async def submit(self, email: UUID) -> None:
        """A Draft, or an email that Failed, into Pending Send: with its token and the headers of its conversation."""
        async with transaction(self._engine) as db:
            await self._submit(db, email)

    async def cancel(self, email: UUID) -> None:
        """It is not sent any more, unless it was handed over already."""
        await self._change(email, EmailStatus.CANCELED)

    async def complete(self, email: UUID) -> None:
        """A Draft that is recorded as done, without being sent."""
        await self._change(email, EmailStatus.COMPLETED)

    # -- parts

    async def _save(self, db: AsyncConnection, draft: Draft) -> UUID:
        if not (draft.to or draft.cc or draft.bcc):
            raise Permanent("The email has no recipient", cure="name at least one")
        identifier = new_id()
        sender = await self._sender(db, draft.sender)
        parent = await self._parent(db, draft.answers)
        if draft.regarding is not None:
            await self._check_record(db, draft.regarding)
        contents = {hashlib.sha256(d).digest(): BytesContent(d) for _, _, d in draft.attachments}
        await bulk.store_contents(db, dict(contents))
        await db.execute(
            _SAVE,
            {
                "id": identifier,
                "o": self._organization,
                "status": EmailStatus.DRAFT,
                "subject": clean(draft.subject)[: self._settings.maximum_subject],
                "text": clean(draft.text),
                "html": clean(draft.html),
                "sender": sender.address,
                "regarding": draft.regarding or (parent.regarding if parent is not None else None),
                "owner": sender.owner if sender.type == "queue" else sender.id,
                "correlated": parent.id if parent is not None else None,
            },
        )
        await self._save_parts(db, identifier, draft, sender)
        return identifier

    async def _save_parts(self, db: AsyncConnection, identifier: UUID, draft: Draft, sender: Any) -> None:
        people = [("from", Address(sender.name, sender.address))]
        people += [(role, p) for role in ("to", "cc", "bcc") for p in getattr(draft, role)]
        for n, (role, person) in enumerate(people):
            await db.execute(
                _PARTY,
                {
                    "activity": identifier,
                    "n": n,
                    "role": role,
                    "address": stored_address(person.address),
                    "name": clean(person.name),
                    "key": stored_address(person.address).casefold(),
                    "o": self._organization,
                },
            )
        await copy(
            db,
            "crm.attachment",
            "activity, n, name, content_type, size, sha256, content_id, inline",
            ("uuid", "int4", "text", "text", "int8", "bytea", "text", "bool"),
            [
                (identifier, n, Path(name).name, kind, len(data), hashlib.sha256(data).digest(), "", False)
                for n, (name, kind, data) in enumerate(draft.attachments)
            ],
        )

    async def _submit(self, db: AsyncConnection, identifier: UUID) -> None:
        email = await self._locked(db, identifier, EmailStatus.PENDING_SEND)
        parent = await self._parent(db, email.correlated)
        subject, issued = await self._stamped(db, email, parent)
        references = [*parent.refs, parent.message_id] if parent is not None and parent.message_id else []
        await db.execute(
            _SUBMIT,
            {
                "id": identifier,
                "status": EmailStatus.PENDING_SEND,
                "subject": subject,
                "token": issued,
                "in_reply_to": parent.message_id if parent is not None else "",
                "refs": list(dict.fromkeys(references)),
            },
        )
        await db.execute(
            text("UPDATE crm.party SET state = '', said = '' WHERE activity = :id AND state <> ''"), {"id": identifier}
        )
        await db.execute(text("SELECT pg_notify('crm_pending_send', '')"))

    async def _change(self, identifier: UUID, wanted: EmailStatus) -> None:
        async with transaction(self._engine) as db:
            await self._locked(db, identifier, wanted)
            await db.execute(
                text("UPDATE crm.activity SET status = :status WHERE id = :id"), {"id": identifier, "status": wanted}
            )

    async def _locked(self, db: AsyncConnection, identifier: UUID, wanted: EmailStatus) -> Any:
        """The email, nobody else's until the transaction ends. Raises Permanent where it may not become `wanted`."""
        found = await db.execute(
            text("SELECT * FROM crm.activity WHERE id = :id AND organization = :o FOR UPDATE"),
            {"id": identifier, "o": self._organization},
        )
        email = found.first()
        if email is None:
            raise Permanent(f"There is no email activity {identifier}", cure="see: email-router crm timeline")
        status = EmailStatus(email.status)
        if wanted not in MAY_BECOME.get(status, ()):
            raise Permanent(
                f"The email is {status.label} and cannot become {wanted.label}",
                cure="write a new one" if email.direction == "outgoing" else "received mail stays as it is",
            )
        return email

    async def _sender(self, db: AsyncConnection, address: str) -> Any:
        found = await db.execute(_SENDER, {"o": self._organization, "key": stored_address(address).casefold()})
        sender = found.first()
        if sender is None:
            raise Permanent(
                f"{address or 'nobody'} is no user or queue of this organization",
                cure="send as a user or queue (email-router crm users, email-router crm queues)",
            )
        return sender

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

    async def _check_record(self, db: AsyncConnection, record: UUID) -> None:
        found = await db.execute(
            text("SELECT 1 FROM crm.record WHERE id = :id AND organization = :o"),
            {"id": record, "o": self._organization},
        )
        if found.first() is None:
            raise Permanent(f"There is no record {record} that it could be regarding", cure="see: email-router crm")

    async def _stamped(self, db: AsyncConnection, email: Any, parent: Any) -> tuple[str, str]:
        """Subject and token. A conversation keeps the token that its subject carries already, also when sent again."""
        maximum = self._settings.maximum_subject
        if not self._settings.use_tokens:
            return email.subject[:maximum], ""
        carried = token.find(email.subject, self._settings)
        for known in (email.token, parent.token if parent is not None else ""):
            if known and known in carried:
                return email.subject[:maximum], known
        numbered = (await db.execute(_NUMBER, {"o": self._organization, "key": email.sender.casefold()})).first()
        if numbered is None:
            raise Permanent(f"{email.sender} is no user or queue any more", cure="write the email as another one")
        issued = token.issue(self._settings, numbered.token_number, numbered.token_counter)
        return token.append_token(email.subject, issued, maximum), issued


def stored_address(value: str) -> str:
    """An address as it is stored everywhere: lower-case A-label domain."""
    return normalise(clean(value.strip())) or clean(value.strip())


_SENDER = text("""
SELECT v.id, v.address, r.name, r.owner, r.type FROM crm.receiver v JOIN crm.record r ON r.id = v.id
WHERE v.organization = :o AND v.key = :key
""")
_NUMBER = text("""
UPDATE crm.receiver SET token_counter = token_counter + 1 WHERE organization = :o AND key = :key
RETURNING token_number, token_counter
""")
_SAVE = text("""
INSERT INTO crm.activity (id, organization, direction, status, subject, body_text, body_html, sender, message_id,
    in_reply_to, refs, regarding, owner, correlated)
VALUES (:id, :o, 'outgoing', :status, :subject, :text, :html, :sender, '', '', '{}', :regarding, :owner, :correlated)
""")
_SUBMIT = text("""
UPDATE crm.activity SET status = :status, subject = :subject, token = :token, in_reply_to = :in_reply_to, refs = :refs,
    pending_since = now(), attempts = 0, said = '', claimed = NULL, claim_shard = NULL, claim_epoch = NULL
WHERE id = :id
""")
_PARTY = text("""
INSERT INTO crm.party (activity, n, role, address, name, record)
VALUES (:activity, :n, :role, :address, :name, (SELECT a.record FROM crm.address a JOIN crm.record r ON r.id = a.record
    WHERE a.organization = :o AND a.key = :key ORDER BY r.created LIMIT 1))
""")
