"""Many rows at once: COPY for rows that are new, and contents of any size in chunks, never whole in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection as Driver
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from email_router.model.message import Content
from email_router.net.postgres import transaction

CHUNK = 256 * 1024


async def copy(
    db: AsyncConnection, table: str, columns: str, types: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPY `rows` into `table` within the transaction of `db`. Nothing is sent when there are none."""
    waiting = iter(rows)
    first = next(waiting, None)
    if first is None:
        return
    statement = f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)"
    async with (await driver(db)).cursor() as cursor, cursor.copy(statement) as out:
        out.set_types(types)
        await out.write_row(first)
        for row in waiting:
            await out.write_row(row)


async def driver(db: AsyncConnection) -> Driver[Any]:
    """psycopg's own connection beneath SQLAlchemy's."""
    connection: Driver[Any] = (await db.get_raw_connection()).driver_connection  # type: ignore[assignment]
    return connection


def pieces(content: Content) -> Iterator[tuple[int, bytes]]:
    """The content in numbered chunks."""
    with content.open() as stream:
        n = 0
        while data := stream.read(CHUNK):
            yield n, data
            n += 1


async def store_contents(db: AsyncConnection, contents: dict[bytes, Content]) -> None:
    """Keep each content once, by its hash. In the order of the hashes, so that two transactions cannot deadlock."""
    if not contents:
        return
    hashes = sorted(contents)
    entered = await db.execute(
        text(
            "INSERT INTO crm.content (sha256, size) SELECT * FROM unnest(CAST(:hashes AS bytea[]), "
            "CAST(:sizes AS bigint[])) ON CONFLICT (sha256) DO NOTHING RETURNING sha256"
        ),
        {"hashes": hashes, "sizes": [contents[h].size for h in hashes]},
    )
    new = sorted(bytes(h) for h in entered.scalars())
    rows = ((h, n, data) for h in new for n, data in pieces(contents[h]))
    await copy(db, "crm.content_chunk", "sha256, n, data", ("bytea", "int4", "bytea"), rows)


async def read(engine: AsyncEngine, table: str, column: str, key: UUID | bytes) -> AsyncIterator[bytes]:
    """The chunks of one content in order, one in memory at a time."""
    statement = text(f"SELECT data FROM {table} WHERE {column} = :key AND n = :n")
    n = 0
    while True:
        async with transaction(engine) as db:
            data = (await db.execute(statement, {"key": key, "n": n})).scalar()
        if data is None:
            return
        yield bytes(data)
        n += 1
