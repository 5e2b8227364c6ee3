"""A router that is told to stop lets its shards go, whenever that is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.receipt import Term
from email_router.store.shards import Shards
from email_router.work.engine import Engine
from email_router.work.units import Unit

pytestmark = pytest.mark.database


class StoppedMeanwhile:
    """The ownership of shards, and a stop that comes while the first of them is being taken."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self.work: Engine | None = None

    async def take(self, shard: int, owner: str) -> Term:
        assert self.work is not None
        self.work.drain()
        return await self._shards.take(shard, owner)

    async def epochs(self) -> Mapping[int, int]:
        return await self._shards.epochs()

    async def evict(self, shards: Sequence[int], but: str) -> None:
        await self._shards.evict(shards, but)


async def test_a_stop_while_shards_are_being_taken_holds_none(engine: AsyncEngine, dsn: str) -> None:
    async def units(_: int) -> Sequence[Unit]:
        return []

    ownership = StoppedMeanwhile(Shards(engine))
    work = ownership.work = Engine(engine, dsn, "stopped", ownership, units, asyncio.sleep, alone=True)
    async with asyncio.timeout(20):  # a shard that nobody tells to stop is waited for 25 seconds
        await work.run()
    assert work.shards == 0
