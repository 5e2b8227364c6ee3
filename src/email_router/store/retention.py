"""What is forgotten in time: people's mail is private, and what was not tracked is nobody's business for long.

Each method is one transaction; done twice, or by two routers at once, it changes nothing more.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.net.postgres import transaction

FORGET = text("""
UPDATE router.decision SET sender = '', recipients = '', subject = '', losing = '',
    why = CASE sender WHEN '' THEN why ELSE replace(why, sender, 'the sender') END
WHERE deployment = :deployment AND outcome = 'not-tracked' AND created >= :since AND created < :before
""")
FORGET_NAMES = text("DELETE FROM router.named_id WHERE deployment = :deployment AND created < :before")
FORGET_PUSHED = text("""
DELETE FROM router.untracked_chunk AS c USING router.receipt AS r
WHERE c.created < now() - make_interval(days => :days) AND r.id = c.receipt AND r.closed IS NOT NULL
RETURNING c.receipt
""")
KEPT_PUSHED_DAYS = 30
"""Days for which mail that was pushed and not tracked is kept, because no mailbox holds it."""


class Retention:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def forget_untracked(self, deployment: str, since: datetime, before: datetime) -> None:
        """Of mail that was not tracked and decided between these moments only the decision stays: no sender, no
        recipients, no subject; and nobody waits any more for the messages that it named."""
        async with transaction(self._engine) as db:
            await db.execute(FORGET, {"deployment": deployment, "since": since, "before": before})
            await db.execute(FORGET_NAMES, {"deployment": deployment, "before": before})

    async def forget_pushed(self) -> int:
        """The raw bytes of mail that was pushed and not tracked go after their days; what is being judged again stays.

        Returns how many messages.
        """
        async with transaction(self._engine) as db:
            rows = await db.execute(FORGET_PUSHED, {"days": KEPT_PUSHED_DAYS})
            return len(set(rows.scalars()))
