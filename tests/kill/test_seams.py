"""The router is killed at every seam, before and after, and at random under traffic: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.dovecot import Dovecot
from tests.fixtures.postfix import Postfix
from tests.kill.plant import LIMIT, Plant

pytestmark = [pytest.mark.kill, pytest.mark.servers, pytest.mark.database]

INCOMING = [f"{when}-{seam}" for seam in ("note", "file", "conclude", "acknowledge") for when in ("before", "after")]
OUTGOING = {
    "after-claim": 0,
    "after-ledger": 0,
    "before-mark": 0,
    "after-mark": 1,
    "before-record": 1,
    "after-record": 0,
    "before-settle": 0,
    "after-settle": 0,
}
"""Seams of sending, and how many emails are uncertain after a kill there."""
ONCE = ("after-claim", "after-ledger", "before-settle", "after-settle")
"""Seams that a round passes once, for all of its emails."""
RANDOM_KILLS = max(4, int(os.environ.get("EMAIL_ROUTER_KILLS", "20")) - len(INCOMING) - len(OUTGOING))


@pytest.fixture(scope="module")
def plant(dovecot: Dovecot, postfix: Postfix) -> Iterator[Plant]:
    directory = Path(tempfile.mkdtemp(prefix="kill-", dir="/tmp"))
    directory.chmod(0o711)
    made = Plant(directory, dovecot, postfix)
    try:
        asyncio.run(made.prepare())
        yield made
    finally:
        made.end()
        shutil.rmtree(directory, ignore_errors=True)


class Looks:
    """Looks at the open work, to kill in the midst of it: after `wanted` looks that saw some, or when it is gone."""

    def __init__(self, plant: Plant, wanted: int) -> None:
        self._plant = plant
        self._wanted = wanted
        self._seen = 0

    def enough(self) -> bool:
        busy = any(self._plant.open_work())
        self._seen += busy
        return self._seen >= self._wanted or (self._seen > 0 and not busy)


def uncertain(plant: Plant) -> int:
    return plant.check().get("uncertain", 0)


@pytest.mark.parametrize("seam", INCOMING)
def test_killed_while_receiving(plant: Plant, seam: str) -> None:
    plant.deliver(8, large=seam == "after-file")
    killed = plant.start(f"{seam}:2:kill")
    assert killed.wait(LIMIT) == -signal.SIGKILL, plant.log()
    again = plant.start()
    plant.until_done()
    plant.check()
    assert plant.stop(again) == 0


@pytest.mark.parametrize("seam", OUTGOING)
def test_killed_while_sending(plant: Plant, seam: str) -> None:
    running = plant.start()
    plant.until_done()
    before = uncertain(plant)
    assert plant.stop(running) == 0
    plant.write(3)
    killed = plant.start(f"{seam}:{1 if seam in ONCE else 2}:kill")
    assert killed.wait(LIMIT) == -signal.SIGKILL, plant.log()
    again = plant.start()
    plant.until_done()
    assert uncertain(plant) - before == OUTGOING[seam]
    assert plant.stop(again) == 0


def test_killed_at_random_under_traffic(plant: Plant) -> None:
    chance = random.Random(20261124)
    counted = 0
    running = plant.start()
    plant.until_done()
    doubts = uncertain(plant)
    router_kills = 0
    while counted < RANDOM_KILLS:
        plant.deliver(8, large=counted % 10 == 0)
        plant.write(2)
        wanted = chance.randrange(1, 12)
        looks = Looks(plant, wanted)
        plant.until(looks.enough, "open work")
        if not any(plant.open_work()):
            continue  # it was quicker than the die: that kill would prove nothing
        target = chance.choice(("router", "postgres", "both"))
        if target != "router":
            os.kill(plant.postgres_pid(), signal.SIGKILL)
        if target != "postgres":
            running.kill()
            running.wait(LIMIT)
            running = plant.start()
            router_kills += 1
        plant.until(lambda: plant.open_work() is not None, "the database")
        counted += 1
        if counted % 5 == 0 or counted == RANDOM_KILLS:
            plant.until_done()
            now = uncertain(plant)
            assert now - doubts <= router_kills, "more emails are uncertain than routers were killed"
    assert plant.stop(running) == 0
