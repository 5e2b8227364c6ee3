"""The router is killed at every seam of sending: nobody gets a second copy, and only real doubt is called uncertain."""

from __future__ import annotations

import pytest

from tests.kill.plant import Plant
from tests.kill.seams import SENDING

pytestmark = [pytest.mark.kill, pytest.mark.servers, pytest.mark.database]


@pytest.mark.parametrize("seam", SENDING)
def test_killed_while_sending(plant: Plant, seam: str) -> None:
    nth, uncertain, arrives = SENDING[seam]
    running = plant.running()
    before = plant.check_sent()
    doubtful = plant.missing()
    running.freeze()
    plant.write(3)
    running.arm(seam, nth)
    running.thaw()
    running.until_killed()
    plant.start()
    plant.until_done()
    assert plant.check_sent() - before == {"sent": 3 - uncertain} | ({"uncertain": uncertain} if uncertain else {})
    if arrives:
        plant.until(lambda: plant.missing() == doubtful, "the arrival of what was handed over")
    else:
        assert len(plant.missing()) == len(doubtful) + uncertain
    plant.check_sent()
