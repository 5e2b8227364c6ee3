"""A shard: its mailboxes and profiles, each served by a task of its own, as the newest settings say."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress

from email_router.model.errors import Fenced, RouterError
from email_router.model.receipt import Term
from email_router.observe import maillog
from email_router.work.units import Unit, serve

SHARDS = 64
LOOK_SECONDS = 2.0
"""How often the settings are looked at when nobody tells of a publication."""


def shard_of(name: str) -> int:
    """Which shard serves a mailbox or a profile: the same on each router and in each release."""
    return zlib.crc32(name.casefold().encode()) % SHARDS


class Shard:
    """Serves what the settings put into this shard until it is told to stop or the ownership is lost."""

    def __init__(
        self,
        units: Callable[[int], Awaitable[Sequence[Unit]]],
        published: Callable[[float], Awaitable[object]],
    ) -> None:
        self.term: Term | None = None
        """By what it is owned; None until `run`."""
        self._units = units
        self._published = published
        self._stop = asyncio.Event()
        self._lost = asyncio.Event()
        self._running: dict[str, tuple[Hashable, asyncio.Task[None], asyncio.Event]] = {}

    def stop(self) -> None:
        """Finish what is begun, and end."""
        self._stop.set()

    def lose(self) -> None:
        """Another router owns it: end at once."""
        self._lost.set()

    async def stopping(self, seconds: float) -> bool:
        """True as soon as it has to end, False after so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return self._stop.is_set()

    async def run(self, term: Term) -> None:
        self.term = term
        try:
            while not (self._stop.is_set() or self._lost.is_set()):
                await self._reconcile(term)
                await self._until_something_happens()
        finally:
            await self._end(list(self._running))
            if self._lost.is_set():
                maillog.shard_lost(term.shard, term.epoch)

    async def _reconcile(self, term: Term) -> None:
        try:
            wanted = {unit.name: unit for unit in await self._units(term.shard)}
        except RouterError:  # the database is away, as the sweep tells: what runs goes on
            return
        running = self._running
        await self._end([n for n, (mark, _, _) in running.items() if n not in wanted or wanted[n].fingerprint != mark])
        for name, unit in wanted.items():
            if name not in self._running or self._running[name][1].done():
                stop = asyncio.Event()
                task = asyncio.create_task(self._serve(unit, term, stop), name=name)
                self._running[name] = (unit.fingerprint, task, stop)

    async def _serve(self, unit: Unit, term: Term, stop: asyncio.Event) -> None:
        try:
            await serve(unit, term, stop)
        except Fenced:
            self._lost.set()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            maillog.bug(unit.name, error)

    async def _until_something_happens(self) -> None:
        waits = [
            asyncio.ensure_future(self._stop.wait()),
            asyncio.ensure_future(self._lost.wait()),
            asyncio.ensure_future(self._published(LOOK_SECONDS)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _end(self, names: Sequence[str], patience: float = 20.0) -> None:
        """Let these finish what they are at; after `patience` seconds they are cancelled, which loses nothing."""
        ending = [self._running.pop(name) for name in names]
        for _, _, stop in ending:
            stop.set()
        tasks = [task for _, task, _ in ending]
        if not tasks:
            return
        if not self._lost.is_set():
            await asyncio.wait(tasks, timeout=patience)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
