"""One mailbox or one outgoing profile, served without end: rounds, waits, pauses and self-recovery.

What may fail: a round. The server is away: try again, ever less often, up to a minute. Somebody must act (a wrong
password): pause, say so, and probe gently, at last once an hour, so that no account is locked; the first round that
works resumes. Our own bug: the same pause, with the traceback in the log. Only losing the shard ends the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from email_router.model.errors import Fenced, NeedsOperator, Transient
from email_router.model.receipt import Term
from email_router.net.backoff import delay
from email_router.observe import maillog


class Rounds(Protocol):
    """An opened unit."""

    async def run(self, term: Term) -> float:
        """One round; returns the seconds until the next one is worthwhile (0: at once). Raises `model.errors`."""
        ...

    async def wait(self, seconds: float) -> None:
        """Until there is news, or so long."""
        ...


@dataclass(frozen=True, slots=True)
class Unit:
    """What a shard serves. A unit whose `fingerprint` changed by a publication is closed and opened anew."""

    name: str
    fingerprint: Hashable
    open: Callable[[], AbstractAsyncContextManager[Rounds]]
    state: Callable[[str, str], object]
    """Told of each change: the state (`ok`, `away`, `needs operator`, `broken`) and the error in words."""


async def serve(unit: Unit, term: Term, stop: asyncio.Event) -> None:
    """Serve until `stop` is set or the shard is lost (Fenced)."""
    troubles = _Troubles(unit, stop)
    while not stop.is_set():
        try:
            async with unit.open() as rounds:
                await _rounds(rounds, term, stop, troubles)
        except Fenced:
            raise
        except Exception as error:
            await troubles.pause(error)


async def _rounds(rounds: Rounds, term: Term, stop: asyncio.Event, troubles: _Troubles) -> None:
    """Rounds of an opened unit. It stays open when one fails: what connects does so anew by itself, and a source
    counts how often a message ended its connection, so that this one is set aside at last."""
    while not stop.is_set():
        try:
            seconds = await rounds.run(term)
            troubles.over()
            if seconds > 0 and not stop.is_set():
                await _first(rounds.wait(seconds), stop)
        except Fenced:
            raise
        except Exception as error:
            await troubles.pause(error)


class _Troubles:
    """What fails of one unit: told once, and the pauses between the tries."""

    def __init__(self, unit: Unit, stop: asyncio.Event) -> None:
        self._unit = unit
        self._stop = stop
        self._failures = 0
        self._told = ("ok", "")

    def over(self) -> None:
        if self._failures:
            maillog.mailbox_state(self._unit.name, "ok")
        self._failures, self._told = 0, ("ok", "")
        self._unit.state("ok", "")

    async def pause(self, error: Exception) -> None:
        self._failures += 1
        state, seconds = _pause(error, self._failures)
        self._unit.state(state, str(error))
        if (state, str(error)) != self._told:  # an outage is told once, not at every knock
            self._told = (state, str(error))
            maillog.mailbox_state(self._unit.name, state, str(error))
        if state == "broken":
            maillog.bug(self._unit.name, error)
        if not self._stop.is_set():
            await _first(asyncio.sleep(seconds), self._stop)


def _pause(error: Exception, failures: int) -> tuple[str, float]:
    if isinstance(error, NeedsOperator):
        return "needs operator", _asked(error, delay(failures, first=30.0, most=3600.0))
    if isinstance(error, Transient):
        return "away", _asked(error, delay(failures, first=1.0, most=60.0))
    return "broken", delay(failures, first=5.0, most=300.0)


def _asked(error: Transient | NeedsOperator, otherwise: float) -> float:
    return error.retry_after if error.retry_after is not None else otherwise


async def _first(waiting: object, stop: asyncio.Event) -> None:
    """Wait for `waiting` or for `stop`. What `waiting` raises is raised."""
    wanted = asyncio.ensure_future(waiting)  # type: ignore[call-overload]
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((wanted, stopped), return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            wanted.result()
    finally:
        for task in (wanted, stopped):
            task.cancel()
        await asyncio.gather(wanted, stopped, return_exceptions=True)
