"""Housekeeping that fails: told once, not tried without pause, and told when it works again."""

from __future__ import annotations

import pytest

from email_router.model.errors import NeedsOperator
from email_router.observe import maillog
from email_router.work.chore import Chore


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_dump_that_fails_is_told_once_and_tried_an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(maillog, "mailbox_state", lambda name, state, error="": told.append((state, error)))
    clock = Clock()
    tries: list[float] = []
    failing = True

    async def dump() -> None:
        tries.append(clock.now)
        if failing:
            raise NeedsOperator("the disk is full")

    chore = Chore("daily dump", dump, 3600.0, clock)
    for _ in range(1000):  # some hours, every 15 seconds
        await chore.attend()
        clock.now += 15.0
    assert len(tries) == 5
    assert told == [("away", "the disk is full")]
    failing = False
    clock.now += 3600.0
    await chore.attend()
    await chore.attend()
    assert told[1:] == [("ok", "")]
    assert len(tries) == 7


async def test_a_bug_in_one_chore_is_told_with_its_traceback_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bugs: list[BaseException] = []
    monkeypatch.setattr(maillog, "bug", lambda where, error: bugs.append(error))

    async def broken() -> None:
        raise ZeroDivisionError

    await Chore("x", broken, 1.0).attend()
    assert [type(error) for error in bugs] == [ZeroDivisionError]
