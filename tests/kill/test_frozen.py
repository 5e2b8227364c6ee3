"""A router is frozen (SIGSTOP) with something in hand, others take over, it wakes up: it changes nothing any more."""

from __future__ import annotations

from typing import Any

import pytest

from email_router.work.shard import SHARDS
from tests.kill.plant import OUTGOING, Plant

pytestmark = [pytest.mark.kill, pytest.mark.servers, pytest.mark.database]

SEAMS = {"inside-file": 1, "inside-copy": 3, "before-conclude": 1, "before-mark": 2, "after-mark": 2}
"""The passing at which it freezes. It may be sending an email at the same time: that one is uncertain, and no other."""


@pytest.mark.parametrize("seam", SEAMS)
def test_frozen_with_something_in_hand(several: Plant, seam: str) -> None:
    nth = SEAMS[seam]
    two = several.two()
    known = several.uncertain()
    for process in two:
        process.freeze()
    several.deliver(2)
    several.write(3)
    sleeper = several.owner(OUTGOING if "mark" in seam else several.addresses.help)
    [other] = set(two) - {sleeper}
    sleeper.arm(seam, nth, "stop")
    for process in two:
        process.thaw()
    sleeper.until_frozen()
    several.until(several.quiet, "a quiet database")
    lost = several.in_hand(sleeper)
    if "mark" in seam:
        assert len(lost) == (seam == "after-mark")
    several.until(lambda: several.shards(other) == SHARDS and several.done(), "the other's taking over")
    several.check()
    assert several.uncertain() - known == lost
    told = state(several)
    if seam == "before-conclude":  # who joins strikes the dead, and those that seem to be, from the list of workers
        several.until_serving(several.start())
    sleeper.thaw()
    several.until_shared()
    assert state(several) == told
    several.deliver(2)
    several.write(3)
    several.until_done()
    several.check()
    assert several.uncertain() - known == lost


def state(several: Plant) -> list[list[tuple[Any, ...]]]:
    """What a router that should not could have changed."""
    return [
        several.ask(query)
        for query in (
            "SELECT id, status, regarding FROM crm.activity ORDER BY id",
            "SELECT activity, address FROM crm.received_by ORDER BY 1, 2",
            "SELECT id, outcome, attempts, closed FROM router.receipt ORDER BY id",
            "SELECT id, receipt, outcome FROM router.decision ORDER BY id",
            "SELECT id, state, attempts, handed_over, settled FROM router.ledger ORDER BY id",
        )
    ]
