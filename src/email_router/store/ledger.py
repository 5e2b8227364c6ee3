"""The ledger of outgoing mail: what was handed over, to whom, and what was said.

A row without a hand-over mark was never handed over and may be sent. A mark without a result when a new round begins
(its router died or was fenced) is uncertain: it is never sent again without being settled. A result is final here; only
telling the CRM is repeated until it is done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from email_router.model.errors import Fenced
from email_router.model.ids import new_id
from email_router.model.outgoing import (
    LedgerRow,
    OutgoingEmail,
    RecipientResult,
    RecipientState,
    SendState,
    Settlement,
    Stamps,
)
from email_router.model.receipt import Term
from email_router.net.postgres import clean, transaction
from email_router.ports.store import Attempt
from email_router.store.shards import fenced

FORGET_FAILED = text("""
DELETE FROM router.ledger AS l USING unnest(CAST(:email AS uuid[]), CAST(:deployment AS text[])) AS t(email, deployment)
WHERE l.email = t.email AND l.deployment = t.deployment AND l.state = 'failed' AND l.settled
""")
ENTER = text("""
INSERT INTO router.ledger (id, email, deployment, profile, sender, subject, message_id, date, envelope_id, shard)
SELECT t.*, :shard FROM unnest(CAST(:id AS uuid[]), CAST(:email AS uuid[]), CAST(:deployment AS text[]),
    CAST(:profile AS text[]), CAST(:sender AS text[]), CAST(:subject AS text[]), CAST(:message_id AS text[]),
    CAST(:date AS timestamptz[]), CAST(:envelope_id AS text[])) AS t
ON CONFLICT (deployment, email) DO NOTHING RETURNING id
""")
TAKE_OVER = text("""
UPDATE router.ledger AS l SET profile = :profile, shard = :shard
FROM unnest(CAST(:email AS uuid[]), CAST(:deployment AS text[])) AS t(email, deployment)
WHERE l.email = t.email AND l.deployment = t.deployment AND l.profile <> :profile
    AND (l.state = 'pending' OR NOT l.settled)
""")
"""A mailbox that was given another profile takes along what the old one did not finish: nobody serves that any more."""
ENTER_RECIPIENTS = text("""
INSERT INTO router.ledger_recipient (ledger, n, address)
SELECT * FROM unnest(CAST(:ledger AS uuid[]), CAST(:n AS integer[]), CAST(:address AS text[]))
""")
SETTLE_ORPHANS = text("""
UPDATE router.ledger SET state = 'uncertain', settled = false,
    last_error = 'handed over, but the router ended before the server answered'
WHERE profile = :profile AND state = 'pending' AND handed_over IS NOT NULL
""")
DUE = text("""
SELECT l.*, array(SELECT address FROM router.ledger_recipient r WHERE r.ledger = l.id
    AND r.state IN ('pending', 'deferred') ORDER BY n) AS waiting,
    EXISTS (SELECT 1 FROM router.ledger_recipient r WHERE r.ledger = l.id AND r.state = 'accepted') AS accepted
FROM router.ledger l
WHERE profile = :profile AND state = 'pending' AND handed_over IS NULL
    AND (next_attempt <= now() OR next_attempt > now() + interval '8 days')
ORDER BY next_attempt, id LIMIT :limit
""")
"""Nothing waits longer than `retry_seconds` may be: what says so was written when the clock was wrong."""
HAND_OVER = text("""
UPDATE router.ledger SET handed_over = now(), handed_epoch = :epoch
WHERE id = ANY(:ids) AND state = 'pending' AND shard = :shard
""")
RECORD = text("""
UPDATE router.ledger AS l SET state = t.state, last_error = t.said, settled = l.settled AND t.settled,
    attempts = l.attempts + t.counted, next_attempt = now() + make_interval(secs => t.seconds),
    handed_over = CASE WHEN t.state IN ('sent', 'uncertain') THEN l.handed_over END
FROM unnest(CAST(:ids AS uuid[]), CAST(:states AS text[]), CAST(:said AS text[]), CAST(:settled AS boolean[]),
    CAST(:counted AS integer[]), CAST(:seconds AS double precision[])) AS t(id, state, said, settled, counted, seconds)
WHERE l.id = t.id
""")
RECORD_RECIPIENTS = text("""
UPDATE router.ledger_recipient AS r SET state = t.state, code = t.code, status = t.status, said = t.said
FROM unnest(CAST(:ids AS uuid[]), CAST(:addresses AS text[]), CAST(:states AS text[]), CAST(:codes AS integer[]),
    CAST(:statuses AS text[]), CAST(:said AS text[])) AS t(id, address, state, code, status, said)
WHERE r.ledger = t.id AND r.address = t.address
""")
UNSETTLED = text("""
SELECT l.id, l.email, l.deployment, l.state, l.message_id, l.attempts, l.last_error,
    coalesce((SELECT json_agg(json_build_array(address, state, code, status, said) ORDER BY n)
        FROM router.ledger_recipient r WHERE r.ledger = l.id), '[]') AS results
