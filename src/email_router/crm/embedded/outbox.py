"""Mail written in the embedded CRM: Pending Send is the queue, claimed by one router at a time.

Nothing is sent here. A claim of an older epoch of a shard (its router died) is given to the new owner, and one that is
older than 30 minutes to whoever asks; the router's ledger tells which of them were handed over already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.crm.embedded import bulk
from email_router.crm.embedded.organization import fenced
from email_router.crm.embedded.status import EmailStatus
from email_router.model.message import Address
from email_router.model.outgoing import AttachmentRef, OutgoingEmail, SendState, Settlement
from email_router.model.receipt import Term
from email_router.net.postgres import clean, transaction

STATUS = {
    SendState.PENDING: EmailStatus.SENDING,
    SendState.UNCERTAIN: EmailStatus.SENDING,
    SendState.SENT: EmailStatus.SENT,
    SendState.FAILED: EmailStatus.FAILED,
    SendState.CANCELED: EmailStatus.CANCELED,
}

_COLUMNS = """a.id, a.sender, a.subject, a.body_text, a.body_html, a.in_reply_to, a.refs, a.importance, a.read_receipt,
    a.delivery_receipt, a.pending_since,
    (SELECT json_agg(json_build_array(role, name, address) ORDER BY n) FROM crm.party p WHERE p.activity = a.id)
        AS parties,
    (SELECT json_agg(json_build_array(name, content_type, size, encode(sha256, 'hex'), content_id, inline) ORDER BY n)
        FROM crm.attachment t WHERE t.activity = a.id) AS attachments
"""
LOAD = text(
    f"SELECT {_COLUMNS} FROM crm.activity a "
    "WHERE a.organization = :organization AND a.id = ANY(:ids) AND a.status IN (6, 7)"
)
CLAIM = text(
    """
WITH pending AS (
    SELECT a.id, a.status, a.claimed FROM unnest(CAST(:senders AS text[])) AS s(sender)
    CROSS JOIN LATERAL (
        SELECT id, status, claimed, pending_since, row_number() OVER (ORDER BY pending_since, id) AS turn
        FROM crm.activity
        WHERE organization = :organization AND sender = s.sender AND status = 6
        ORDER BY pending_since, id LIMIT :limit
    ) AS a ORDER BY a.turn, a.pending_since LIMIT :limit
), stale AS (
    SELECT id, status, claimed FROM crm.activity
    WHERE organization = :organization AND sender = ANY(:senders) AND status = 7
        AND ((claim_shard = :shard AND claim_epoch < :epoch) OR claimed < now() - interval '30 minutes'
            OR claimed > now() + interval '30 minutes')
    ORDER BY pending_since LIMIT :limit
)
UPDATE crm.activity AS a SET status = 7, claimed = now(), claim_shard = :shard, claim_epoch = :epoch
FROM (SELECT * FROM pending UNION ALL SELECT * FROM stale) AS c
WHERE a.id = c.id AND a.status = c.status AND a.claimed IS NOT DISTINCT FROM c.claimed
RETURNING """
    + _COLUMNS
)
SETTLE = text("""
UPDATE crm.activity AS a SET status = t.status, message_id = t.message_id, attempts = t.attempts, said = t.said,
    sent = CASE WHEN t.status = 3 THEN coalesce(a.sent, now()) ELSE a.sent END
FROM unnest(CAST(:ids AS uuid[]), CAST(:statuses AS integer[]), CAST(:message_ids AS text[]),
    CAST(:attempts AS integer[]), CAST(:said AS text[])) AS t(id, status, message_id, attempts, said)
WHERE a.id = t.id AND a.organization = :organization
    AND (a.status IN (3, 7, 8) OR (a.status = 5 AND t.status = 3))
""")
"""What was handed over before it was canceled is Sent all the same."""
SETTLE_PARTIES = text("""
UPDATE crm.party AS p SET state = t.state, said = t.said
FROM unnest(CAST(:ids AS uuid[]), CAST(:addresses AS text[]), CAST(:states AS text[]), CAST(:said AS text[]))
    AS t(id, address, state, said) JOIN crm.activity a ON a.id = t.id AND a.organization = :organization
WHERE p.activity = t.id AND p.address = t.address AND p.role <> 'from' AND a.status <> 6
""")


class Outbox:
    """`ports.crm.Outbox` for one organization."""

    def __init__(self, engine: AsyncEngine, organization: UUID, deployment: str) -> None:
        self._engine = engine
        self._organization = organization
        self._deployment = deployment

    async def claim(self, senders: Sequence[str], limit: int, term: Term) -> Sequence[OutgoingEmail]:
        values = {
            "organization": self._organization,
            "senders": list(senders),
            "limit": limit,
            "shard": term.shard,
            "epoch": term.epoch,
        }
        async with fenced(self._engine, term) as db:
            rows = sorted((await db.execute(CLAIM, values)).all(), key=lambda row: row.pending_since)
        return [self._email(row) for row in rows]

    async def load(self, emails: Sequence[UUID]) -> Sequence[OutgoingEmail]:
        async with transaction(self._engine) as db:
            rows = await db.execute(LOAD, {"organization": self._organization, "ids": list(emails)})
            return [self._email(row) for row in rows]

    def attachment(self, email: UUID, ref: AttachmentRef) -> AsyncIterator[bytes]:
        return bulk.content(self._engine, self._organization, email, ref.sha256)

    async def settle(self, settlements: Sequence[Settlement], term: Term) -> None:
        results = [(s.email, r) for s in settlements for r in s.results]
        async with fenced(self._engine, term) as db:
            await db.execute(
                SETTLE,
                {
                    "organization": self._organization,
                    "ids": [s.email for s in settlements],
                    "statuses": [int(STATUS[s.state]) for s in settlements],
                    "message_ids": [clean(s.message_id) for s in settlements],
                    "attempts": [s.attempts for s in settlements],
                    "said": [clean(_words(s)) for s in settlements],
                },
            )
            if results:
                await db.execute(
                    SETTLE_PARTIES,
                    {
                        "organization": self._organization,
                        "ids": [email for email, _ in results],
                        "addresses": [r.address for _, r in results],
                        "states": [r.state.value for _, r in results],
                        "said": [clean(r.said) for _, r in results],
                    },
                )

    def _email(self, row: Any) -> OutgoingEmail:
        people: dict[str, list[Address]] = {"from": [], "to": [], "cc": [], "bcc": []}
        for role, name, address in row.parties or ():
            people[role].append(Address(name, address))
        return OutgoingEmail(
            id=row.id,
            deployment=self._deployment,
            from_=people["from"][0] if people["from"] else Address("", row.sender),
            to=tuple(people["to"]),
            cc=tuple(people["cc"]),
            bcc=tuple(people["bcc"]),
            subject=row.subject,
            text=row.body_text,
            html=row.body_html,
            attachments=tuple(
                AttachmentRef(name, kind, size, bytes.fromhex(sha256), content_id, inline)
                for name, kind, size, sha256, content_id, inline in row.attachments or ()
            ),
            in_reply_to=row.in_reply_to,
            references=tuple(row.refs),
            importance=row.importance,
            read_receipt=row.read_receipt,
            delivery_receipt=row.delivery_receipt,
        )


def _words(settlement: Settlement) -> str:
    if settlement.state is SendState.UNCERTAIN:
        return f"Uncertain: {settlement.said}"
    return settlement.said
