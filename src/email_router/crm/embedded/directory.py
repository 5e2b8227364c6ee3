"""Users and queues of one organization."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.crm.embedded.records import RECEIVERS, receiver
from email_router.model.mailbox import Receiver
from email_router.net.postgres import transaction


class Directory:
    """`ports.crm.Directory` for one organization."""

    def __init__(self, engine: AsyncEngine, organization: UUID) -> None:
        self._engine = engine
        self._organization = organization

    async def receivers(self) -> Sequence[Receiver]:
        async with transaction(self._engine) as db:
            found = await db.execute(text(RECEIVERS + " ORDER BY r.name, v.id"), {"organization": self._organization})
            return [receiver(row) for row in found]
