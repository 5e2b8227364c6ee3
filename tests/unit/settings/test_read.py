"""What is wrong with a settings file is told with its line and the cure, all of it at once; nothing else is raised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_router.app import KINDS
from email_router.settings.problems import Invalid
from email_router.settings.read import read

GOOD = """\
[deployment.sales]
organization = "Acme"

[incoming.office]
kind = "imap"
host = "imap.example.com"

[outgoing.relay]
kind = "smtp"
host = "smtp.example.com"

[mailbox."help@example.com"]
kind = "queue"
incoming_profile = "office"
outgoing_profile = "relay"
"""


def told(text: str) -> list[tuple[int, str, str, str]]:
    try:
        read(text, KINDS)
    except Invalid as error:
        return [(p.line, p.key, p.what, p.cure) for p in error.problems]
    return []


def test_good_settings_have_no_problem() -> None:
    assert told(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ('kind = "imap"', "kind = imap", 5, "", "TOML"),
        ('kind = "imap"', 'kind = "imap', 5, "", "TOML"),
        ('kind = "imap"', 'kind = "exchange"', 5, "incoming.office.kind", "imap"),
        ('kind = "imap"', 'knid = "imap"', 4, "incoming.office.kind", "kind = one of: imap"),
        ('host = "imap.example.com"', "host = 7", 6, "incoming.office.host", "text"),
        ('host = "imap.example.com"\n', "", 4, "incoming.office", "host"),
        ("[incoming.office]", "[incomming.office]", 4, "incomming", "incoming"),
        ('incoming_profile = "office"', 'incoming_profile = "ofice"', 14, "incoming_profile", "office"),
        ('outgoing_profile = "relay"', 'outgoing_profile = "office"', 15, "outgoing_profile", "relay"),
        ('kind = "queue"', 'kind = "kueue"', 13, "kind", "queue"),
        ('[mailbox."help@example.com"]', '[mailbox."help"]', 12, "mailbox", "address"),
        ('organization = "Acme"', 'organization = "Acme"\nkeep_raw_days = -1', 3, "keep_raw_days", "0"),
        ('host = "smtp.example.com"', 'host = "smtp.example.com"\nport = 99999', 11, "port", "65535"),
        ('host = "smtp.example.com"', 'host = "smtp.example.com"\ntls = "yes"', 11, "tls", "starttls"),
        (
            'host = "smtp.example.com"',
            'host = "smtp.example.com"\nuncertain_policy = "guess"',
            11,
            "uncertain_policy",
            "ask",
        ),
        ('host = "smtp.example.com"', 'host = "smtp.example.com"\npassword = "hush"', 11, "password", "env:"),
    ],
)
def test_the_line_the_key_and_the_cure(old: str, new: str, line: int, key: str, words: str) -> None:
    assert old in GOOD
    found = told(GOOD.replace(old, new, 1))
    matching = [p for p in found if p[0] == line]
    assert matching, found
    said = " ".join(matching[0][1:])
    assert key in matching[0][1], found
    assert words in said, found
    assert all(cure for *_, cure in found)
    assert "hush" not in said


def test_everything_that_is_wrong_is_told_at_once() -> None:
    wrong = GOOD.replace('"imap"', '"x"').replace('"smtp"', '"y"').replace('"queue"', '"z"')
    assert [line for line, *_ in told(wrong)] == [5, 9, 13]


lines = st.sampled_from(
    [*GOOD.splitlines(), "", "[", "]", "=", '"', "[[mailbox]]", "[mailbox]", "x = {}", "port = 1e9", "a.b = 1"]
)


@given(st.one_of(st.text(max_size=200), st.lists(lines, max_size=25).map("\n".join)))
def test_whatever_is_written_only_invalid_is_raised(text: str) -> None:
    for line, key, what, cure in told(text):
        assert line >= 0 and what and cure, key


@given(
    st.recursive(st.one_of(st.integers(), st.booleans(), st.floats(), st.text(max_size=5)), st.lists, max_leaves=4),
    st.sampled_from(["host", "port", "kind", "tls", "timeout", "folder", "poll_seconds", "username", "password"]),
)
def test_whatever_a_value_is_only_invalid_is_raised(value: object, key: str) -> None:
    written = str(value).lower() if isinstance(value, bool) else repr(value) if not isinstance(value, str) else '"x"'
    told(
        GOOD.replace(
            'host = "imap.example.com"',
            f'host = "imap.example.com"\n{key} = {written}' if key != "host" else f"host = {written}",
        )
    )
