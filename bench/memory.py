"""How much memory processes have: of one, and of a tree of them while something happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

INTERVAL = 0.01


def proportional(pid: int) -> int:
    """PSS in bytes: what a process shares with others (PostgreSQL's buffers) counts by its share. 0 when it is gone."""
    return _rollup(pid, "Pss:")


def resident(pid: int) -> int:
    """RSS in bytes; 0 when it is gone."""
    return _rollup(pid, "Rss:")


def highest(pid: int) -> int:
    """The highest RSS that a process ever had, in bytes, as the kernel remembers it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def tree(root: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


class Peak:
    """The highest sum of PSS seen over a tree of processes, in bytes."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def peak_of(root: int) -> Iterator[Peak]:
    """Watch a tree while the block runs: looked at a hundred times a second, its members each half second."""
    peak = Peak()
    done = threading.Event()

    def watch() -> None:
        members: list[int] = []
        looked = 0.0
        while not done.wait(INTERVAL):
            if time.monotonic() - looked > 0.5:
                members, looked = tree(root), time.monotonic()
            peak.bytes = max(peak.bytes, sum(proportional(pid) for pid in members))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100  # user and system, in ticks of 10 ms


def _rollup(pid: int, name: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
