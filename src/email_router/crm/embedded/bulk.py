"""Contents of any size in chunks, never whole in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from email_router.model.message import Content
from email_router.net.postgres import copy, transaction
from email_router.observe.failpoint import hit

CHUNK = 256 * 1024


def pieces(content: Content) -> Iterator[tuple[int, bytes]]:
    """The content in numbered chunks."""
    with content.open() as stream:
        n = 0
        while data := stream.read(CHUNK):
            hit("inside-copy")
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


_CONTENT = text("""
SELECT c.data FROM crm.content_chunk c WHERE c.sha256 = :sha256 AND c.n = :n AND EXISTS (
    SELECT 1 FROM crm.attachment t JOIN crm.activity a ON a.id = t.activity
    WHERE a.id = :activity AND a.organization = :organization AND t.sha256 = c.sha256)
""")
_RAW = text("""
SELECT c.data FROM crm.raw_chunk c JOIN crm.activity a ON a.id = c.activity
WHERE a.id = :activity AND a.organization = :organization AND c.n = :n
""")


def content(engine: AsyncEngine, organization: UUID, activity: UUID, sha256: bytes) -> AsyncIterator[bytes]:
    """The bytes of an attachment of that organization's activity, in chunks. Contents are shared, activities never."""
    return _chunks(engine, _CONTENT, {"organization": organization, "activity": activity, "sha256": sha256})


def raw(engine: AsyncEngine, organization: UUID, activity: UUID) -> AsyncIterator[bytes]:
    """The message as it came, in chunks."""
    return _chunks(engine, _RAW, {"organization": organization, "activity": activity})


async def _chunks(engine: AsyncEngine, statement: TextClause, values: Mapping[str, object]) -> AsyncIterator[bytes]:
    """In order, one in memory at a time."""
    n = 0
    while True:
        async with transaction(engine) as db:
            data = (await db.execute(statement, {**values, "n": n})).scalar()
        if data is None:
            return
        yield bytes(data)
        n += 1
