"""What the commands print can be read by people and by programs, whatever strangers wrote."""

from __future__ import annotations

import pytest

from email_router.cli import output
from email_router.model.errors import NeedsOperator, Transient
from email_router.settings.problems import Invalid, Problem


def test_a_line_is_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("word " * 100)
    assert capsys.readouterr().out == "word " * 100 + "\n"


def test_what_steers_a_terminal_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;title\x07\x9b31m[bold]a[/bold]\ttab"
    output.say(hostile)
    output.print_rows([{"subject": hostile}], ["subject"], as_json=False, empty="")
    output.print_facts({"subject": hostile})
    said = capsys.readouterr().out
    assert not {c for c in said if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)} - {"\t"}
    assert said.count("\N{REPLACEMENT CHARACTER}") >= 3
    assert "[bold]a[/bold]" in said  # words of strangers are no markup


def test_numbers_and_their_nouns() -> None:
    assert output.counted(1, "message") == "1 message"
    assert output.counted(0, "message") == "0 messages"
    assert output.counted(1200, "mailbox", "mailboxes") == "1,200 mailboxes"


def test_an_error_says_what_where_and_the_cure(capsys: pytest.CaptureFixture[str]) -> None:
    error = NeedsOperator("The door is shut", where="/house", said="go away", cure="knock")
    assert output.report(error) == 3
    assert capsys.readouterr().err == (
        "Error: The door is shut\n  where: /house\n  the other side said: go away\n  to cure it: knock\n"
    )
    assert output.report(Transient("The door is shut")) == 75
    assert output.report(ValueError("no number")) == 1


def test_problems_of_settings_name_file_line_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [Problem(7, "b", "is wrong", "mend it"), Problem(3, "a", "is wrong too", "mend it too")]
    assert output.report(Invalid("settings.toml", problems)) == 3
    assert capsys.readouterr().err == (
        "settings.toml:3  a: is wrong too\n    to cure it: mend it too\n"
        "settings.toml:7  b: is wrong\n    to cure it: mend it\n"
        "2 problems; nothing was changed.\n"
    )
