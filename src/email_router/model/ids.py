"""Identifiers that sort by time."""

from __future__ import annotations

import os
import time
from datetime import datetime
from uuid import UUID


def new_id() -> UUID:
    """A version 7 UUID (RFC 9562 section 5.7): rows made together lie together in an index, and sort as they were made.

    The twelve bits after the milliseconds hold its fraction (section 6.2, method 3): 244 ns, less than one call takes.
    """
    millis, nanos = divmod(time.time_ns(), 1_000_000)
    fraction = (nanos << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") >> 2
    return UUID(int=millis << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)


def first_id(moment: datetime) -> UUID:
    """Every id made before `moment` is less than this one, and none made after it (to the millisecond)."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
