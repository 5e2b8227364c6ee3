"""Receipts, cursors and decisions: what was seen, and what became of it.

Every method is one transaction with a fixed number of statements, however many messages it is about (undeliverable
mail aside: its raw bytes are streamed). Nothing is half done after a kill: a cursor and its receipts, or an outcome and
its decision, are there together or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from email_router.model.ids import new_id
from email_router.model.message import Content, DeliveryKey
from email_router.model.receipt import Decision, Outcome, Receipt, Term
from email_router.net.postgres import clean, copy, transaction
from email_router.ports.mail import Cursor
from email_router.ports.store import Conclusion
from email_router.store import chunks
from email_router.store.shards import fenced

EVER = 1e9
"""Seconds: more than any installation is old."""

NOTE = text("""
INSERT INTO router.receipt AS r (id, deployment, mailbox, folder, item)
SELECT i, d, :mailbox, :folder, k
FROM unnest(CAST(:ids AS uuid[]), CAST(:deployments AS text[]), CAST(:items AS text[])) AS t(i, d, k)
ON CONFLICT (mailbox, folder, item, deployment) DO UPDATE
SET outcome = NULL, closed = NULL, attempts = 0, next_attempt = now() WHERE r.outcome = 'vanished'
""")
"""What had vanished and is there again (a server that listed half of its mailbox) is seen anew."""
MOVE = text("""
INSERT INTO router.cursor (mailbox, folder, cursor) VALUES (:mailbox, :folder, :cursor)
ON CONFLICT (mailbox, folder) DO UPDATE SET cursor = excluded.cursor
""")
OPEN = text("""
SELECT id, deployment, mailbox, folder, item, seen, attempts, outcome FROM router.receipt
WHERE closed IS NULL AND mailbox = :mailbox AND folder = :folder AND item = ANY(:items)
""")
WAITING = text("""
SELECT id, deployment, mailbox, folder, item, seen, attempts, outcome FROM router.receipt AS r
WHERE closed IS NULL AND mailbox = :mailbox
    AND (next_attempt <= now() OR next_attempt > now() + interval '7 days')
    AND (folder = :folder OR EXISTS (SELECT 1 FROM router.undeliverable u WHERE u.receipt = r.id AND u.size > 0)
        OR EXISTS (SELECT 1 FROM router.untracked_chunk c WHERE c.receipt = r.id))
ORDER BY seen, id LIMIT :limit
""")
"""Nothing is postponed by a week: what says so was written when the clock was wrong."""
POSTPONE = text("""
UPDATE router.receipt SET attempts = attempts + 1, last_error = :error,
    next_attempt = now() + make_interval(secs => :seconds)
WHERE id = ANY(:ids) AND closed IS NULL
""")
CONCLUDE = text("""
UPDATE router.receipt AS r SET outcome = t.o, next_attempt = now(),
    closed = CASE WHEN :close THEN now() END
FROM unnest(CAST(:ids AS uuid[]), CAST(:outcomes AS text[])) AS t(i, o) WHERE r.id = t.i
""")
DECISION = {
    "receipt": "uuid",
    "deployment": "text",
    "mailbox": "text",
    "folder": "text",
    "item": "text",
    "outcome": "text",
    "reason": "text",
    "why": "text",
    "losing": "text",
    "message_id": "text",
    "identity": "bytea",
    "sender": "text",
    "recipients": "text",
    "subject": "text",
    "received": "timestamptz",
    "activity": "uuid",
    "defects": "text",
    "traceback": "text",
    "class": "text",
    "class_line": "text",
}
"""Columns of router.decision in the order of `_decision`, and their types."""
NAMED = text("""
INSERT INTO router.named_id (deployment, message_id, receipt)
SELECT * FROM unnest(CAST(:deployments AS text[]), CAST(:ids AS text[]), CAST(:receipts AS uuid[]))
ON CONFLICT DO NOTHING
""")
REOPEN = text("""
WITH named AS (
    UPDATE router.named_id SET reopened = true
    WHERE deployment = :deployment AND message_id = ANY(:ids) AND NOT reopened RETURNING receipt
)
UPDATE router.receipt SET closed = NULL, outcome = NULL, next_attempt = now(), attempts = 0
WHERE id IN (SELECT receipt FROM named) AND outcome = 'not-tracked'
""")
REOPEN_MISSED = text("""
WITH named AS (
    UPDATE router.named_id AS n SET reopened = true FROM router.decision d
    WHERE d.created > now() - make_interval(secs => :seconds) AND d.outcome IN ('filed', 'duplicate')
        AND n.deployment = d.deployment AND n.message_id = d.message_id AND NOT n.reopened
    RETURNING n.receipt
)
UPDATE router.receipt SET closed = NULL, outcome = NULL, next_attempt = now(), attempts = 0
WHERE id IN (SELECT receipt FROM named) AND outcome = 'not-tracked'
""")
ADD_UNDELIVERABLE = text("""
INSERT INTO router.undeliverable (id, receipt, deployment, mailbox, folder, item, received, cause, cure, traceback,
    subject, sender, size)
