"""Bytes of any size as rows of 256 KB, written from a stream and read as one."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from email_router.model.message import Content

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
