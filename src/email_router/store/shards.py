"""Ownership: who serves a shard now, and the check that every write makes.

What may fail: an owner freezes inside a transaction, and holds its locks. A session that is idle inside one is ended by
the server (`net.postgres`); one that is just sending rows is not idle, and is ended by who takes the shard over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from email_router.model.errors import Fenced, NeedsOperator
from email_router.model.receipt import Term
from email_router.net.postgres import application, transaction

OURS = text("SELECT 1 FROM router.shard WHERE number = :shard AND epoch = :epoch FOR SHARE")


class Shards:
    """`ports.store.Ownership` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def take(self, shard: int, owner: str) -> Term:
        """Own `shard` from now on: its epoch moves, so that whoever had it before can write no more."""
        async with transaction(self._engine) as db:
            row = await db.execute(
                text(
                    "INSERT INTO router.shard AS s (number, epoch, owner, since) VALUES (:shard, 1, :owner, now()) "
                    "ON CONFLICT (number) DO UPDATE SET epoch = s.epoch + 1, owner = :owner, since = now() "
                    "RETURNING epoch"
                ),
                {"shard": shard, "owner": owner},
            )
            return Term(shard, int(row.scalar_one()))

    async def check(self, term: Term) -> None:
        """Raises Fenced when the shard is somebody else's now."""
        async with fenced(self._engine, term):
            pass

    async def epochs(self) -> Mapping[int, int]:
        async with transaction(self._engine) as db:
            rows = await db.execute(text("SELECT number, epoch FROM router.shard"))
            return {row.number: row.epoch for row in rows}

    async def evict(self, shards: Sequence[int], but: str) -> None:
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text("SELECT DISTINCT owner FROM router.shard WHERE number = ANY(:shards) AND owner <> :but"),
                {"shards": list(shards), "but": but},
            )
            names = [application(row.owner) for row in rows]
        with suppress(NeedsOperator):  # without the right to it they end when their connections do
            async with transaction(self._engine) as db:
                await db.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ANY(:names)"),
                    {"names": names},
                )


async def guard(db: AsyncConnection, term: Term) -> None:
    """Hold the shard's row for the rest of the transaction; raises Fenced when the epoch is not ours any more."""
    found = await db.execute(OURS, {"shard": term.shard, "epoch": term.epoch})
    if found.first() is None:
        raise Fenced(f"Shard {term.shard} is served by another router now", scope="router")


@asynccontextmanager
async def fenced(engine: AsyncEngine, term: Term) -> AsyncIterator[AsyncConnection]:
    """A transaction that only the owner of the shard can commit."""
    async with transaction(engine) as db:
        await guard(db, term)
        yield db
