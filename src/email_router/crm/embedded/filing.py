"""Filing received mail: one transaction per batch with a fixed number of statements.

What may fail: the database goes away (Transient; nothing of the batch is there), or one item cannot be stored (the
batch is rolled back and replayed item by item, so that only that one is not filed). A message that is there already,
whoever filed it, is not filed again: its activity gets the further receiver. And what answers a message that could not
be filed is not filed either, but judged again (Transient): nothing ever points to what is not there.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from email_router.crm.embedded import bulk
from email_router.crm.embedded.organization import fenced
from email_router.mime.identity import made_message_id
from email_router.model.errors import Permanent, RouterError, Transient
from email_router.model.evidence import RecordRef
from email_router.model.filing import Filed, FilingItem, FilingResult, NotFiled
from email_router.model.message import ParsedEmail
from email_router.model.receipt import Term
from email_router.model.verdict import NewCase
from email_router.net.postgres import clean, copy, driver, transaction
from email_router.observe.failpoint import hit

ENTER = """
INSERT INTO crm.activity (id, organization, direction, identity, status, subject, body_text, body_html, sender,
    message_id, in_reply_to, refs, correlation, correlated, regarding, owner, accepting, receiving, importance, size,
    date, received)
VALUES (%s, %s, 'incoming', %s, 4, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (organization, direction, identity) DO NOTHING
"""
EXISTING = text("""
SELECT id, identity, regarding FROM crm.activity
WHERE organization = :organization AND direction = 'incoming' AND identity = ANY(:identities)
""")
PARENTS = text("SELECT id FROM crm.activity WHERE organization = :organization AND id = ANY(:ids)")
TICKETS = text("""
UPDATE crm.organization SET case_counter = case_counter + :count WHERE id = :organization RETURNING case_counter
""")
RECEIVED_BY = text("""
INSERT INTO crm.received_by (activity, address, receiver)
SELECT * FROM unnest(CAST(:activities AS uuid[]), CAST(:addresses AS text[]), CAST(:receivers AS uuid[]))
ON CONFLICT DO NOTHING
""")
QUEUE_ITEMS = text("""
INSERT INTO crm.queue_item (queue, activity)
SELECT * FROM unnest(CAST(:queues AS uuid[]), CAST(:activities AS uuid[])) ON CONFLICT DO NOTHING
""")
_COPIES = """
FROM unnest(CAST(:activities AS uuid[]), CAST(:addresses AS text[])) AS t(activity, address)
JOIN crm.activity a ON a.id = t.activity AND a.organization = :organization
LEFT JOIN crm.receiver v ON v.organization = :organization AND v.key = lower(t.address)
LEFT JOIN crm.record r ON r.id = v.id
"""
JOIN = text(
    f"INSERT INTO crm.received_by (activity, address, receiver) SELECT t.activity, t.address, v.id {_COPIES} "
    "ON CONFLICT DO NOTHING"
)
JOIN_QUEUES = text(
    f"INSERT INTO crm.queue_item (queue, activity) SELECT v.id, t.activity {_COPIES} WHERE r.type = 'queue' "
    "ON CONFLICT DO NOTHING"
)


class Filing:
    """`ports.crm.Filing` for one organization. `keep_raw` keeps the message as it came beside the activity."""

    def __init__(self, engine: AsyncEngine, organization: UUID, *, keep_raw: bool = True) -> None:
        self._engine = engine
        self._organization = organization
        self._keep_raw = keep_raw

    async def file(self, items: Sequence[FilingItem], term: Term) -> Sequence[FilingResult]:
        try:
            return await self._file(items, term)
        except RouterError:
            raise
        except Exception as error:
            if len(items) == 1:
                return [_not_filed(error)]
        return [result for item in items for result in await self.file([item], term)]

    async def join(self, copies: Sequence[tuple[UUID, str]], term: Term) -> None:
        if not copies:
            return
        async with fenced(self._engine, term) as db:
            values = {"activities": [a for a, _ in copies], "addresses": [clean(a) for _, a in copies]}
            await db.execute(JOIN, values | {"organization": self._organization})
            await db.execute(JOIN_QUEUES, values | {"organization": self._organization})

    async def relink(self, activity: UUID, record: RecordRef) -> None:
        async with transaction(self._engine) as db:
            await db.execute(
                text(
                    "UPDATE crm.activity SET regarding = :r WHERE id = :a AND organization = :o "
                    "AND EXISTS (SELECT 1 FROM crm.record WHERE id = :r AND organization = :o)"
                ),
                {"r": record.id, "a": activity, "o": self._organization},
            )

    async def _file(self, items: Sequence[FilingItem], term: Term) -> Sequence[FilingResult]:
        async with fenced(self._engine, term) as db:
            orphans = await self._orphans(db, items)
            accepted = [item for item in items if item.verdict.activity not in orphans]
            there = await self._enter(db, accepted)
            hit("inside-file")
            new = [i for i in accepted if there[i.incoming.email.identity][0] == i.verdict.activity]
            moved = _moved(accepted, there)
            await self._make_cases(db, [i.verdict.new_case for i in new if i.verdict.new_case])
            await self._details(db, new)
            if moved:
                await _follow(db, new, moved)
            await _received_by(db, [_receiving(i, there) for i in accepted])
            await db.execute(QUEUE_ITEMS, _queue_items(accepted, there))
        return [_ORPHAN if i.verdict.activity in orphans else self._result(i, there, moved) for i in items]

    async def _orphans(self, db: AsyncConnection, items: Sequence[FilingItem]) -> frozenset[UUID]:
        """Activities that would answer one that is not there: their parent could not be filed."""
        here = {item.verdict.activity for item in items}
        asked = {i.verdict.correlated for i in items if i.verdict.correlated is not None} - here
        if not asked:
            return frozenset()
        found = await db.execute(PARENTS, {"organization": self._organization, "ids": list(asked)})
        gone = asked - {row.id for row in found}
        for item in items:  # parents come before their answers
            if item.verdict.correlated in gone:
                gone.add(item.verdict.activity)
        return frozenset(gone & here)

    async def _enter(self, db: AsyncConnection, items: Sequence[FilingItem]) -> dict[bytes, tuple[UUID, UUID | None]]:
        """The activities' rows, in the order of their identities: two batches wait for each other, never deadlock."""
        ordered = sorted(items, key=lambda item: item.incoming.email.identity)
        cursor = (await driver(db)).cursor()
        async with cursor:
            await cursor.executemany(ENTER, [self._row(item) for item in ordered])
        return await self._existing(db, items)

    def _row(self, item: FilingItem) -> tuple[Any, ...]:
        email, verdict = item.incoming.email, item.verdict
        return (
            verdict.activity,
            self._organization,
            email.identity,
            clean(email.subject),
            clean(email.text),
            clean(email.html),
            clean(email.author.address if email.author is not None else ""),
            clean(email.message_id) or made_message_id(email.identity),
            clean(email.in_reply_to[0] if email.in_reply_to else ""),
            [clean(r) for r in email.references],
            int(verdict.correlation),
            verdict.correlated,
            verdict.regarding.id if verdict.regarding is not None else None,
            verdict.owner,
            verdict.accepting,
            clean(item.incoming.receiving),
            importance_of(email),
            email.size,
            email.date,
            item.incoming.received,
        )

    async def _existing(
        self, db: AsyncConnection, items: Sequence[FilingItem]
    ) -> dict[bytes, tuple[UUID, UUID | None]]:
        """Activity and regarding record by identity: ours where we were first, another's where not."""
        wanted = {"organization": self._organization, "identities": [i.incoming.email.identity for i in items]}
        return {bytes(row.identity): (row.id, row.regarding) for row in await db.execute(EXISTING, wanted)}

    async def _make_cases(self, db: AsyncConnection, cases: Sequence[NewCase]) -> None:
        if not cases:
            return
        taken = await db.execute(TICKETS, {"count": len(cases), "organization": self._organization})
        first = int(taken.scalar_one()) - len(cases) + 1
        await copy(
            db,
            "crm.record",
            "id, organization, type, name, owner, customer, fields",
            ("uuid", "uuid", "text", "text", "uuid", "uuid", "jsonb"),
            [self._case(case, number) for number, case in enumerate(cases, first)],
        )

    def _case(self, case: NewCase, number: int) -> tuple[Any, ...]:
        fields = {"ticketnumber": f"CAS-{number:05d}", "prioritycode": case.priority, "queue": str(case.queue)}
        customer = case.customer.id if case.customer is not None else None
        return (case.id, self._organization, "incident", clean(case.title), case.owner, customer, Jsonb(fields))

    async def _details(self, db: AsyncConnection, items: Sequence[FilingItem]) -> None:
        parts = [(i.verdict.activity, n, a) for i in items for n, a in enumerate(i.incoming.email.attachments)]
        await bulk.store_contents(db, {a.sha256: a.content for _, _, a in parts})
        await copy(
            db,
            "crm.attachment",
            "activity, n, name, content_type, size, sha256, content_id, inline",
            ("uuid", "int4", "text", "text", "int8", "bytea", "text", "bool"),
            [
                (activity, n, clean(a.name), clean(a.content_type), a.size, a.sha256, clean(a.content_id), a.inline)
                for activity, n, a in parts
            ],
        )
        await copy(
            db,
            "crm.party",
            "activity, n, role, address, name, record",
            ("uuid", "int4", "text", "text", "text", "uuid"),
            [
                (i.verdict.activity, n, p.role.value, clean(p.address), clean(p.name), p.record and p.record.id)
                for i in items
                for n, p in enumerate(i.verdict.parties)
            ],
        )
        if self._keep_raw:
            raw = ((i.verdict.activity, n, data) for i in items for n, data in bulk.pieces(i.raw))
            await copy(db, "crm.raw_chunk", "activity, n, data", ("uuid", "int4", "bytea"), raw)

    def _result(self, item: FilingItem, there: dict[bytes, tuple[UUID, UUID | None]], moved: dict[UUID, UUID]) -> Filed:
        activity, regarding = there[item.incoming.email.identity]
        if activity != item.verdict.activity:
            return Filed(activity, False, RecordRef("", regarding) if regarding is not None else None)
        record = item.verdict.regarding
        if record is not None and record.id in moved:
            record = replace(record, id=moved[record.id])
        return Filed(activity, True, record)


def _moved(items: Sequence[FilingItem], there: dict[bytes, tuple[UUID, UUID | None]]) -> dict[UUID, UUID]:
    """Activities and cases that were not made, because another router filed their message first: their ids and those
    that stand in their place.
    """
    moved: dict[UUID, UUID] = {}
    for item in items:
        activity, regarding = there[item.incoming.email.identity]
        if activity != item.verdict.activity:
            moved[item.verdict.activity] = activity
            if item.verdict.new_case is not None and regarding is not None:
                moved[item.verdict.new_case.id] = regarding
    return moved


async def _follow(db: AsyncConnection, items: Sequence[FilingItem], moved: dict[UUID, UUID]) -> None:
    """What answers a message that stands elsewhere belongs there."""
    values = {"planned": list(moved), "stands": list(moved.values()), "ids": [i.verdict.activity for i in items]}
    for column in ("regarding", "correlated"):
        await db.execute(
            text(
                f"UPDATE crm.activity AS a SET {column} = t.stands FROM unnest(CAST(:planned AS uuid[]), "
                f"CAST(:stands AS uuid[])) AS t(planned, stands) WHERE a.id = ANY(:ids) AND a.{column} = t.planned"
            ),
            values,
        )


async def _received_by(db: AsyncConnection, rows: Sequence[tuple[UUID, str, UUID | None]]) -> None:
    rows = sorted(rows, key=lambda row: (row[0], row[1]))
    values = {"activities": [r[0] for r in rows], "addresses": [r[1] for r in rows], "receivers": [r[2] for r in rows]}
    await db.execute(RECEIVED_BY, values)


def _receiving(item: FilingItem, there: dict[bytes, tuple[UUID, UUID | None]]) -> tuple[UUID, str, UUID | None]:
    return there[item.incoming.email.identity][0], clean(item.incoming.receiving), item.verdict.accepting


def _queue_items(items: Sequence[FilingItem], there: dict[bytes, tuple[UUID, UUID | None]]) -> dict[str, list[UUID]]:
    pairs = sorted((there[i.incoming.email.identity][0], queue) for i in items for queue in i.verdict.queues)
    return {"queues": [queue for _, queue in pairs], "activities": [activity for activity, _ in pairs]}


def importance_of(email: ParsedEmail) -> int:
    """0 low, 1 normal, 2 high, from Importance or X-Priority."""
    word = (email.header("Importance") or email.header("X-Priority")).strip().casefold()
    if word.startswith(("high", "1", "2")):
        return 2
    return 0 if word.startswith(("low", "4", "5")) else 1


def _not_filed(error: Exception) -> NotFiled:
    told = Permanent(
        "The embedded CRM could not store this message",
        said=str(error).splitlines()[0] if str(error) else type(error).__name__,
        cure="report it with the message; retry it after an update",
    )
    return NotFiled(told, "".join(traceback.format_exception(error)))


_ORPHAN = NotFiled(
    Transient("The message that it answers could not be filed", cure="it is judged again, without it", retry_after=0.0)
)
