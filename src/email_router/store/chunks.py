"""Bytes of any size as rows of 256 KB, written from a stream and read as one."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from email_router.model.message import Content
from email_router.net.postgres import transaction

CHUNK = 256 * 1024


def pieces(content: Content) -> Iterator[bytes]:
    with content.open() as stream:
        while data := stream.read(CHUNK):
            yield data


async def write(db: AsyncConnection, table: str, column: str, key: UUID, content: Content) -> None:
    """Store `content` under `key`; never more than one chunk in memory."""
    statement = text(f"INSERT INTO {table} ({column}, n, data) VALUES (:key, :n, :data)")
    for n, data in enumerate(pieces(content)):
        await db.execute(statement, {"key": key, "n": n, "data": data})


async def read(engine: AsyncEngine, table: str, column: str, key: UUID) -> AsyncIterator[bytes]:
    """What is stored under `key`, chunk by chunk; no transaction is open between them."""
    statement = text(f"SELECT data FROM {table} WHERE {column} = :key AND n = :n")
    for n in itertools.count():
        async with transaction(engine) as db:
            data = (await db.execute(statement, {"key": key, "n": n})).scalar()
        if data is None:
            return
        yield bytes(data)
