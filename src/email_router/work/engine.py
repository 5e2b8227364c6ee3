"""Who serves which shard: one procrastinate job per shard, held by its lock, on one machine and on many.

What may fail: a router dies, and its heartbeat ends; within 10 s and one sweep another one takes its jobs. A router
freezes and wakes up: others have its shards and have ended its database sessions, so that it holds no lock; its writes
are refused by their epoch, it lets go, and takes its share again. The database goes away: what runs goes on and waits
for it, and nobody is taken for dead before everybody had the time to give a sign of life. Routers come and go: each
takes at most its share and gives up the surplus; who drains counts no more.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import procrastinate
import psycopg
from procrastinate import exceptions
from procrastinate.worker import Worker
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.errors import RouterError
from email_router.net.postgres import application, transaction
from email_router.observe import maillog
from email_router.ports.store import Ownership
from email_router.work.jobs import Jobs
from email_router.work.shard import SHARDS, Shard
from email_router.work.units import Unit

QUEUE = "shards"
SCHEMA = "work"
HEARTBEAT = 2.0
STALE = 10.0
SWEEP = 2.0
POLL = 0.3
BLIND = STALE - 2 * HEARTBEAT
"""Seconds between two looks at the database after which the others' signs of life may be late as well."""
RETRY = 1.0
"""Seconds between two tries to own a shard while the database is away."""
DRAIN = 25.0
"""Seconds a shard has to finish what it is at."""


