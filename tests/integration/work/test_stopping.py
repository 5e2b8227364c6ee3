"""A router that is told to stop lets its shards go, whenever that is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.store.shards import Shards
from email_router.work.engine import Engine
from email_router.work.units import Unit

pytestmark = pytest.mark.database


async def test_a_stop_while_shards_are_being_taken_holds_none(
    engine: AsyncEngine, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def units(_: int) -> Sequence[Unit]:
        return []

    work = Engine(engine, dsn, Shards(engine).take, units, asyncio.sleep, alone=True)
    share = work._share

    async def stopped_meanwhile() -> int:
        work.drain()
        return await share()

    async def never() -> None:
        """Shares are asked for only where a shard is taken."""

    monkeypatch.setattr(work, "_spread", never)
    monkeypatch.setattr(work, "_share", stopped_meanwhile)
    async with asyncio.timeout(20):  # a shard that nobody tells to stop is waited for 25 seconds
        await work.run()
    assert work.shards == 0
