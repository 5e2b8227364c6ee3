"""Messages whose raw bytes we keep: those that could not be filed, shown and retried on demand; and, for 30 days, those
that were pushed to us and not tracked, which may still get a parent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.message import Content
from email_router.model.receipt import Receipt
from email_router.net.postgres import transaction
from email_router.net.spool import Spool
from email_router.store import chunks

KEPT = text("""
SELECT receipt, id FROM router.undeliverable WHERE receipt = ANY(:ids) AND size > 0
UNION ALL
SELECT DISTINCT c.receipt, CAST(NULL AS uuid) FROM router.untracked_chunk c WHERE c.receipt = ANY(:ids)
    AND NOT EXISTS (SELECT 1 FROM router.undeliverable u WHERE u.receipt = c.receipt AND u.size > 0)
""")
LIST = """
SELECT id, deployment, mailbox, folder, item, received, cause, cure, subject, sender, size, state, created
FROM router.undeliverable
"""


class Undeliverable:
    def __init__(self, engine: AsyncEngine, spool: Callable[[], Spool]) -> None:
        self._engine = engine
        self._spool = spool

    async def listing(self, state: str = "open", limit: int = 100) -> list[dict[str, Any]]:
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(LIST + " WHERE state = :state ORDER BY created DESC LIMIT :limit"),
                {"state": state, "limit": limit},
            )
            return [dict(row._mapping) for row in rows]

    async def count(self) -> int:
        """How many are open."""
        async with transaction(self._engine) as db:
            return int(
                (await db.execute(text("SELECT count(*) FROM router.undeliverable WHERE state = 'open'"))).scalar_one()
            )

    async def show(self, identifier: UUID) -> dict[str, Any] | None:
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(LIST.replace("created\n", "created, traceback\n") + " WHERE id = :id"), {"id": identifier}
            )
            row = rows.first()
            return dict(row._mapping) if row is not None else None

    def raw(self, identifier: UUID) -> AsyncIterator[bytes]:
        """The message in chunks."""
        return chunks.read(self._engine, "router.undeliverable_chunk", "undeliverable", identifier)

    async def retry(self, identifiers: Sequence[UUID] | None) -> int:
        """Open the receipts again (all open ones for None). The router takes them up at its next round."""
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(
                    "UPDATE router.undeliverable SET state = 'retried' WHERE state = 'open' "
                    "AND (:every OR id = ANY(:ids)) RETURNING receipt"
                ),
                {"every": identifiers is None, "ids": list(identifiers or [])},
            )
            receipts = [row.receipt for row in rows]
            await db.execute(
                text(
                    "UPDATE router.receipt SET closed = NULL, outcome = NULL, attempts = 0, next_attempt = now() "
                    "WHERE id = ANY(:ids)"
                ),
                {"ids": receipts},
            )
            return len(receipts)

    async def kept(self, receipts: Sequence[Receipt]) -> dict[UUID, Content]:
        """The raw bytes we hold ourselves for these receipts, so that a retry does not need the mailbox.

        They go through the spool: there may be many, and large ones.
        """
        async with transaction(self._engine) as db:
            found = list(await db.execute(KEPT, {"ids": [r.id for r in receipts]}))
        return {row.receipt: await self._spooled(self._kept(row.receipt, row.id)) for row in found}

    def _kept(self, receipt: UUID, undeliverable: UUID | None) -> AsyncIterator[bytes]:
        if undeliverable is not None:
            return self.raw(undeliverable)
        return chunks.read(self._engine, "router.untracked_chunk", "receipt", receipt)

    async def _spooled(self, pieces: AsyncIterator[bytes]) -> Content:
        spool = self._spool()
        try:
            async for data in pieces:
                spool.write(data)
        except BaseException:
            spool.abandon()
            raise
        return spool.finish()
