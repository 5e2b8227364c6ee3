"""Group commit: what several tasks want committed goes into one transaction, and each waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
GATHERING = 3
"""Turns of the event loop before a commit: tasks that are about to bring an item come along, and nobody waits long."""


class Together(Generic[T]):
    """Call it with an item; it returns when the item is committed, or raises what the commit raised."""

    def __init__(self, commit: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._commit = commit
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        while self._waiting:
            for _ in range(GATHERING):
                await asyncio.sleep(0)
            batch, self._waiting = self._waiting, []
            try:
                await self._commit([item for item, _ in batch])
            except BaseException as error:  # each waiting task gets it, cancellation among it
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                if isinstance(error, asyncio.CancelledError):
                    raise
            else:
                for _, done in batch:
                    if not done.done():
                        done.set_result(None)
