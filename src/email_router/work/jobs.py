"""procrastinate's jobs, for a worker that outlives the absence of its database, and its own.

What may fail: the database goes away, and what was to be written is written when it is back; the jobs that run go on
meanwhile. We freeze and wake up: others were given our jobs and our entry in the list of workers is gone. We enter
ourselves again under our old number, and leave alone the jobs that are others' now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from procrastinate import jobs
from procrastinate.connector import BaseConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.manager import JobManager

PAUSE = 1.0
"""Seconds between tries while the database is away."""
BEAT = """
INSERT INTO procrastinate_workers (id, last_heartbeat) OVERRIDING SYSTEM VALUE VALUES (%(id)s, now())
ON CONFLICT (id) DO UPDATE SET last_heartbeat = now()
"""
FINISH = "DELETE FROM procrastinate_jobs WHERE id = %(id)s AND worker_id = %(worker)s"
RESCUE = """
DELETE FROM procrastinate_jobs j WHERE queue_name = %(queue)s AND status = 'doing' AND NOT EXISTS (
    SELECT 1 FROM procrastinate_workers w
    WHERE w.id = j.worker_id AND w.last_heartbeat >= now() - make_interval(secs => %(seconds)s))
RETURNING lock
"""
DRAINING = """
CREATE TABLE IF NOT EXISTS draining (worker bigint PRIMARY KEY REFERENCES procrastinate_workers ON DELETE CASCADE)
"""
DRAIN = "INSERT INTO draining SELECT id FROM procrastinate_workers WHERE id = %(id)s ON CONFLICT DO NOTHING"
WORKERS = """
SELECT count(*) AS n FROM procrastinate_workers w WHERE last_heartbeat > now() - make_interval(secs => %(seconds)s)
    AND NOT EXISTS (SELECT 1 FROM draining d WHERE d.worker = w.id)
"""


class Jobs(JobManager):
    """`wanted` says whether another job would be taken, `registered` is awaited before the first one is looked for."""

    def __init__(
        self, connector: BaseConnector, wanted: Callable[[], bool], registered: Callable[[], Awaitable[object]]
    ) -> None:
        super().__init__(connector)
        self._wanted = wanted
        self._registered = registered
        self._closing = False
        self.worker = 0
        """Our number among the workers."""

    async def prepare(self) -> None:
        """What procrastinate's own schema does not have."""
        await self.connector.execute_query_async(DRAINING)

    async def register_worker(self) -> int:
        self.worker = await super().register_worker()
        await self._registered()
        return self.worker

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> jobs.Job | None:
        """The next job, if there is room for it."""
        if self._wanted():
            with suppress(ConnectorException):  # away, or not among the workers until the next sign of life
                return await super().fetch_job(queues, worker_id)
        return None

    async def update_heartbeat(self, worker_id: int) -> None:
        with suppress(ConnectorException):
            await self.beat()

    async def beat(self) -> None:
        """A sign of life, also after others took us for dead."""
        await self.connector.execute_query_async(BEAT, id=self.worker)

    async def finish_job(self, job: jobs.Job, status: jobs.Status, delete_job: bool) -> None:
        """Remove a job that ended, if it is still ours. Until that is done nobody else can have it."""
        while True:
            try:
                return await self.connector.execute_query_async(FINISH, id=job.id, worker=self.worker)
            except ConnectorException:
                if self._closing:  # we end, and then it is swept
                    raise
                await asyncio.sleep(PAUSE)

    async def rescue(self, queue: str, seconds: float) -> list[str]:
        """Remove the jobs whose workers gave no sign of life for so long; returns their locks."""
        rows = await self.connector.execute_query_all_async(RESCUE, queue=queue, seconds=seconds)
        return [str(row["lock"]) for row in rows]

    async def workers(self, seconds: float) -> int:
        """How many workers gave a sign of life within so long and want to stay."""
        return int((await self.connector.execute_query_one_async(WORKERS, seconds=seconds))["n"])

    async def drain(self) -> None:
        """Tell the others that we will be gone: they may take more. No job is kept for us any longer than it runs."""
        self._closing = True
        with suppress(ConnectorException):
            await self.connector.execute_query_async(DRAIN, id=self.worker)
