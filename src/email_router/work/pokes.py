"""Being told at once (LISTEN/NOTIFY) that there is something to do: a publication, a retry, an email to send.

What may fail: the connection. It is made anew; until then everybody's own clock finds the work.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress

import psycopg

CHANNELS = {"router_published": "published", "crm_pending_send": "outgoing", "router_work": ""}
"""Channels and the name they poke; "" where the payload is the name."""


class Pokes:
    """Waiting for a name to be poked; `run` listens."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._events: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def wait(self, name: str, seconds: float) -> bool:
        """True as soon as `name` is poked, False after `seconds`."""
        event = self._events[name]
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return False
        event.clear()
        return True

    def poke(self, name: str) -> None:
        """Wake up who waits for `name`, or whoever waits for it next: a poke during a round is not lost."""
        self._events[name].set()

    async def run(self) -> None:
        while True:
            with suppress(psycopg.Error, OSError):
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
                    for channel in CHANNELS:
                        await connection.execute(f"LISTEN {channel}")
                    async for notice in connection.notifies():
                        self.poke(CHANNELS[notice.channel] or notice.payload)
            await asyncio.sleep(1.0)