class Engine:
    """This router's part of the work, under its `name`. `units` says what a shard serves."""

    def __init__(
        self,
        engine: AsyncEngine,
        dsn: str,
        name: str,
        ownership: Ownership,
        units: Callable[[int], Awaitable[Sequence[Unit]]],
        published: Callable[[float], Awaitable[object]],
        *,
        alone: bool,
    ) -> None:
        self._engine = engine
        self._name = name
        self._ownership = ownership
        self._units = units
        self._published = published
        self._alone = alone
        self._stop = asyncio.Event()
        self._held: dict[int, Shard] = {}
        self._share = 0
        self._looked = 0.0
        self._blind_until = 0.0
        logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
        connector = procrastinate.PsycopgConnector(
            conninfo=dsn,
            kwargs={"options": f"-c search_path={SCHEMA}", "application_name": application(name)},
            min_size=1,
            max_size=4,
        )
        self._app = procrastinate.App(connector=connector)
        self._app.job_manager = self._jobs = Jobs(connector, self._has_room, self._look)
        self._app.task(name="shard", queue=QUEUE)(self._serve_shard)

    @property
    def shards(self) -> int:
        """How many shards are served here now."""
        return len(self._held)

    def drain(self) -> None:
        """Finish what is begun and let the shards go; `run` returns then."""
        self._stop.set()
        for shard in self._held.values():
            shard.stop()

    async def run(self) -> None:
        """Work until drained."""
        while not self._stop.is_set():
            try:
                async with self._app.open_async():
                    await self._prepare()
                    await self._work()
            except (exceptions.ProcrastinateException, RouterError, OSError, psycopg.Error) as error:
                maillog.mailbox_state("work", "away", str(error.__cause__ or error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), 1.0)

    async def _work(self) -> None:
        worker = Worker(
            self._app,
            queues=[QUEUE],
            name=self._name,
            concurrency=SHARDS,
            fetch_job_polling_interval=POLL,
            shutdown_graceful_timeout=DRAIN,
            listen_notify=False,
            delete_jobs="always",
            install_signal_handlers=False,
            update_heartbeat_interval=HEARTBEAT,
            stalled_worker_timeout=STALE,
        )
        self._looked = asyncio.get_running_loop().time()
        sweeping = asyncio.create_task(self._sweep())
        stopping = asyncio.create_task(self._stop_worker(worker))
        try:
            await worker.run()  # type: ignore[no-untyped-call]
        finally:
            for task in (sweeping, stopping):
                task.cancel()
            await asyncio.gather(sweeping, stopping, return_exceptions=True)

    async def _stop_worker(self, worker: Worker) -> None:
        await self._stop.wait()
        await self._jobs.drain()
        worker.stop()  # type: ignore[no-untyped-call]

    async def _prepare(self) -> None:
        """The engine's tables, made once; after a kill of the only router nobody else's work can be in the way."""
        async with transaction(self._engine) as db:
            await db.execute(text("SELECT pg_advisory_xact_lock(1987)"))
            await db.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        async with transaction(self._engine) as db:
            await db.execute(text("SELECT pg_advisory_xact_lock(1987)"))
            there = await db.execute(text(f"SELECT to_regclass('{SCHEMA}.procrastinate_jobs')"))
            if there.scalar() is None:
                await self._app.schema_manager.apply_schema_async()
            await self._jobs.prepare()
        if self._alone:
            await self._rescue(0.0)
        await self._enter_missing()

    async def _sweep(self) -> None:
        """Every 2 s: what others have let go, jobs of dead routers and missing ones back to work, the surplus given up.

        After a time in which nobody could reach the database, or we slept, nobody is taken for dead until all had time
        to give a sign of life.
        """
        told, away = 0, ""
        while True:
            await asyncio.sleep(SWEEP)
            if told != self.shards:
                told = self.shards
                maillog.serving(told)
            try:
                await self._look()
                if self._looked >= self._blind_until:
                    await self._rescue(STALE)
                await self._enter_missing()
            except (exceptions.ProcrastinateException, RouterError) as error:
                if not away:  # once for all shards
                    away = str(error.__cause__ or error)
                    maillog.mailbox_state("database", "away", away)
                continue
            if away:
                away = ""
                maillog.mailbox_state("database", "ok")
            for shard in sorted(self._held)[: max(0, len(self._held) - self._share)]:
                self._held[shard].stop()

    async def _look(self) -> None:
        """A sign of life, what is still ours, and what our share is when all routers hold about the same."""
        await self._jobs.beat()
        epochs = await self._ownership.epochs()
        for number, shard in self._held.items():
            if shard.term is not None and epochs[number] > shard.term.epoch:
                shard.lose()
        self._share = SHARDS if self._alone else math.ceil(SHARDS / max(1, await self._jobs.workers(STALE)))
        now = asyncio.get_running_loop().time()
        if now - self._looked > BLIND:
            self._blind_until = now + STALE
        self._looked = now

    async def _rescue(self, seconds: float) -> None:
        locks = await self._jobs.rescue(QUEUE, seconds)
        if locks:
            await self._ownership.evict([_shard(lock) for lock in locks], self._name)

    async def _enter_missing(self) -> None:
        there = {job.lock for job in await self._jobs.list_jobs_async(queue=QUEUE)}
        for shard in range(SHARDS):
            if _lock(shard) not in there:
                await self._enter(shard)

    async def _enter(self, shard: int) -> None:
        with suppress(exceptions.AlreadyEnqueued):
            await self._app.configure_task(
                "shard", queue=QUEUE, lock=_lock(shard), queueing_lock=_lock(shard)
            ).defer_async(shard=shard)

    def _has_room(self) -> bool:
        return not self._stop.is_set() and len(self._held) < self._share

    async def _serve_shard(self, shard: int) -> None:
        if shard in self._held:  # we were taken for dead, and nobody else was quicker: who serves it has to end first
            self._held[shard].stop()
            await asyncio.sleep(POLL)
        elif not self._stop.is_set():
            await self._serve(shard)
        with suppress(exceptions.ProcrastinateException):
            await self._enter(shard)

    async def _serve(self, number: int) -> None:
        shard = self._held[number] = Shard(self._units, self._published)
        try:
            while not await shard.stopping(0.0):
                try:
                    term = await self._ownership.take(number, self._name)
                except RouterError:  # which the sweep tells
                    await shard.stopping(RETRY)
                else:
                    return await shard.run(term)
        finally:
            del self._held[number]


def _lock(shard: int) -> str:
    return f"shard:{shard}"


def _shard(lock: str) -> int:
    return int(lock.removeprefix("shard:"))
