"""Which organization a call is about, and whether the caller still owns its shard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from email_router.model.errors import Fenced, NeedsOperator
from email_router.model.ids import new_id
from email_router.model.receipt import Term
from email_router.net.postgres import transaction

CHECK = text("SELECT 1 FROM crm.term WHERE shard = :shard AND epoch = :epoch FOR SHARE")
RAISE = text("""
INSERT INTO crm.term AS t (shard, epoch) VALUES (:shard, :epoch)
ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch WHERE t.epoch <= excluded.epoch RETURNING epoch
""")


@asynccontextmanager
async def fenced(engine: AsyncEngine, term: Term) -> AsyncIterator[AsyncConnection]:
    """A transaction that an older owner of the shard cannot commit. The newest epoch seen is the one that counts."""
    async with transaction(engine) as db:
        values = {"shard": term.shard, "epoch": term.epoch}
        if (await db.execute(CHECK, values)).first() is None and (await db.execute(RAISE, values)).first() is None:
            raise Fenced(f"Shard {term.shard} is served by another router now", scope="router")
        yield db


async def create(engine: AsyncEngine, name: str) -> UUID:
    """The organization of that name, made when it is not there."""
    async with transaction(engine) as db:
        await db.execute(
            text("INSERT INTO crm.organization (id, name) VALUES (:id, :name) ON CONFLICT (name) DO NOTHING"),
            {"id": new_id(), "name": name},
        )
    return await find(engine, name)


async def find(engine: AsyncEngine, name: str) -> UUID:
    async with transaction(engine) as db:
        found = await db.execute(text("SELECT id FROM crm.organization WHERE name = :name"), {"name": name})
        identifier = found.scalar()
    if identifier is None:
        raise NeedsOperator(
            f"The embedded CRM has no organization {name!r}",
            cure=f"make it with: email-router crm organization {name}",
            scope="deployment",
        )
    return UUID(str(identifier))
