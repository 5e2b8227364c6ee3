"""Several routers on one PostgreSQL: they share the mailboxes, and when one is gone the others have its part."""

from __future__ import annotations

import random
from contextlib import suppress
from functools import partial
from uuid import UUID

import psycopg
import pytest

from email_router.work.shard import SHARDS
from tests.kill.plant import Plant, Process
from tests.kill.seams import KILLS
from tests.kill.shared import Shared

pytestmark = [pytest.mark.kill, pytest.mark.servers, pytest.mark.database]

TAKE_OVER = 15.0
"""Seconds within which the work of a killed router must go on: a requirement, not a guess about the machine."""


@pytest.fixture
def two(several: Plant) -> list[Process]:
    return several.two()


def test_two_share_and_a_third_gets_its_part_and_one_that_stops_hands_over(several: Plant) -> None:
    first = several.start()
    several.until(lambda: several.shards(first) == SHARDS, "everything served by the only one")
    others = [several.start(), several.start()]
    several.until_shared()
    several.deliver(2)
    several.write(3)
    first.stop()
    several.until(lambda: [several.shards(p) for p in others] == [32, 32], "a half for each", TAKE_OVER)
    several.until_done()
    several.check()
    assert not several.uncertain()


def test_when_one_is_killed_the_other_takes_over(several: Plant, two: list[Process]) -> None:
    victim = several.owner(several.addresses.help)
    [other] = set(two) - {victim}
    several.deliver(4, large=True)
    several.write(5)
    several.until(lambda: several.work_of(victim) > 0, "open work")
    doubtful = several.kill_one(victim)
    several.deliver(2)
    several.write(3)
    several.until(lambda: several.shards(other) == SHARDS, "the other's taking over", TAKE_OVER)
    several.until_done()
    several.check()
    assert several.uncertain() == doubtful


def test_the_database_they_share_is_killed(several: Plant, shared: Shared, two: list[Process]) -> None:
    """Both go on as they were: the shards stay where they are, nothing is done twice, nothing is uncertain.

    It is killed while each router asks it about jobs, so that none of them can fail to notice.
    """
    epochs = several.ask("SELECT number, epoch FROM router.shard ORDER BY number")
    uncertain = several.uncertain()
    several.deliver(2)
    several.write(3)
    several.until(lambda: several.open_sends() > 0, "open sends")
    with suppress(psycopg.OperationalError), psycopg.connect(several.dsn) as holding:
        holding.execute("LOCK TABLE work.procrastinate_jobs IN ACCESS EXCLUSIVE MODE")
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%_jobs%'"
        several.until(lambda: several.number(waiting) >= 2, "both asking for jobs")
        shared.kill()
    shared.start()
    several.until_done()
    several.until_beating(two)
    several.check()
    assert several.uncertain() == uncertain
    assert several.ask("SELECT number, epoch FROM router.shard ORDER BY number") == epochs


def test_either_is_killed_at_random_under_traffic(several: Plant, two: list[Process]) -> None:
    chance = random.Random(20261125)
    doubtful: set[UUID] = several.uncertain()
    kills = 0
    while kills < KILLS // 4:
        routers = several.living()
        for process in routers:
            process.freeze()
        several.deliver(2)
        several.write(3)
        for process in routers:
            process.thaw()
        victim = chance.choice(routers)
        if not several.froze_at_work(victim, partial(several.work_of, victim), chance.randrange(8)):
            continue
        doubtful |= several.kill_one(victim)
        several.until_serving(several.start())
        kills += 1
    several.until_done()
    several.check()
    assert several.uncertain() == doubtful
    print(f"{kills} random kills of one of two routers under open work; {len(doubtful)} emails uncertain")
