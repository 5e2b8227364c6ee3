"""What is forgotten in time: people's mail is private, and what was not tracked is nobody's business for long.

Each method is one transaction; done twice, or by two routers at once, it changes nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.net.postgres import transaction
from email_router.store.pseudonyms import Pseudonyms

READABLE = text("""
SELECT id, sender, recipients, subject, why, class_line FROM router.decision
WHERE deployment = :deployment AND outcome = 'not-tracked' AND created >= :since AND created < :before
    AND NOT hashed AND (sender <> '' OR recipients <> '' OR subject <> '' OR losing <> '')
""")
FORGET = text("""
UPDATE router.decision AS d SET sender = t.sender, recipients = t.recipients, subject = t.subject, why = t.why,
    class_line = t.class_line, losing = '', hashed = :hashed
FROM unnest(CAST(:id AS bigint[]), CAST(:sender AS text[]), CAST(:recipients AS text[]), CAST(:subject AS text[]),
    CAST(:why AS text[]), CAST(:class_line AS text[])) AS t(id, sender, recipients, subject, why, class_line)
WHERE d.id = t.id AND NOT d.hashed
""")
AT_ONCE = 1000
"""Rows that are held in memory at a time."""
FORGET_NAMES = text("DELETE FROM router.named_id WHERE deployment = :deployment AND created < :before")
FORGET_PUSHED = text("""
DELETE FROM router.untracked_chunk AS c USING router.receipt AS r
WHERE c.created < now() - make_interval(days => :days) AND r.id = c.receipt AND r.closed IS NOT NULL
RETURNING c.receipt
""")
KEPT_PUSHED_DAYS = 30
"""Days for which mail that was pushed and not tracked is kept, because no mailbox holds it."""


class Retention:
    def __init__(self, engine: AsyncEngine, pseudonyms: Pseudonyms) -> None:
        self._engine = engine
        self._pseudonyms = pseudonyms

    async def forget_untracked(self, deployment: str, since: datetime, before: datetime) -> None:
        """Of mail that was not tracked and decided between these moments only the decision stays, with hashes instead
        of sender, recipients and subject (nothing without a key); and nobody waits any more for the messages that it
        named."""
        async with transaction(self._engine) as db:
            found = await db.stream(READABLE, {"deployment": deployment, "since": since, "before": before})
            async for rows in found.partitions(AT_ONCE):
                await db.execute(FORGET, self._unreadable(rows) | {"hashed": self._pseudonyms.made})
            await db.execute(FORGET_NAMES, {"deployment": deployment, "before": before})

    async def forget_pushed(self) -> int:
        """The raw bytes of mail that was pushed and not tracked go after their days; what is being judged again stays.

        Returns how many messages.
        """
        async with transaction(self._engine) as db:
            rows = await db.execute(FORGET_PUSHED, {"days": KEPT_PUSHED_DAYS})
            return len(set(rows.scalars()))

    def _unreadable(self, rows: Sequence[Any]) -> dict[str, list[Any]]:
        """The columns of these rows as they are kept from now on."""
        of = self._pseudonyms.of
        return {
            "id": [row.id for row in rows],
            "sender": [of(row.sender) for row in rows],
            "recipients": [", ".join(filter(None, map(of, row.recipients.split(", ")))) for row in rows],
            "subject": [of(row.subject) for row in rows],
            "why": [_without(row.sender, row.why) for row in rows],
            "class_line": [_without(row.sender, row.class_line) for row in rows],
        }


def _without(sender: str, words: str) -> str:
    return re.sub(re.escape(sender), "the sender", words, flags=re.IGNORECASE) if sender else words
