from __future__ import annotations

from dataclasses import replace

import pytest

from email_router.tracking import token
from tests.unit.tracking.people import SETTINGS


@pytest.mark.parametrize(
    ("user", "counter", "changes", "issued"),
    [
        (1, 1, {}, "CRM:0001001"),
        (1, 999, {}, "CRM:0001999"),
        (1, 1000, {}, "CRM:0001000"),
        (1, 2001, {}, "CRM:0001001"),
        (1, 1, {"token_base": 500}, "CRM:0501001"),
        (1234, 7, {}, "CRM:01234007"),
        (1, 1, {"token_prefix": "ACME-", "token_user_digits": 1, "token_counter_digits": 9}, "ACME-01000000001"),
    ],
)
def test_a_token_is_prefix_designator_user_and_counter(
    user: int, counter: int, changes: dict[str, object], issued: str
) -> None:
    assert token.issue(replace(SETTINGS, **changes), user, counter) == issued  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("subject", "found"),
    [
        ("Hello CRM:0001001", ["CRM:0001001"]),
        ("AW: Hello CRM:0001001 (urgent)", ["CRM:0001001"]),
        ("CRM:0001001", ["CRM:0001001"]),
        ("Hello [CRM:0001001]", ["CRM:0001001"]),
        ("CRM:0001002 and CRM:0001001 and CRM:0001002", ["CRM:0001002", "CRM:0001001"]),
        ("Hello CRM:12", []),
        ("Hello CRM:" + "1" * 22, []),
        ("Hello CRM: 0001001", []),
        ("Hello XCRM:0001001", []),
        ("Hello crm:0001001", []),
        ("Hello Dynamics 365:0001001", []),
        ("", []),
    ],
)
def test_tokens_are_found_anywhere_in_the_subject(subject: str, found: list[str]) -> None:
    assert list(token.find(subject, SETTINGS)) == found


def test_past_prefixes_are_still_read_and_foreign_ones_never() -> None:
    settings = replace(SETTINGS, token_prefix="ACME:", token_prefix_history=("CRM:", "ACME:X"))
    subject = "CRM:0001001 ACME:0001002 ACME:X0001003 OTHER:0001004"
    assert token.find(subject, settings) == ("CRM:0001001", "ACME:0001002", "ACME:X0001003")


def test_a_prefix_is_text_and_no_pattern() -> None:
    settings = replace(SETTINGS, token_prefix="(.*")
    assert token.find("Hello (.*0001001", settings) == ("(.*0001001",)
    assert token.find("Hello CRM:0001001", settings) == ()


def test_a_hostile_subject_takes_no_time() -> None:
    assert token.find("CRM:" * 100_000, SETTINGS) == ()
    assert token.find("CRM:" + "0" * 1_000_000, SETTINGS) == ()


@pytest.mark.parametrize(
    ("subject", "maximum", "stamped"),
    [
        ("Hello", 255, "Hello CRM:0001001"),
        ("", 255, "CRM:0001001"),
        ("x" * 300, 20, "x" * 8 + " CRM:0001001"),
        ("ab cd", 14, "ab CRM:0001001"),
        ("Hello", 11, "CRM:0001001"),
        ("Hello", 10, "Hello"),
        ("Hello world", 5, "Hello"),
    ],
)
def test_the_subject_is_cut_so_that_the_token_still_fits(subject: str, maximum: int, stamped: str) -> None:
    assert token.append_token(subject, "CRM:0001001", maximum) == stamped
    assert len(stamped) <= maximum