FROM router.ledger l WHERE profile = :profile AND deployment = ANY(:deployments) AND NOT settled
ORDER BY id LIMIT :limit
""")
OLD = text("""
SELECT id FROM router.ledger WHERE profile = :profile AND state = 'uncertain'
    AND handed_over < now() - make_interval(secs => :seconds)
""")
SETTLE_UNCERTAIN = text("""
UPDATE router.ledger SET state = :state, handed_over = CASE WHEN :state = 'sent' THEN handed_over END,
    settled = false, attempts = attempts + 1, next_attempt = now(), last_error = :note
WHERE id = ANY(:ids) AND state = 'uncertain' RETURNING id
""")
SETTLE_RECIPIENTS = text("""
UPDATE router.ledger_recipient SET state = :state WHERE ledger = ANY(:ids) AND state IN ('pending', 'deferred')
""")
NOTES = {"sent": "taken for sent,", "again": "sent again,"}
COUNTS = text("""
SELECT state, count(*) AS n FROM router.ledger WHERE state IN ('pending', 'uncertain') GROUP BY state
UNION ALL SELECT state, count(*) FROM router.ledger
WHERE id > :since AND state NOT IN ('pending', 'uncertain') GROUP BY state
""")


class Ledger:
    """`ports.store.Ledger` and `ports.store.Settling` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def open(self, emails: Sequence[OutgoingEmail], profile: str, term: Term) -> Sequence[LedgerRow]:
        if not emails:
            return []
        now = datetime.now(UTC)
        rows = [_row(email, profile, now) for email in emails]
        async with fenced(self._engine, term) as db:
            again = {"email": [r.email for r in rows], "deployment": [r.deployment for r in rows]}
            await db.execute(FORGET_FAILED, again)
            await db.execute(TAKE_OVER, again | {"profile": profile, "shard": term.shard})
            entered = await db.execute(
                ENTER,
                {
                    "shard": term.shard,
                    "id": [r.id for r in rows],
                    "email": [r.email for r in rows],
                    "deployment": [r.deployment for r in rows],
                    "profile": [profile for _ in rows],
                    "sender": [clean(r.sender) for r in rows],
                    "subject": [clean(r.subject) for r in rows],
                    "message_id": [r.stamps.message_id for r in rows],
                    "date": [r.stamps.date for r in rows],
                    "envelope_id": [r.stamps.envelope_id for r in rows],
                },
            )
            new = {row.id for row in entered}
            mine = [r for r in rows if r.id in new]
            if mine:
                flat = [(r.id, n, address) for r in mine for n, address in enumerate(r.pending)]
                await db.execute(
                    ENTER_RECIPIENTS,
                    {"ledger": [f[0] for f in flat], "n": [f[1] for f in flat], "address": [f[2] for f in flat]},
                )
        return mine

    async def due(self, profile: str, limit: int, term: Term) -> Sequence[LedgerRow]:
        async with fenced(self._engine, term) as db:
            await db.execute(SETTLE_ORPHANS, {"profile": profile})
            found = await db.execute(DUE, {"profile": profile, "limit": limit})
            return [_from_database(row) for row in found]

    async def hand_over(self, rows: Sequence[UUID], term: Term) -> None:
        async with fenced(self._engine, term) as db:
            marked = await db.execute(HAND_OVER, {"ids": list(rows), "shard": term.shard, "epoch": term.epoch})
            if marked.rowcount != len(rows):
                raise Fenced("Another profile sends these emails now", scope="profile")

    async def record(self, attempts: Sequence[Attempt], term: Term) -> None:
        if not attempts:
            return
        results = [(a.row, r) for a in attempts for r in a.results]
        async with fenced(self._engine, term) as db:
            await db.execute(
                RECORD,
                {
                    "ids": [a.row for a in attempts],
                    "states": [a.state.value for a in attempts],
                    "said": [clean(a.said) for a in attempts],
                    "settled": [a.state is SendState.PENDING and not a.counted for a in attempts],
                    "counted": [int(a.counted) for a in attempts],
                    "seconds": [a.retry_seconds for a in attempts],
                },
            )
            if results:
                await db.execute(
                    RECORD_RECIPIENTS,
                    {
                        "ids": [row for row, _ in results],
                        "addresses": [r.address for _, r in results],
                        "states": [r.state.value for _, r in results],
                        "codes": [r.code for _, r in results],
                        "statuses": [r.status for _, r in results],
                        "said": [clean(r.said) for _, r in results],
                    },
                )

    async def settle_old(self, profile: str, verdict: str, seconds: float, term: Term) -> int:
        async with fenced(self._engine, term) as db:
            rows = [row.id for row in await db.execute(OLD, {"profile": profile, "seconds": seconds})]
            if not rows:
                return 0
            note = f"nothing was heard of it for {seconds / 3600:g} hours: {NOTES[verdict]} as the settings say"
            return await settle_uncertain(db, rows, verdict, note)

    async def doubt(self, profile: str, said: str, term: Term) -> int:
        """Everything that still waits becomes uncertain; returns how many."""
        async with fenced(self._engine, term) as db:
            changed = await db.execute(
                text(
                    "UPDATE router.ledger SET state = 'uncertain', settled = false, last_error = :said "
                    "WHERE profile = :profile AND state = 'pending'"
                ),
                {"profile": profile, "said": said},
            )
            return int(changed.rowcount)

    async def unsettled(self, profile: str, deployments: Sequence[str], limit: int) -> Sequence[Settlement]:
        values = {"profile": profile, "deployments": list(deployments), "limit": limit}
        async with transaction(self._engine) as db:
            return [_settlement(row) for row in await db.execute(UNSETTLED, values)]

    async def settled(self, settlements: Sequence[Settlement], term: Term) -> None:
        """Only rows that still say what the CRM was told: a newer result is told again."""
        async with fenced(self._engine, term) as db:
            await db.execute(
                text(
                    "UPDATE router.ledger AS l SET settled = true "
                    "FROM unnest(CAST(:emails AS uuid[]), CAST(:states AS text[]), CAST(:attempts AS integer[]), "
                    "CAST(:deployments AS text[])) AS t(email, state, attempts, deployment) "
                    "WHERE l.deployment = t.deployment AND l.email = t.email "
                    "AND l.state = t.state AND l.attempts = t.attempts"
                ),
                {
                    "deployments": [s.deployment for s in settlements],
                    "emails": [s.email for s in settlements],
                    "states": [s.state.value for s in settlements],
                    "attempts": [s.attempts for s in settlements],
                },
            )

    async def held(self) -> str:
        async with transaction(self._engine) as db:
            found = await db.execute(text("SELECT outgoing_hold FROM router.installation"))
            return str(found.scalar() or "")


