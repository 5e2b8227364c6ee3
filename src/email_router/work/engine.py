"""Who serves which shard: one procrastinate job per shard, held by its lock, on one machine and on many.

What may fail: a router dies, and its heartbeat ends; within 10 s and one sweep another one takes its jobs. A router
freezes and wakes up: others have its shards, its writes are refused by their epoch, and it lets go. The database goes
away: the worker is started anew until it is back. Routers come and go: each holds at most its share and gives up the
surplus; who is over its share puts a shard back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import procrastinate
from procrastinate import exceptions
from procrastinate.jobs import Status
from procrastinate.worker import Worker
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.errors import RouterError
from email_router.model.receipt import Term
from email_router.net.postgres import transaction
from email_router.observe import maillog
from email_router.work.shard import SHARDS, Shard
from email_router.work.units import Unit

QUEUE = "shards"
SCHEMA = "work"
HEARTBEAT = 2.0
STALE = 10.0
SWEEP = 2.0
POLL = 0.3
DRAIN = 25.0
"""Seconds a shard has to finish what it is at."""


class Engine:
    """This router's part of the work. `take` owns a shard (a new epoch), `units` says what it serves."""

    def __init__(
        self,
        engine: AsyncEngine,
        dsn: str,
        take: Callable[[int, str], Awaitable[Term]],
        units: Callable[[int], Awaitable[Sequence[Unit]]],
        published: Callable[[float], Awaitable[object]],
        *,
        alone: bool,
    ) -> None:
        self._engine = engine
        self._take = take
        self._units = units
        self._published = published
        self._alone = alone
        self._stop = asyncio.Event()
        self._held: dict[int, asyncio.Event] = {}
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
        connector = procrastinate.PsycopgConnector(
            conninfo=dsn, kwargs={"options": f"-c search_path={SCHEMA}"}, min_size=1, max_size=4
        )
        self._app = procrastinate.App(connector=connector)
        self._app.task(name="shard", queue=QUEUE)(self._serve_shard)

    @property
    def shards(self) -> int:
        """How many shards are served here now."""
        return len(self._held)

    def drain(self) -> None:
        """Finish what is begun and let the shards go; `run` returns then."""
        self._stop.set()
        for stop in self._held.values():
            stop.set()

    async def run(self) -> None:
        """Work until drained."""
        while not self._stop.is_set():
            try:
                async with self._app.open_async():
                    await self._prepare()
                    await self._work()
            except (exceptions.ProcrastinateException, RouterError, OSError) as error:
                maillog.mailbox_state("work", "away", str(error.__cause__ or error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), 1.0)

    async def _work(self) -> None:
        worker = Worker(
            self._app,
            queues=[QUEUE],
            name=self.name,
            concurrency=SHARDS,
            fetch_job_polling_interval=POLL,
            shutdown_graceful_timeout=DRAIN,
            listen_notify=False,
            delete_jobs="always",
            install_signal_handlers=False,
            update_heartbeat_interval=HEARTBEAT,
            stalled_worker_timeout=STALE,
        )
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
        if self._alone:
            await self._rescue(0.0)
        await self._enter_missing()

    async def _sweep(self) -> None:
        """Every 2 s: jobs of dead routers back to work, jobs that are missing entered, the surplus given up."""
        told = 0
        while True:
            if told != self.shards:
                told = self.shards
                maillog.serving(told)
            with suppress(exceptions.ProcrastinateException, RouterError):
                await self._rescue(STALE)
                await self._enter_missing()
                await self._spread()
            await asyncio.sleep(SWEEP)

    async def _rescue(self, seconds: float) -> None:
        manager = self._app.job_manager
        for job in await manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=seconds):
            try:
                await manager.retry_job(job)
            except exceptions.ProcrastinateException:  # a sibling is queued already (procrastinate#1446)
                await manager.finish_job(job, status=Status.FAILED, delete_job=True)

    async def _enter_missing(self) -> None:
        jobs = await self._app.job_manager.list_jobs_async(queue=QUEUE)
        there = {job.lock for job in jobs if job.status in ("todo", "doing")}
        for shard in range(SHARDS):
            if _lock(shard) not in there:
                await self._enter(shard)

    async def _enter(self, shard: int) -> None:
        with suppress(exceptions.AlreadyEnqueued):
            await self._app.configure_task(
                "shard", queue=QUEUE, lock=_lock(shard), queueing_lock=_lock(shard)
            ).defer_async(shard=shard)

    async def _spread(self) -> None:
        surplus = len(self._held) - await self._share()
        for shard in sorted(self._held)[: max(0, surplus)]:
            self._held[shard].set()

    async def _share(self) -> int:
        """The shards that are ours when all routers that live hold about the same."""
        if self._alone:
            return SHARDS
        async with transaction(self._engine) as db:
            found = await db.execute(
                text(
                    f"SELECT count(*) FROM {SCHEMA}.procrastinate_workers "
                    "WHERE last_heartbeat > now() - make_interval(secs => :stale)"
                ),
                {"stale": STALE},
            )
            return math.ceil(SHARDS / max(1, int(found.scalar_one())))

    async def _serve_shard(self, shard: int) -> None:
        share = await self._share()
        if self._stop.is_set() or len(self._held) >= share:  # nothing may come between this look and being held
            await asyncio.sleep(POLL)  # over our share: somebody else gets the chance
            await self._enter(shard)
            return
        stop = self._held[shard] = asyncio.Event()
        try:
            term = await self._take(shard, self.name)
            await Shard(term, self._units, self._published, stop).run()
        except RouterError as error:
            maillog.mailbox_state(f"shard {shard}", "away", str(error))
        finally:
            del self._held[shard]
        with suppress(exceptions.ProcrastinateException):
            await self._enter(shard)


def _lock(shard: int) -> str:
    return f"shard:{shard}"
