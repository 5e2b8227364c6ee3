"""Messages that could not be filed: kept with their raw bytes, shown, and retried on demand."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.message import Content
from email_router.model.receipt import Receipt
from email_router.net.postgres import transaction
from email_router.net.spool import Spool

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

    async def raw(self, identifier: UUID) -> AsyncIterator[bytes]:
        """The message in chunks."""
        statement = text("SELECT data FROM router.undeliverable_chunk WHERE undeliverable = :id AND n = :n")
        for n in itertools.count():
            async with transaction(self._engine) as db:
                data = (await db.execute(statement, {"id": identifier, "n": n})).scalar()
            if data is None:
                return
            yield bytes(data)

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
            rows = await db.execute(
                text("SELECT id, receipt FROM router.undeliverable WHERE receipt = ANY(:ids) AND size > 0"),
                {"ids": [r.id for r in receipts]},
            )
            identifiers = [(row.id, row.receipt) for row in rows]
        return {receipt: await self._spooled(identifier) for identifier, receipt in identifiers}

    async def _spooled(self, identifier: UUID) -> Content:
        spool = self._spool()
        try:
            async for data in self.raw(identifier):
                spool.write(data)
        except BaseException:
            spool.abandon()
            raise
        return spool.finish()
