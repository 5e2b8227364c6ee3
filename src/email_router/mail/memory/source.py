"""A folder of a memory server as a `Source` and a `Notifier`. The cursor is the last uid handed out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from email_router.mail.memory.server import Server, Stored
from email_router.model.mailbox import SourceAction
from email_router.model.message import DeliveryKey, RawMessage
from email_router.ports.mail import Batch, Cursor, Limit, SourceContext, Usage


class MemorySource:
    def __init__(self, server: Server, context: SourceContext) -> None:
        self._server = server
        self._context = context

    @property
    def _folder(self) -> list[Stored]:
        return self._server.folder(self._context.mailbox, self._context.folder or "INBOX")

    async def receive(self, cursor: Cursor, limit: Limit) -> Batch:
        self._server.trip("receive")
        new = [stored for stored in self._folder if stored.uid > int(cursor or "0")]
        since = self._context.since
        young = [stored for stored in new if since is None or stored.received >= since]
        chosen: list[Stored] = []
        size = 0
        for stored in young[: limit.count]:
            size += len(stored.raw)
            if chosen and size > limit.bytes:
                break
            chosen.append(stored)
        more = len(chosen) < len(young)
        last = chosen[-1].uid if more else new[-1].uid if new else int(cursor or "0")
        older = sum(1 for stored in new if stored.uid <= last and stored not in young)
        return Batch(tuple(self._raw(stored) for stored in chosen), str(last), more, older)

    async def fetch(self, keys: Sequence[DeliveryKey]) -> Sequence[RawMessage]:
        self._server.trip("fetch")
        there = {str(stored.uid): stored for stored in self._folder}
        return [self._raw(there[key.item]) for key in keys if key.item in there]

    async def acknowledge(self, keys: Sequence[DeliveryKey], action: SourceAction, move_to: str = "") -> None:
        self._server.trip("acknowledge")
        wanted = {key.item for key in keys}
        for stored in [stored for stored in self._folder if str(stored.uid) in wanted]:
            if action is SourceAction.SEEN:
                stored.seen = True
            elif action is not SourceAction.LEAVE:
                self._folder.remove(stored)
                if action is SourceAction.MOVE:
                    self._server.folder(self._context.mailbox, move_to).append(stored)

    async def usage(self) -> Usage:
        return Usage(len(self._folder), sum(len(stored.raw) for stored in self._folder))

    async def changed(self, within: float) -> bool:
        try:
            await asyncio.wait_for(self._server.changed.wait(), within)
        except TimeoutError:
            return False
        self._server.changed.clear()
        return True

    def _raw(self, stored: Stored) -> RawMessage:
        key = DeliveryKey(self._context.mailbox, self._context.folder, str(stored.uid))
        spool = self._context.spool()
        spool.write(stored.raw)
        return RawMessage(key, spool.finish(), stored.received)