VALUES (:id, :receipt, :deployment, :mailbox, :folder, :item, :received, :cause, :cure, :traceback, :subject, :sender,
    :size)
ON CONFLICT (receipt) DO UPDATE SET state = 'open', cause = excluded.cause, cure = excluded.cure,
    traceback = excluded.traceback RETURNING id
""")


class Receipts:
    """`ports.store.Receipts` and `ports.store.Cursors` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def load(self, mailbox: str, folder: str) -> Cursor:
        async with transaction(self._engine) as db:
            found = await db.execute(
                text("SELECT cursor FROM router.cursor WHERE mailbox = :m AND folder = :f"), {"m": mailbox, "f": folder}
            )
            return str(found.scalar() or "")

    async def note(
        self,
        deployments: Sequence[str],
        mailbox: str,
        folder: str,
        keys: Sequence[DeliveryKey],
        cursor: Cursor,
        term: Term,
    ) -> Sequence[Receipt]:
        pairs = [(d, k.item) for k in keys for d in deployments]
        place = {"mailbox": mailbox, "folder": folder}
        async with fenced(self._engine, term) as db:
            await db.execute(MOVE, place | {"cursor": cursor})
            if not pairs:
                return []
            await db.execute(
                NOTE,
                place
                | {
                    "ids": [new_id() for _ in pairs],
                    "deployments": [d for d, _ in pairs],
                    "items": [i for _, i in pairs],
                },
            )
            rows = await db.execute(OPEN, place | {"items": [k.item for k in keys]})
            return [_receipt(row) for row in rows]

    async def waiting(self, mailbox: str, folder: str, limit: int) -> Sequence[Receipt]:
        async with transaction(self._engine) as db:
            rows = await db.execute(WAITING, {"mailbox": mailbox, "folder": folder, "limit": limit})
            return [_receipt(row) for row in rows]

    async def postpone(self, receipts: Sequence[Receipt], seconds: float, error: str, term: Term) -> None:
        async with fenced(self._engine, term) as db:
            await db.execute(POSTPONE, {"ids": [r.id for r in receipts], "seconds": seconds, "error": clean(error)})

    async def conclude(self, conclusions: Sequence[Conclusion], term: Term, *, close: bool) -> None:
        if not conclusions:
            return
        async with fenced(self._engine, term) as db:
            await db.execute(
                CONCLUDE,
                {
                    "ids": [c.receipt.id for c in conclusions],
                    "outcomes": [c.decision.outcome.value for c in conclusions],
                    "close": close,
                },
            )
            await copy(
                db,
                "router.decision",
                ", ".join(DECISION),
                tuple(DECISION.values()),
                [_decision(c.receipt, c.decision) for c in conclusions],
            )
            untracked = [
                (c.receipt.deployment, clean(i), c.receipt.id)
                for c in conclusions
                if c.decision.outcome is Outcome.NOT_TRACKED
                for i in c.decision.named_ids
            ]
            if untracked:
                deployments, ids, receipts = zip(*untracked, strict=True)
                await db.execute(
                    NAMED, {"deployments": list(deployments), "ids": list(ids), "receipts": list(receipts)}
                )
            for conclusion in conclusions:
                if conclusion.decision.outcome is Outcome.UNDELIVERABLE:
                    await _keep(db, conclusion)
                elif conclusion.raw is not None:
                    await _keep_untracked(db, conclusion.receipt, conclusion.raw)

    async def close(self, receipts: Sequence[Receipt], term: Term) -> None:
        async with fenced(self._engine, term) as db:
            await db.execute(
                text("UPDATE router.receipt SET closed = now() WHERE id = ANY(:ids) AND outcome IS NOT NULL"),
                {"ids": [r.id for r in receipts]},
            )

    async def reopen_waiting_for(self, deployment: str, message_ids: Sequence[str], term: Term) -> int:
        """Judge again what was not tracked and named one of these ids: its parent has arrived. Returns how many."""
        async with fenced(self._engine, term) as db:
            done = await db.execute(REOPEN, {"deployment": deployment, "ids": [clean(i) for i in message_ids]})
            return int(done.rowcount)

    async def reopen_missed(self, seconds: float = EVER) -> int:
        """The same for every parent filed within so many seconds, whoever owns the shard: a parent and its reply may be
        concluded at one moment, and a router may end before it opens what waited."""
        async with transaction(self._engine) as db:
            return int((await db.execute(REOPEN_MISSED, {"seconds": seconds})).rowcount)

    async def outcomes(self, keys: Sequence[DeliveryKey]) -> Mapping[DeliveryKey, Collection[Outcome | None]]:
        if not keys:
            return {}
        found: dict[DeliveryKey, list[Outcome | None]] = {}
        async with transaction(self._engine) as db:
            for mailbox, folder in {(k.mailbox, k.folder) for k in keys}:
                rows = await db.execute(
                    text(
                        "SELECT item, outcome FROM router.receipt "
                        "WHERE mailbox = :m AND folder = :f AND item = ANY(:items)"
                    ),
                    {"m": mailbox, "f": folder, "items": [k.item for k in keys if k[:2] == (mailbox, folder)]},
                )
                for row in rows:
                    outcome = Outcome(row.outcome) if row.outcome else None
                    found.setdefault(DeliveryKey(mailbox, folder, row.item), []).append(outcome)
        return found

    async def known(self, mailbox: str, folder: str, items: Sequence[str]) -> frozenset[str]:
        """Which of these items already have receipts and have not vanished since (POP3's memory of UIDLs)."""
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(
                    "SELECT DISTINCT item FROM router.receipt WHERE mailbox = :m AND folder = :f "
                    "AND item = ANY(:items) AND outcome IS DISTINCT FROM 'vanished'"
                ),
                {"m": mailbox, "f": folder, "items": list(items)},
            )
            return frozenset(str(item) for item in rows.scalars())


