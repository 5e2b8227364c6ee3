"""Decisions, to be searched: one `grep` tells a message's life."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.net.postgres import clean, transaction
from email_router.store.pseudonyms import Pseudonyms

COUNTS = text("""
SELECT outcome, count(*) AS n FROM router.decision WHERE created > now() - interval '24 hours' GROUP BY outcome
""")


class Decisions:
    def __init__(self, engine: AsyncEngine, pseudonyms: Pseudonyms) -> None:
        self._engine = engine
        self._pseudonyms = pseudonyms

    async def search(
        self,
        *,
        message_id: str = "",
        sender: str = "",
        subject: str = "",
        mailbox: str = "",
        outcome: str = "",
        limit: int = 50,
    ) -> list[dict[str, Any]]:
        """Newest first; every condition that is given must hold. `sender` and `subject` match anywhere, in any case.

        Where only hashes are kept any more they match as a whole: the full address, the full subject.
        """
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(
                    "SELECT created, deployment, mailbox, folder, item, outcome, reason, why, losing, message_id, "
                    "sender, recipients, subject, received, activity, defects, traceback, class, class_line "
                    "FROM router.decision "
                    "WHERE (:message_id = '' OR message_id = :message_id) "
                    "AND (:sender = '' OR NOT hashed AND sender ILIKE '%' || :sender || '%' "
                    "     OR hashed AND sender = :sender_hash) "
                    "AND (:subject = '' OR NOT hashed AND subject ILIKE '%' || :subject || '%' "
                    "     OR hashed AND subject = :subject_hash) "
                    "AND (:mailbox = '' OR mailbox = :mailbox) AND (:outcome = '' OR outcome = :outcome) "
                    "ORDER BY id DESC LIMIT :limit"
                ),
                {
                    "message_id": _as_kept(message_id),
                    "sender": _as_text(sender),
                    "sender_hash": self._pseudonyms.of(clean(sender).strip()),
                    "subject": _as_text(subject),
                    "subject_hash": self._pseudonyms.of(clean(subject)),
                    "mailbox": mailbox,
                    "outcome": outcome,
                    "limit": limit,
                },
            )
            return [dict(row._mapping) for row in rows]

    async def counts(self) -> dict[str, int]:
        """Of the last 24 hours: all of them would have to be read one by one each time somebody looks."""
        async with transaction(self._engine) as db:
            return {row.outcome: row.n for row in await db.execute(COUNTS)}


def _as_text(words: str) -> str:
    """For LIKE, without wildcards."""
    return clean(words).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _as_kept(message_id: str) -> str:
    """A Message-ID as it stands in a header, in the form that decisions keep: bare, its domain in lower case."""
    local, at, domain = message_id.strip("<> ").rpartition("@")
    return local + at + domain.lower()
