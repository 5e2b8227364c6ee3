"""The table of the story: on a terminal, in a log, and where the console has few letters."""

from __future__ import annotations

import io
import re

from rich.console import Console

from email_router.demo.steps import Step, StepResult, as_text, console_for, show

GOOD = StepResult(
    Step("First mail", "Carla writes to support@", "one activity on one new case", "read from the CRM"),
    ("SMTP 250 delivered", "IMAP UID 1"),
    "filed: AcceptAll",
    ("the queue takes all mail",),
    seconds=0.84,
)
BAD = StepResult(
    Step("Poison", "Daniel writes something", "one is undeliverable", "the list"),
    fault="it was filed [twice]",
    seconds=1.0,
)


def test_a_log_gets_plain_text_of_a_hundred_columns() -> None:
    text = as_text([GOOD, BAD])
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 100
    lines = text.splitlines()
    first = next(line for line in lines if "First mail" in line)
    assert first.split() == [
        "1",
        "First",
        "mail",
        "•",
        "SMTP",
        "250",
        "delivered",
        "filed:",
        "AcceptAll",
        "✓",
        "0.8",
        "s",
    ]
    assert lines[-1] == "1 of 2 steps verified in 1.8 s"


def test_nothing_is_cut_off() -> None:
    address = "carla.mendes@a-rather-long-name.of-a-bakery.fabrikam.example"
    text = as_text([StepResult(Step("", "", "", ""), why=(address,))])
    assert address in re.sub(r"\s", "", text)


def test_a_failed_step_is_told_in_full_below_the_table() -> None:
    text = as_text([GOOD, BAD])
    assert text.splitlines()[-5:] == [
        "✗ 2. Poison",
        "  must be true  one is undeliverable",
        "  looked up by  the list",
        "  what was      it was filed [twice]",
        "1 of 2 steps verified in 1.8 s",
    ]


def test_all_verified() -> None:
    assert as_text([GOOD, GOOD]).splitlines()[-1] == "2 of 2 steps verified in 1.7 s"


def test_a_terminal_gets_colours() -> None:
    stream = io.StringIO()
    show([GOOD], Console(file=stream, force_terminal=True, width=100, color_system="standard"))
    assert "\x1b[32m✓ 0.8 s" in stream.getvalue()


def test_a_console_with_few_letters_still_shows_everything() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    show([GOOD, BAD, StepResult(Step("180 °C", "", "", ""))], console_for(stream))
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert "ok 0.8 s" in text
    assert "FAILED 1.0 s" in text
    assert "180 ?C" in text
    assert "- SMTP 250 delivered" in text
