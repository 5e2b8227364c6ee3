"""The installation: its identity, revisions of the settings, the state of mailboxes, and the hold on outgoing mail."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.ids import new_id
from email_router.net.postgres import transaction


class Installation:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def open(self, host: str, *, shared: bool = False) -> str:
        """Enter the installation, or check that it runs where it is known to.

        An embedded database that wakes up on another host is a copy: outgoing mail is held, because the original may
        still be sending. `shared` databases serve many hosts and are not checked. Returns why mail is held, or "".
        """
        async with transaction(self._engine) as db:
            row = (await db.execute(text("SELECT id, host, outgoing_hold FROM router.installation FOR UPDATE"))).first()
            if row is None:
                await db.execute(
                    text("INSERT INTO router.installation (id, host) VALUES (:id, :host)"),
                    {"id": new_id(), "host": host},
                )
                return ""
            hold = str(row.outgoing_hold)
            if not shared and not hold and row.host != host:
                hold = f"this installation is known to run on {row.host}, and it was started on {host}"
                await db.execute(text("UPDATE router.installation SET outgoing_hold = :hold"), {"hold": hold})
            return hold

    async def hold(self, reason: str) -> None:
        async with transaction(self._engine) as db:
            await db.execute(text("UPDATE router.installation SET outgoing_hold = :hold"), {"hold": reason})

    async def release(self, host: str) -> None:
        """Outgoing mail flows again, and this host is the one that is known."""
        async with transaction(self._engine) as db:
            await db.execute(text("UPDATE router.installation SET outgoing_hold = '', host = :host"), {"host": host})

    async def routers(self, seconds: float) -> int:
        """How many routers gave a sign of life within so long, by procrastinate's list; none before the first ran."""
        async with transaction(self._engine) as db:
            if (await db.execute(text("SELECT to_regclass('work.procrastinate_workers')"))).scalar() is None:
                return 0
            found = await db.execute(
                text(
                    "SELECT count(*) FROM work.procrastinate_workers "
                    "WHERE last_heartbeat > now() - make_interval(secs => :seconds)"
                ),
                {"seconds": seconds},
            )
            return int(found.scalar_one())


class Revisions:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def publish(self, source: str, who: str, comment: str = "") -> int:
        """Keep this text as a new revision and make it the active one, at once."""
        async with transaction(self._engine) as db:
            await db.execute(text("LOCK TABLE router.revision IN EXCLUSIVE MODE"))
            await db.execute(text("UPDATE router.revision SET active = false WHERE active"))
            row = await db.execute(
                text(
                    "INSERT INTO router.revision (source, who, comment, active) "
                    "VALUES (:source, :who, :comment, true) RETURNING number"
                ),
                {"source": source, "who": who, "comment": comment},
            )
            number = int(row.scalar_one())
            await db.execute(text("SELECT pg_notify('router_published', :n)"), {"n": str(number)})
            return number

    async def active(self) -> int:
        """The number of the active revision; 0 before the first publication."""
        async with transaction(self._engine) as db:
            return int((await db.execute(text("SELECT number FROM router.revision WHERE active"))).scalar() or 0)

    async def source(self, number: int) -> str:
        """The text of a revision."""
        async with transaction(self._engine) as db:
            found = await db.execute(text("SELECT source FROM router.revision WHERE number = :n"), {"n": number})
            return str(found.scalar_one())

    async def listing(self, limit: int, newest: int | None = None) -> list[dict[str, Any]]:
        """Revisions with their texts, newest first; from the number `newest` downwards if it is given."""
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(
                    "SELECT number, created, who, comment, active, source FROM router.revision "
                    "WHERE number <= coalesce(CAST(:newest AS bigint), number) ORDER BY number DESC LIMIT :limit"
                ),
                {"limit": limit, "newest": newest},
            )
            return [dict(row._mapping) for row in rows]


class Mailboxes:
    """What is known of each mailbox: when it was added, how it is, how far behind."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def added(self, name: str) -> datetime:
        """The moment the mailbox was first served: its threshold unless the settings name another."""
        async with transaction(self._engine) as db:
            await db.execute(
                text("INSERT INTO router.mailbox (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": name}
            )
            found = await db.execute(text("SELECT added FROM router.mailbox WHERE name = :name"), {"name": name})
            moment: datetime = found.scalar_one()
            return moment

    async def report(self, name: str, state: str, error: str = "", lag: float | None = None, older: int = 0) -> None:
        async with transaction(self._engine) as db:
            await db.execute(
                text(
                    "UPDATE router.mailbox SET state = :state, error = :error, older = older + :older, polled = now(), "
                    "lag_seconds = coalesce(CAST(:lag AS double precision), lag_seconds) WHERE name = :name"
                ),
                {"name": name, "state": state, "error": error, "lag": lag, "older": older},
            )

    async def listing(self) -> list[dict[str, Any]]:
        async with transaction(self._engine) as db:
            rows = await db.execute(
                text(
                    "SELECT m.*, (SELECT count(*) FROM router.receipt r WHERE r.mailbox = m.name AND closed IS NULL) "
                    "AS waiting FROM router.mailbox m ORDER BY name"
                )
            )
            return [dict(row._mapping) for row in rows]
