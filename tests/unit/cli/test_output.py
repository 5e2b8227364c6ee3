"""What is written: for people without anything that steers a terminal, for programs as valid JSON."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from rich.console import Console

from email_router.cli import output
from email_router.model.errors import NeedsOperator, Permanent, Transient
from email_router.model.mailbox import FilterOption
from email_router.model.outgoing import SendState
from email_router.settings.problems import Invalid, Problem

HOSTILE = "a\x1b[31mb\x9b2Jc\x07d\re\u202ef\u2028g\x7fh\ud800i\nj"
STEERS = set("\x1b\x9b\x07\r\u202e\u2028\x7f")


def test_json_is_one_line_whatever_stands_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"subject": HOSTILE, "name": "Jürgen 🙂", HOSTILE: 1})
    said = capsys.readouterr().out
    assert not STEERS & set(said)
    assert said.count("\n") == 1
    found = json.loads(said)
    readable = HOSTILE.replace("\ud800", "\ufffd")
    assert found == {"subject": readable, "name": "Jürgen 🙂", readable: 1}
    assert "Jürgen 🙂" in said


def test_json_speaks_ascii_where_the_output_is_no_utf_8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="latin-1") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        output.print_json({"name": "Jürgen 🙂"})
    assert (tmp_path / "out").read_text("ascii") == '{"name": "J\\u00fcrgen \\ud83d\\ude42"}\n'


def test_json_of_every_kind_of_value(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime(2026, 11, 23, 10, tzinfo=UTC)
    output.print_json(
        {
            "id": UUID(int=7),
            "at": moment,
            "bytes": b"\x00\xff",
            "view": memoryview(b"\x01"),
            "path": Path("/x"),
            "number": FilterOption.NONE,
            "word": SendState.SENT,
            "problem": Problem(1, "k", "w", "c"),
            "none": None,
        }
    )
    assert json.loads(capsys.readouterr().out) == {
        "id": "00000000-0000-0000-0000-000000000007",
        "at": "2026-11-23T10:00:00+00:00",
        "bytes": "00ff",
        "view": "01",
        "path": "/x",
        "number": 4,
        "word": "sent",
        "problem": {"line": 1, "key": "k", "what": "w", "cure": "c", "severity": "error"},
        "none": None,
    }


def test_nothing_that_people_read_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"subject": HOSTILE, "list": [HOSTILE, HOSTILE]}]
    output.print_rows(rows, ("subject", "list"), as_json=False, empty="")
    output.print_facts({"subject": HOSTILE, "[bold]name": "[red]no markup[/red]"})
    output.say(HOSTILE)
    output.warn(HOSTILE)
    output.report(NeedsOperator(HOSTILE, where=HOSTILE, cure=HOSTILE, said=HOSTILE))
    output.report(Invalid(HOSTILE, [Problem(3, HOSTILE, HOSTILE, HOSTILE)]))
    output.report(ValueError(HOSTILE))
    said = capsys.readouterr()
    assert not STEERS & set(said.out + said.err)
    assert "a\ufffd[31mb\ufffd2Jc" in said.out
    assert "[red]no markup[/red]" in said.out


def test_a_line_is_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("word " * 500)
    assert capsys.readouterr().out.count("\n") == 1


ROWS = [
    {"id": "7" * 36, "sender": "anna@example.com", "why": "one two three four five six", "lag_seconds": 1.25},
    {"id": "8" * 36, "sender": "bob@example.com", "why": "", "lag_seconds": None},
]
COLUMNS = ("id", "sender", "lag_seconds", "why")


def shown(monkeypatch: pytest.MonkeyPatch, width: int, *, terminal: bool = True) -> list[str]:
    """The lines of `ROWS` on a terminal of that width, without blanks at the end."""
    stream = io.StringIO()
    monkeypatch.setattr(output, "out", Console(file=stream, width=width, force_terminal=terminal, color_system=None))
    output.print_rows(ROWS, COLUMNS, as_json=False, empty="")
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_rows_are_a_table_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, 100) == [
        f"{'id':36}  sender            lag    why",
        f"{'7' * 36}  anna@example.com  1.2 s  one two three four five six",
        f"{'8' * 36}  bob@example.com",
    ]


def test_words_are_folded_and_ids_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, 84)[1:3] == [
        f"{'7' * 36}  anna@example.com  1.2 s  one two three four",
        f"{'':63}five six",
    ]


def test_rows_are_paragraphs_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, 80) == [
        f"id      {'7' * 36}",
        "sender  anna@example.com",
        "lag     1.2 s",
        "why     one two three four five six",
        "",
        f"id      {'8' * 36}",
        "sender  bob@example.com",
    ]


def test_in_a_pipe_a_row_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, 30, terminal=False) == shown(monkeypatch, 100)


def test_no_colours_where_nobody_sees_them(capsys: pytest.CaptureFixture[str]) -> None:
    output.report(NeedsOperator("what", where="where", cure="cure", said="said"))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "Error: what\n  where: where\n  because: said\n  to cure it: cure\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NeedsOperator("x"), 3),
        (Permanent("x"), 3),
        (Transient("x"), 75),
        (Invalid("f", [Problem(1, "k", "w", "c")]), 3),
        (ValueError("x"), 1),
        (ValueError(), 1),
    ],
)
def test_exit_codes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert output.report(error) == code
    assert capsys.readouterr().err.strip()


def test_the_places_of_invalid_settings(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [
        Problem(0, "file", "it is empty", "write it"),
        Problem(12, "a.b", "no such setting", "did you mean 'c'?"),
    ]
    output.report(Invalid("s.toml", problems))
    assert capsys.readouterr().err.splitlines() == [
        "s.toml  file: it is empty",
        "    to cure it: write it",
        "s.toml:12  a.b: no such setting",
        "    to cure it: did you mean 'c'?",
        "2 problems; nothing was changed.",
    ]
