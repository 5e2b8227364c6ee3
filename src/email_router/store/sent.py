"""What was handed over, as reports and replies find it, and what they change in it.

What may fail: the round of the profile tells the CRM about the same row at this moment. Each change counts an attempt,
so that what it told is seen to be old, and is told again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.receipt import Term
from email_router.model.report import SentEmail
from email_router.net.postgres import clean, transaction
from email_router.ports.store import Bounce
from email_router.store.ledger import settle_uncertain
from email_router.store.shards import fenced

FIND = text("""
SELECT l.id, l.email, l.message_id, l.envelope_id, coalesce(l.handed_over, l.date) AS handed_over, l.subject,
    array(SELECT address FROM router.ledger_recipient r WHERE r.ledger = l.id ORDER BY n) AS recipients
FROM router.ledger l WHERE deployment = :deployment AND (attempts > 0 OR handed_over IS NOT NULL)
    AND (message_id = ANY(:message_ids) OR id = ANY(:rows))
""")
REFUSE = text("""
UPDATE router.ledger_recipient AS r SET state = 'refused', status = t.status, said = t.said
FROM unnest(CAST(:rows AS uuid[]), CAST(:addresses AS text[]), CAST(:statuses AS text[]), CAST(:said AS text[]))
    AS t(ledger, address, status, said)
WHERE r.ledger = t.ledger AND r.address = t.address AND r.state <> 'refused'
RETURNING r.ledger
""")
FAIL = text("""
UPDATE router.ledger AS l SET settled = false, attempts = attempts + 1, last_error = t.said,
    state = CASE WHEN l.state <> 'sent' THEN l.state
        WHEN EXISTS (SELECT 1 FROM router.ledger_recipient r WHERE r.ledger = l.id AND r.state <> 'refused') THEN 'sent'
        ELSE 'failed' END
FROM unnest(CAST(:rows AS uuid[]), CAST(:said AS text[])) AS t(id, said) WHERE l.id = t.id
""")


UNCERTAIN = text("""
SELECT id, message_id FROM router.ledger
WHERE deployment = :deployment AND message_id = ANY(:message_ids) AND state = 'uncertain'
""")


class Sent:
    """`ports.store.Sent` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def find(
        self, deployment: str, message_ids: Sequence[str], envelope_ids: Sequence[str]
    ) -> Sequence[SentEmail]:
        rows: list[UUID] = []
        for envelope in envelope_ids:
            with suppress(ValueError):  # somebody else's
                rows.append(UUID(hex=envelope))
        values = {"deployment": deployment, "message_ids": [clean(i) for i in message_ids], "rows": rows}
        async with transaction(self._engine) as db:
            found = await db.execute(FIND, values)
            return [
                SentEmail(r.id, r.email, r.message_id, r.envelope_id, r.handed_over, tuple(r.recipients), r.subject)
                for r in found
            ]

    async def bounced(self, bounces: Sequence[Bounce], term: Term) -> int:
        if not bounces:
            return 0
        async with fenced(self._engine, term) as db:
            refused = await db.execute(
                REFUSE,
                {
                    "rows": [b.row for b in bounces],
                    "addresses": [b.address for b in bounces],
                    "statuses": [clean(b.status) for b in bounces],
                    "said": [clean(b.said) for b in bounces],
                },
            )
            changed = {row.ledger for row in refused}
            said = {b.row: f"{b.address}: {b.said}" for b in reversed(bounces) if b.row in changed}
            if said:
                await db.execute(FAIL, {"rows": list(said), "said": [clean(s) for s in said.values()]})
            return len(said)

    async def proved(self, deployment: str, proofs: Mapping[str, str], term: Term) -> int:
        words = {clean(i): said for i, said in proofs.items()}
        values = {"deployment": deployment, "message_ids": list(words)}
        async with transaction(self._engine) as db:
            rows = (await db.execute(UNCERTAIN, values)).all()
        if not rows:
            return 0
        async with fenced(self._engine, term) as db:
            notes = [(row.id, f"it was sent: {clean(words[row.message_id])}") for row in rows]
            return sum([await settle_uncertain(db, [row], "sent", note) for row, note in notes])
