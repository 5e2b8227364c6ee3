"""What was measured: rates side by side, and figures that a program can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

OURS = "email-router"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one program: so many messages in so many seconds."""

    messages: int
    seconds: float
    note: str = ""

    @property
    def rate(self) -> float:
        return self.messages / self.seconds


@dataclass(slots=True)
class Race:
    """Programs that did the same work in turns. `void` says why our own figure does not count."""

    title: str
    runs: dict[str, list[Run]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    void: list[str] = field(default_factory=list)

    def add(self, name: str, run: Run) -> None:
        self.runs.setdefault(name, []).append(run)

    def rate(self, name: str) -> float:
        """Messages a second, the median of all runs."""
        return median(run.rate for run in self.runs[name])

    def ratio(self, peer: str) -> str:
        """Our rate divided by the peer's in the same turn, the median of the turns: the machine changes with time.

        VOID when ours does not count, SKIPPED without the peer.
        """
        if self.void:
            return "VOID"
        if peer not in self.runs or OURS not in self.runs:
            return "SKIPPED"
        turns = zip(self.runs[OURS], self.runs[peer], strict=False)  # slow peers run in the first turn only
        return f"{median(ours.rate / theirs.rate for ours, theirs in turns):.2f}"

    def rows(self) -> list[str]:
        """The table, one line per program."""
        lines = [self.title]
        for name, runs in self.runs.items():
            all_rates = ", ".join(f"{run.rate:,.0f}" for run in runs)
            notes = "; ".join(dict.fromkeys(run.note for run in runs if run.note))
            line = f"  {name:<16}{self.rate(name):>9,.0f} messages/s   runs: {all_rates}"
            lines.append(f"{line}   ({notes})" if notes else line)
        lines += [f"  {name:<16}  skipped: {why}" for name, why in self.skipped.items()]
        lines += [f"  VOID: {problem}" for problem in self.void[:10]]
        return lines


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one benchmark brought: a table for people, lines `name value` for programs, and whether it counts."""

    rows: Sequence[str]
    figures: dict[str, str]
    void: bool = False


def of_race(race: Race, prefix: str, peers: Sequence[tuple[str, str]]) -> Outcome:
    """The figures `prefix_vs_name` of a race; `peers` are (name in the figure, name in the race)."""
    figures = {f"{prefix}_vs_{short}": race.ratio(peer) for short, peer in peers}
    return Outcome(race.rows(), figures, bool(race.void))
