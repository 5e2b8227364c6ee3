"""How long to wait before the next try."""

from __future__ import annotations

import random


def delay(attempt: int, *, first: float = 1.0, most: float = 300.0, spread: float = 0.2) -> float:
    """Seconds before try number `attempt` (from 1): doubling from `first`, never above `most`, varied by `spread`."""
    seconds = min(most, first * 2.0 ** min(attempt - 1, 30))
    return seconds * random.uniform(1 - spread, 1 + spread)  # noqa: S311 - spreads load, hides nothing
