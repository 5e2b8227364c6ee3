"""Messages that could not be filed: kept with their raw bytes, shown, and retried on demand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, BinaryIO
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.receipt import Receipt
from email_router.net.postgres import transaction

LIST = """
SELECT id, deployment, mailbox, folder, item, received, cause, cure, subject, sender, size, state, created
FROM router.undeliverable
"""


class Kept:
    """`model.message.Content` of a kept message, read back whole: only for retry and for showing one message."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def open(self) -> BinaryIO:
        return io.BytesIO(self._data)

    def discard(self) -> None:
        self._data = b""


class Undeliverable:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def listing(self, state: str = "open", limit: int = 100) -> list[dict[str, Any]]:
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(LIST + " WHERE state = :state ORDER BY created DESC LIMIT :limit"),
                {"state": state, "limit": limit},
            )
            return [dict(row._mapping) for row in rows]

    async def show(self, identifier: UUID) -> dict[str, Any] | None:
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(LIST.replace("created\n", "created, traceback\n") + " WHERE id = :id"), {"id": identifier}
            )
            row = rows.first()
            return dict(row._mapping) if row is not None else None

    async def raw(self, identifier: UUID) -> bytes:
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text("SELECT data FROM router.undeliverable_chunk WHERE undeliverable = :id ORDER BY n"),
                {"id": identifier},
            )
            return b"".join(bytes(data) for data in rows.scalars())

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

    async def kept(self, receipts: Sequence[Receipt]) -> dict[UUID, Kept]:
        """The raw bytes we hold ourselves for these receipts, so that a retry does not need the mailbox."""
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(
                    "SELECT u.receipt, c.data FROM router.undeliverable u JOIN router.undeliverable_chunk c "
                    "ON c.undeliverable = u.id WHERE u.receipt = ANY(:ids) ORDER BY u.receipt, c.n"
                ),
                {"ids": [r.id for r in receipts]},
            )
            found: dict[UUID, bytearray] = {}
            for row in rows:
                found.setdefault(row.receipt, bytearray()).extend(row.data)
            return {receipt: Kept(bytes(data)) for receipt, data in found.items()}
