"""Whether everything that was in the mailbox is in the CRM, content by content: else a figure is void."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.letters import as_sent
from email_router.mime.contents import BytesContent
from email_router.mime.identity import identity_of
from email_router.mime.parse import parse
from email_router.net.postgres import clean

FILED = text("""
SELECT a.identity,
    (SELECT string_agg(c.data, ''::bytea ORDER BY c.n) FROM crm.raw_chunk c WHERE c.activity = a.id) AS raw,
    (SELECT array_agg(p.role || ' ' || p.address || ' ' || p.name ORDER BY p.n) FROM crm.party p
        WHERE p.activity = a.id) AS parties,
    (SELECT array_agg(t.sha256 ORDER BY t.n) FROM crm.attachment t WHERE t.activity = a.id) AS attachments
FROM crm.activity a WHERE a.direction = 'incoming'
""")
CONTENTS = text("""
SELECT c.sha256, string_agg(k.data, ''::bytea ORDER BY k.n) AS data
FROM crm.content c JOIN crm.content_chunk k USING (sha256) GROUP BY c.sha256
""")


@dataclass(frozen=True, slots=True)
class Entry:
    """What the CRM must hold of one message, as hashes, and how many parties and attachments that is."""

    raw: bytes
    parties: bytes
    attachments: tuple[bytes, ...]
    party_count: int


def expected(messages: Iterable[bytes]) -> dict[bytes, Entry]:
    """By identity: from the messages that were put into the mailbox (line ends LF)."""
    entries = {}
    for message in messages:
        email = parse(BytesContent(as_sent(message)))
        people = [("from", email.from_[0]), *(("to", a) for a in email.to), *(("cc", a) for a in email.cc)]
        parties = [f"{role} {clean(a.address)} {clean(a.name)}" for role, a in people]
        entries[identity_of(message)] = Entry(
            _raw_hash(message), _parties_hash(parties), tuple(a.sha256 for a in email.attachments), len(parties)
        )
    return entries


async def filed(engine: AsyncEngine) -> tuple[list[tuple[bytes, Entry]], list[str]]:
    """What the CRM holds, by identity, and what is wrong with its contents."""
    async with engine.connect() as db:
        contents = await db.stream(CONTENTS)
        kept = set()
        problems = []
        async for row in contents:
            kept.add(bytes(row.sha256))
            if hashlib.sha256(row.data or b"").digest() != bytes(row.sha256):
                problems.append(f"the content {bytes(row.sha256).hex()} is not what its hash says")
        found = []
        async for row in await db.stream(FILED):
            attachments = tuple(bytes(a) for a in row.attachments or ())
            problems += [f"an attachment {a.hex()} has no content" for a in attachments if a not in kept and a != EMPTY]
            parties = row.parties or []
            entry = Entry(_raw_hash(bytes(row.raw or b"")), _parties_hash(parties), attachments, len(parties))
            found.append((bytes(row.identity), entry))
    return found, problems


EMPTY = hashlib.sha256(b"").digest()
"""The content of an empty attachment has no chunks."""


def differences(wanted: Mapping[bytes, Entry], found: Sequence[tuple[bytes, Entry]]) -> list[str]:
    """Why a figure is void, in words; [] when the books are right to the last message."""
    problems = []
    if len(found) != len(wanted):
        problems.append(f"{len(found):,} activities instead of {len(wanted):,}")
    twice = [name for name, number in Counter(name for name, _ in found).items() if number > 1]
    strange = [name for name, _ in found if name not in wanted]
    missing = wanted.keys() - {name for name, _ in found}
    for names, words in ((twice, "filed twice"), (strange, "of nobody's message"), (missing, "not filed")):
        if names:
            problems.append(f"{len(names):,} {words}, the first {min(names).hex()}")
    for name, entry in found:
        should = wanted.get(name, entry)
        if entry.raw != should.raw:
            problems.append(f"{name.hex()}: the message is not the one that was sent")
        if (entry.party_count, entry.parties) != (should.party_count, should.parties):
            problems.append(f"{name.hex()}: {entry.party_count} parties, not the {should.party_count} of the message")
        if entry.attachments != should.attachments:
            problems.append(f"{name.hex()}: {len(entry.attachments)} attachments, not these {len(should.attachments)}")
    return problems


def _raw_hash(message: bytes) -> bytes:
    """Line ends differ between what lies in a Maildir, what IMAP sends and what POP3 sends: nothing else may."""
    return hashlib.sha256(message.replace(b"\r\n", b"\n").rstrip(b"\n")).digest()


def _parties_hash(parties: Sequence[str]) -> bytes:
    return hashlib.sha256("\n".join(parties).encode()).digest()
