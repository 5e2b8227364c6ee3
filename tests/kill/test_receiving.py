"""The router is killed at every seam of receiving: each message is filed once, and its mailbox is dealt with once."""

from __future__ import annotations

import pytest

from tests.kill.plant import Plant
from tests.kill.seams import RECEIVING

pytestmark = [pytest.mark.kill, pytest.mark.servers, pytest.mark.database]


@pytest.mark.parametrize("seam", RECEIVING)
def test_killed_while_receiving(plant: Plant, seam: str) -> None:
    running = plant.running()
    running.freeze()
    plant.deliver(2, large=seam in ("inside-copy", "after-file"))
    running.arm(seam, RECEIVING[seam])
    running.thaw()
    running.until_killed()
    plant.start()
    plant.until_done()
    plant.check()
