"""Room for messages that are worked on at the same time."""

from __future__ import annotations

import asyncio

from email_router.incoming.pushed import Room


class Work:
    """What has room now, by name; `end` lets one go."""

    def __init__(self, most: int) -> None:
        self.room = Room(most)
        self.inside: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, name: str, size: int) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._work(name, size))
        await turns()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.tasks[name]
        await turns()

    async def _work(self, name: str, size: int) -> None:
        async with self.room.of(size):
            self.inside.append(name)
            await self._ends[name].wait()
        self.inside.remove(name)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_bytes_than_allowed_and_the_first_comes_first() -> None:
    work = Work(100)
    for name, size in (("a", 60), ("b", 40), ("large", 90), ("small", 1)):
        await work.begin(name, size)
    assert work.inside == ["a", "b"]
    await work.end("b")
    assert work.inside == ["a"], "the large one is not passed by small ones"
    await work.end("a")
    assert work.inside == ["large", "small"]
    await work.end("large")
    await work.end("small")
    assert work.inside == []


async def test_what_is_larger_than_all_room_has_it_alone() -> None:
    work = Work(100)
    await work.begin("huge", 1000)
    await work.begin("small", 1)
    assert work.inside == ["huge"]
    await work.end("huge")
    assert work.inside == ["small"]
    await work.end("small")


async def test_who_does_not_wait_any_longer_takes_no_room() -> None:
    work = Work(100)
    for name, size in (("a", 100), ("gone", 50), ("c", 100)):
        await work.begin(name, size)
    work.tasks["gone"].cancel()
    await asyncio.gather(work.tasks["gone"], return_exceptions=True)
    await work.end("a")
    assert work.inside == ["c"]
    await work.end("c")
