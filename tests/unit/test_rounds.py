"""Serving a mailbox: an outage is told once and its end once, however often it is tried in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from email_router.model.errors import Transient
from email_router.model.receipt import Term
from email_router.observe import maillog
from email_router.work.units import Unit, serve


class Rounds:
    """Fails as it is told to, then works, then stops the service."""

    def __init__(self, failures: Iterator[str], stop: asyncio.Event) -> None:
        self._failures = failures
        self._stop = stop

    async def run(self, term: Term) -> float:
        what = next(self._failures, None)
        if what is None:
            self._stop.set()
        elif what:
            raise Transient(what, retry_after=0)
        return 0.0

    async def wait(self, seconds: float) -> None:
        raise AssertionError("nothing to wait for")


async def test_an_outage_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []
    states: list[str] = []
    monkeypatch.setattr(maillog, "mailbox_state", lambda name, state, error="": told.append((state, error)))
    stop = asyncio.Event()
    rounds = Rounds(iter(["gone", "gone", "gone", "still gone", "", "", "gone"]), stop)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Rounds]:
        yield rounds

    async with asyncio.timeout(10):
        await serve(Unit("anna", 1, opened, lambda state, error: states.append(state)), Term(1, 1), stop)
    assert told == [("away", "gone"), ("away", "still gone"), ("ok", ""), ("away", "gone"), ("ok", "")]
    assert states == ["away"] * 4 + ["ok", "ok", "away", "ok"]


async def test_a_unit_stays_open_when_its_rounds_fail() -> None:
    """What a source remembers of a message that ends every connection is what sets that message aside."""
    stop = asyncio.Event()
    opened_units: list[Rounds] = []

    @asynccontextmanager
    async def opened() -> AsyncIterator[Rounds]:
        opened_units.append(Rounds(iter(["gone", "gone", "gone"]), stop))
        yield opened_units[-1]

    async with asyncio.timeout(10):
        await serve(Unit("anna", 1, opened, lambda state, error: None), Term(1, 1), stop)
    assert len(opened_units) == 1


async def test_a_unit_that_cannot_be_opened_is_opened_later() -> None:
    stop = asyncio.Event()
    tries = 0
    states: list[str] = []

    @asynccontextmanager
    async def opened() -> AsyncIterator[Rounds]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Transient("no database", retry_after=0)
        yield Rounds(iter([]), stop)

    async with asyncio.timeout(10):
        await serve(Unit("anna", 1, opened, lambda state, error: states.append(state)), Term(1, 1), stop)
    assert states == ["away", "away", "ok"]
