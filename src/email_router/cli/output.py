"""How the commands speak: tables for people, one JSON object per line for programs, errors with their cure."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from email_router.model.errors import RouterError, Transient
from email_router.observe.maillog import STEERING
from email_router.settings.problems import Invalid

OK, FAILED, USAGE, NEEDS_OPERATOR, TEMPORARY = 0, 1, 2, 3, 75
"""Exit codes: done; something is not as it should be; wrong use; somebody must act; try again later (EX_TEMPFAIL)."""

PIPED = 200
"""Columns where no terminal says how wide it is."""


class Voice(Console):
    """A console whose reader may go away (`email-router decisions | head`): then the command ends, quietly."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


out = Voice(highlight=False, width=None if sys.stdout.isatty() else PIPED)
err = Voice(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPED)


def forgiving() -> None:
    """A name that the terminal has no letters for must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def hang_up() -> None:
    """Nobody reads any more: what is left in the buffers goes nowhere, so that the end is quiet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


def say(line: Text | str) -> None:
    """One line for a person. It is never broken in two, so that a program that reads it finds all of it."""
    out.print(_printable(line), soft_wrap=True)


def warn(line: Text | str) -> None:
    """The same on standard error."""
    err.print(_printable(line), soft_wrap=True)


def counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def print_json(value: Any) -> None:
    """One object on one line: valid whatever stands in it, and nothing in it steers a terminal."""
    written = json.dumps(value, default=_plain, ensure_ascii=not _speaks_unicode())
    sys.stdout.write(_NOT_IN_JSON.sub(_escape, written) + "\n")


def _speaks_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _escape(found: re.Match[str]) -> str:
    """All of these can only stand within a text. A lone surrogate is no letter, and some readers refuse it."""
    letter = found.group()
    return "\N{REPLACEMENT CHARACTER}" if "\ud800" <= letter <= "\udfff" else f"\\u{ord(letter):04x}"


_NOT_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Rows as a table of `columns`, or every field of each as JSON.

    Where the terminal is too narrow for a table that can be read, each row is a paragraph instead. In a pipe a row is
    one line, however long, so that `grep` finds all of it.
    """
    found = list(rows)
    if as_json:
        for row in found:
            print_json(dict(row))
        return
    if not found:
        say(empty)
        return
    cells = [[_printable(_cell(column, row.get(column))) for column in columns] for row in found]
    titles = [Text(_title(column)) for column in columns]
    lengths = [max(text.cell_len for text in column) for column in zip(titles, *cells, strict=True)]
    if not out.is_terminal:
        for line in (titles, *cells):
            say("  ".join(_padded(text, n) for text, n in zip(line, lengths, strict=True)).rstrip())
    elif _least(columns, lengths) <= out.width:
        _print_table(cells, columns)
    else:
        for number, texts in enumerate(cells):
            if number:
                out.print()
            _print_pairs((name, text) for name, text in zip(columns, texts, strict=True) if text.plain)


FOLDED = frozenset(
    {"why", "changes", "comment", "error", "last_error", "cause", "cure", "subject", "name", "recipients"}
)
"""Columns that may be folded, to no less than `NARROW` letters; ids, times and addresses are kept whole."""
NARROW = 20


def _least(columns: Sequence[str], lengths: Sequence[int]) -> int:
    """How wide a terminal must be for a table that can be read."""
    least = [min(n, NARROW) if column in FOLDED else n for column, n in zip(columns, lengths, strict=True)]
    return sum(least) + 2 * (len(least) - 1)


def _padded(text: Text, length: int) -> str:
    return text.plain.replace("\n", " ") + " " * (length - text.cell_len)


def _print_table(cells: Sequence[Sequence[Text]], columns: Sequence[str]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(_title(column), overflow="fold", no_wrap=column not in FOLDED)
    for row in cells:
        table.add_row(*row)
    out.print(table)


def _title(column: str) -> str:
    return column.removesuffix("_seconds").replace("_", " ")


def _cell(column: str, value: Any) -> str:
    return f"{value:.1f} s" if column.endswith("_seconds") and value is not None else _shown(value)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Name and value, one per line."""
    _print_pairs([(name, _printable(_shown(value))) for name, value in facts.items()])


def _print_pairs(pairs: Iterable[tuple[str, Text]]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(_printable(_title(name)), value)
    out.print(table)


def report(error: BaseException) -> int:
    """Say what happened, where, and how to cure it; returns the exit code."""
    if isinstance(error, Invalid):
        for problem in error.problems:
            line = f"{error.file}:{problem.line}" if problem.line else error.file
            warn(Text.assemble((line, "bold"), f"  {problem.key}: ", (problem.what, "red")))
            warn(Text(f"    to cure it: {problem.cure}"))
        warn(f"{counted(len(error.problems), 'problem')}; nothing was changed.")
        return NEEDS_OPERATOR
    if isinstance(error, RouterError):
        warn(Text.assemble(("Error: ", "bold red"), error.what))
        for name, value in (("where", error.where), ("because", error.said), ("to cure it", error.cure)):
            if value:
                warn(Text(f"  {name}: {value}"))
        return TEMPORARY if isinstance(error, Transient) else NEEDS_OPERATOR
    warn(Text.assemble(("Error: ", "bold red"), f"{error}" or type(error).__name__))
    return FAILED


def _printable(line: Text | str) -> Text:
    """Without what steers a terminal: subjects and bodies come from strangers."""
    text = Text(line) if isinstance(line, str) else line.copy()
    text.plain = text.plain.translate(_STEERING)  # one for one, so that styles stay where they are
    return text


_STEERING = {n: "\N{REPLACEMENT CHARACTER}" for n in STEERING if chr(n) not in "\n\t"}


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return "" if value is None else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)
