"""Kills at random moments under traffic: of the router, its database, both, or one of the database's processes."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from uuid import UUID

import pytest

from tests.kill.plant import Plant, Process
from tests.kill.seams import KILLS

pytestmark = [pytest.mark.kill, pytest.mark.servers, pytest.mark.database]

ALONE = KILLS - KILLS // 4
"""Kills of a router on its own; the others are of one of two (`test_two_routers.py`)."""
CHECKED = 6
"""After so many kills everything is compared."""


def test_killed_at_random_under_traffic(plant: Plant) -> None:
    chance = random.Random(20261124)
    running = plant.running()
    kills: Counter[str] = Counter()
    doubtful: set[UUID] = set()
    while kills.total() < ALONE:
        running.freeze()
        plant.deliver(2, large=kills.total() % 10 == 0)
        plant.write(3)
        running.thaw()
        work = chance.choice((plant.open_receipts, plant.open_sends, plant.marked))
        if not plant.froze_at_work(running, work, chance.randrange(8)):
            continue  # the work was done before the die fell: that kill would prove nothing
        target = chance.choice(("router", "database", "both", "process of the database"))
        kills[target] += 1
        if target in ("router", "both"):
            doubtful |= plant.marked()
        running = kill(plant, running, target, chance)
        if kills.total() % CHECKED == 0:
            plant.until_done()
            plant.check()
            assert plant.uncertain() == doubtful
    plant.until_done()
    plant.check()
    assert plant.uncertain() == doubtful
    running.stop()
    print(f"{kills.total()} random kills under open work: {dict(kills)}; {len(doubtful)} emails uncertain")


def kill(plant: Plant, running: Process, target: str, chance: random.Random) -> Process:
    """Kill the target while the router is frozen; returns the router that lives on, or a new one, when it works."""
    if target in ("database", "both"):
        os.kill(plant.postgres_pid(), signal.SIGKILL)
    if target == "process of the database":
        rows = plant.ask("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() ORDER BY pid")
        os.kill(chance.choice(rows)[0], signal.SIGKILL)
    if target in ("router", "both"):
        running.kill()
        running = plant.start()
    running.thaw()
    plant.until_database_restarted()
    plant.until_serving(running)
    return running