class Outgoing:
    """What an operator sees and does in the ledger of all deployments."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def listing(self, states: Sequence[SendState], limit: int = 100) -> list[dict[str, Any]]:
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(
                    "SELECT id, deployment, profile, sender, subject, message_id, state, attempts, handed_over, "
                    "next_attempt, last_error, created, array(SELECT address || ' ' || state FROM "
                    "router.ledger_recipient r WHERE r.ledger = l.id ORDER BY n) AS recipients "
                    "FROM router.ledger l WHERE state = ANY(:states) ORDER BY id DESC LIMIT :limit"
                ),
                {"states": [s.value for s in states], "limit": limit},
            )
            return [dict(row._mapping) for row in rows]

    async def counts(self) -> dict[str, int]:
        """What waits or is uncertain, however old; of the others the last 24 hours (ids begin with their time)."""
        since = UUID(int=(time.time_ns() // 1_000_000 - 86_400_000) << 80)
        async with transaction(self._engine) as db:
            return {row.state: row.n for row in await db.execute(COUNTS, {"since": since})}

    async def settle(self, row: UUID, verdict: str) -> bool:
        """A person decides an uncertain email: `sent`, `again` or `failed`. False when it is not uncertain any more."""
        async with transaction(self._engine) as db:
            return bool(await settle_uncertain(db, [row], verdict, f"settled by an operator: {verdict}"))


async def settle_uncertain(db: AsyncConnection, rows: Sequence[UUID], verdict: str, note: str) -> int:
    """What is uncertain among these becomes `sent`, pending `again`, or `failed`; returns how many were.

    It counts as an attempt, so that what the CRM was told of it meanwhile is seen to be old.
    """
    state = {"sent": "sent", "again": "pending", "failed": "failed"}[verdict]
    recipient = {"sent": "accepted", "again": "pending", "failed": "refused"}[verdict]
    changed = await db.execute(SETTLE_UNCERTAIN, {"ids": list(rows), "state": state, "note": note})
    ids = [row.id for row in changed]
    if ids:
        await db.execute(SETTLE_RECIPIENTS, {"ids": ids, "state": recipient})
    return len(ids)


def _row(email: OutgoingEmail, profile: str, now: datetime) -> LedgerRow:
    identifier = new_id()
    domain = email.from_.address.rpartition("@")[2] or "localhost"
    recipients = tuple(dict.fromkeys(a.address for a in (*email.to, *email.cc, *email.bcc)))
    stamps = Stamps(f"{new_id().hex}{identifier.hex[-8:]}@{domain}", now.replace(microsecond=0), identifier.hex)
    return LedgerRow(
        identifier, email.id, email.deployment, profile, email.from_.address, stamps, SendState.PENDING, 0, recipients,
        subject=email.subject,
    )  # fmt: skip


def _from_database(row: Any) -> LedgerRow:
    return LedgerRow(
        id=row.id,
        email=row.email,
        deployment=row.deployment,
        profile=row.profile,
        sender=row.sender,
        stamps=Stamps(row.message_id, row.date, row.envelope_id),
        state=SendState(row.state),
        attempts=row.attempts,
        pending=tuple(row.waiting),
        accepted=row.accepted,
        handed_over=row.handed_over,
        next_attempt=row.next_attempt,
        last_error=row.last_error,
        subject=row.subject,
    )


def _settlement(row: Any) -> Settlement:
    results = tuple(RecipientResult(a, RecipientState(s), c, st, said) for a, s, c, st, said in row.results)
    return Settlement(
        row.email, SendState(row.state), row.message_id, row.attempts, results, row.last_error, row.deployment
    )
