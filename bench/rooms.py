"""Where the time goes, by rooms of the house: a sampler that asks a thousand times a second what is being done.

A sample belongs to the innermost frame of our own code on the stack. While the process waits, it belongs to what the
flow waits for: the innermost of our frames in the task that was there when the sampling began.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from types import FrameType
from typing import Any

INTERVAL = 0.001

ROOMS = (
    ("mime/", "parse"),
    ("tracking/", "judge"),
    ("crm/embedded/records", "judge: look facts up"),
    ("crm/embedded/", "file"),
    ("store/", "store: receipts, decisions, ledger"),
    ("mail/", "mail server"),
    ("net/connection", "mail server"),
    ("net/spool", "mail server"),
    ("observe/", "log"),
    ("incoming/", "flow"),
    ("outgoing/", "flow"),
)
"""Beginnings of modules and the room they are counted under, the first that fits."""
LIBRARIES = (("/sqlalchemy/", "database library"), ("/psycopg/", "database library"), ("/asyncio/", "event loop"))


class Sampler:
    """Counts samples of the task that starts it. Only in the main thread."""

    def __init__(self) -> None:
        self._busy: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._task: asyncio.Task[Any] | None = None

    def start(self) -> None:
        self._task = asyncio.current_task()
        signal.signal(signal.SIGALRM, self._sample)
        signal.setitimer(signal.ITIMER_REAL, INTERVAL, INTERVAL)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename.endswith("selectors.py"):
            self._waiting[self._awaited()] += 1
        else:
            self._busy[_room(frame)] += 1

    def _awaited(self) -> str:
        """The room of the innermost of our coroutines that the flow waits in."""
        found = "other"
        waiting: Any = self._task.get_coro() if self._task is not None else None
        while waiting is not None:
            code = getattr(waiting, "cr_code", None) or getattr(waiting, "ag_code", None)
            if code is not None:
                found = _named(code.co_filename) or found
            waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
        return found

    def rows(self) -> list[str]:
        """Percent of all the time, busy and waiting, the largest first."""
        everything = max(1, self._busy.total() + self._waiting.total())
        both = self._busy + self._waiting
        lines = [f"  {'':<38}{'busy':>8}{'waiting':>9}"]
        for room, _ in both.most_common():
            busy, waiting = (100 * c[room] / everything for c in (self._busy, self._waiting))
            lines.append(f"  {room:<38}{busy:>7.1f}%{waiting:>8.1f}%")
        return lines


def _room(frame: FrameType | None) -> str:
    library = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if room := _named(name):
            return room
        library = library or next((words for part, words in LIBRARIES if part in name), "")
        frame = frame.f_back
    return library or "other"


def _named(filename: str) -> str:
    _, found, module = filename.partition("/email_router/")
    if not found:
        return ""
    return next((room for start, room in ROOMS if module.startswith(start)), "")
