"""Every command and every option says what it is for."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from cyclopts import App

from email_router import __version__
from email_router.cli import app, run


def commands(here: App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, App]]:
    for name, command in here.resolved_commands().items():
        if name.startswith("-"):
            continue
        found = command if isinstance(command, App) else App()
        yield " ".join((*path, name)), found
        yield from commands(found, (*path, name))


ALL = dict(commands(app))


def test_all_commands_are_found() -> None:
    assert {"run", "publish", "secret set", "outgoing settle", "crm send"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Usage: email-router {name}")
    assert ALL[name].help.strip().partition("\n")[0].endswith((".", "?"))


def test_every_argument_and_option_says_what_it_is_for() -> None:
    listed = [line for line in app.generate_docs().splitlines() if line.startswith("* `")]
    assert len(listed) > 150
    assert [line for line in listed if not re.search(r"`: \w|\]\(#.*\): ", line)] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("wrong", [["frobnicate"], ["publish"], ["status", "--jsn"], ["decisions", "--limit", "x"]])
def test_wrong_use_is_told_without_a_traceback(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(wrong) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert "Error" in said.err