def _receipt(row: Any) -> Receipt:
    outcome = Outcome(row.outcome) if row.outcome else None
    key = DeliveryKey(row.mailbox, row.folder, row.item)
    return Receipt(row.id, row.deployment, key, row.seen, row.attempts, outcome)


def _decision(receipt: Receipt, decision: Decision) -> tuple[Any, ...]:
    return (
        receipt.id,
        receipt.deployment,
        receipt.key.mailbox,
        receipt.key.folder,
        receipt.key.item,
        decision.outcome.value,
        clean(decision.reason),
        _lines(decision.why),
        _lines(decision.losing),
        clean(decision.message_id),
        decision.identity,
        clean(decision.sender),
        clean(", ".join(decision.recipients)),
        clean(decision.subject),
        decision.received,
        decision.activity,
        _lines(decision.defects),
        clean(decision.traceback),
        decision.classified.kind.value if decision.classified is not None else "",
        clean(decision.classified.line) if decision.classified is not None else "",
    )


def _lines(values: Sequence[str]) -> str:
    return clean("\n".join(v.replace("\n", " ") for v in values))


async def _keep(db: AsyncConnection, conclusion: Conclusion) -> None:
    """The undeliverable row with its raw bytes; a second time for one receipt only the cause is renewed."""
    receipt, decision, raw = conclusion.receipt, conclusion.decision, conclusion.raw
    mine = new_id()
    values = {
        "id": mine,
        "receipt": receipt.id,
        "deployment": receipt.deployment,
        "mailbox": receipt.key.mailbox,
        "folder": receipt.key.folder,
        "item": receipt.key.item,
        "received": decision.received,
        "cause": clean(conclusion.cause),
        "cure": clean(conclusion.cure),
        "traceback": clean(decision.traceback),
        "subject": clean(decision.subject),
        "sender": clean(decision.sender),
        "size": raw.size if raw is not None else 0,
    }
    stored = (await db.execute(ADD_UNDELIVERABLE, values)).scalar_one()
    if stored == mine and raw is not None:
        await chunks.write(db, "router.undeliverable_chunk", "undeliverable", mine, raw)


async def _keep_untracked(db: AsyncConnection, receipt: Receipt, raw: Content) -> None:
    """The raw bytes alone, for a time; judged and kept again, they stay as long as they would have."""
    there = await db.execute(text("SELECT 1 FROM router.untracked_chunk WHERE receipt = :id"), {"id": receipt.id})
    if there.first() is None:
        await chunks.write(db, "router.untracked_chunk", "receipt", receipt.id, raw)
