"""What is wrong with a settings file, in words: the line, the key, what, and the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """`line` counts from 1; 0 where no line says it. `severity` is `error` or `warning`."""

    line: int
    key: str
    what: str
    cure: str
    severity: str = "error"

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.key}: {self.what} - to cure it: {self.cure}"


class Invalid(Exception):
    """The settings cannot be published; `problems` holds every reason found, in the order of the lines."""

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(problems, key=lambda p: p.line))
        super().__init__("\n".join(f"{file}, {problem}" for problem in self.problems))


def suggestion(wrong: str, allowed: Iterable[str]) -> str:
    """`did you mean …?` where something is close, else what there is."""
    names = sorted(allowed)
    close = difflib.get_close_matches(wrong, names, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"one of: {', '.join(names)}" if names else "there is none yet"
