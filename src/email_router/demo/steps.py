"""A step of the story, what came of it, and the table that tells the whole."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

WIDTH = 100
"""Columns of the table where no terminal says how wide it is, and at most."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is done, what must be true afterwards, and how that is looked up: all in words for the reader."""

    title: str
    done: str
    must: str
    verified: str


@dataclass(frozen=True, slots=True)
class StepResult:
    """What happened: `wire` line by line, `decided` with its `why` in the router's own words.

    `fault` says what was not true, "" when the step was verified. `seconds` is how long it took.
    """

    step: Step
    wire: tuple[str, ...] = ()
    decided: str = ""
    why: tuple[str, ...] = ()
    fault: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.fault


def console_for(stream: TextIO, width: int | None = None) -> Console:
    """A console that writes colours to terminals only, and 100 columns where nobody says otherwise.

    `width` is for tests; without it a terminal tells its own.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a customer's name must not end the demo on a console without its letters
    console = Console(file=stream, highlight=False, width=width)
    if width is None and (not console.is_terminal or console.width > WIDTH + 20):
        console.width = WIDTH
    return console


def show(results: Sequence[StepResult], console: Console) -> None:
    """Print the table, what failed in full, and one line that sums up."""
    marks = _Marks.of(console)
    console.print(_table(results, marks))
    for number, result in enumerate(results, 1):
        if not result.ok:
            console.print(_failure(number, result, marks))
    verified = sum(result.ok for result in results)
    style = "bold green" if verified == len(results) else "bold red"
    seconds = sum(result.seconds for result in results)
    console.print(Text(f"{verified} of {len(results)} steps verified in {seconds:.1f} s", style))


@dataclass(frozen=True, slots=True)
class _Marks:
    """Signs that the console's encoding has letters for."""

    good: str
    bad: str
    point: str
    box: box.Box

    @staticmethod
    def of(console: Console) -> _Marks:
        try:
            "✓✗•─".encode(console.encoding)
        except UnicodeEncodeError:
            return _Marks("ok", "FAILED", "-", box.ASCII2)
        return _Marks("✓", "✗", "•", box.HORIZONTALS)


def _table(results: Sequence[StepResult], marks: _Marks) -> Table:
    padding = (0, 1) if marks.box is box.ASCII2 else (0, 1, 0, 0)
    table = Table(
        box=marks.box, show_lines=True, expand=True, padding=padding, header_style="bold", border_style="bright_black"
    )
    table.add_column("", justify="right", width=2)
    table.add_column("step", ratio=22, overflow="fold")
    table.add_column("on the wire", ratio=24, overflow="fold")
    table.add_column("what the router decided", ratio=34, overflow="fold")
    table.add_column("result", ratio=16, overflow="fold")
    for number, result in enumerate(results, 1):
        table.add_row(
            Text(str(number), "bright_black"),
            _stacked(Text(result.step.title, "bold"), Text(result.step.done, "bright_black")),
            _points(result.wire, marks),
            Group(Text(result.decided or "nothing", "bold cyan"), _points(result.why, marks)),
            _verdict(result, marks),
        )
    return table


def _points(lines: Sequence[str], marks: _Marks) -> Table:
    points = Table.grid(padding=(0, 1, 0, 0))
    points.add_column(style="bright_black")
    points.add_column(overflow="fold")
    for line in lines:
        points.add_row(marks.point, Text(line))
    return points


def _verdict(result: StepResult, marks: _Marks) -> Text:
    head = Text(
        f"{marks.good if result.ok else marks.bad} {result.seconds:.1f} s", "green" if result.ok else "bold red"
    )
    return _stacked(head, Text(result.step.must, "bright_black") if result.ok else Text(result.fault, "red"))


def _failure(number: int, result: StepResult, marks: _Marks) -> Text:
    return Text.assemble(
        (f"{marks.bad} {number}. {result.step.title}\n", "bold red"),
        ("  must be true  ", "bright_black"),
        f"{result.step.must}\n",
        ("  looked up by  ", "bright_black"),
        f"{result.step.verified}\n",
        ("  what was      ", "bright_black"),
        (result.fault, "red"),
    )


def _stacked(*lines: Text) -> Text:
    return Text("\n").join(lines)


def as_text(results: Sequence[StepResult]) -> str:
    """The same as plain text, for a log."""
    stream = io.StringIO()
    show(results, console_for(stream))
    return stream.getvalue()
