from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from email_router.model.evidence import Facts
from email_router.model.verdict import Correlation
from email_router.tracking.correlate import correlate
from tests.unit.tracking.people import NOW, SETTINGS, evidence, sent

HELP = ["help@acme.test"]
A, B, C = (sent(f"{name}@acme.test") for name in "abc")
KNOWN = {activity.message_id: activity for activity in (A, B, C)}
TOKEN = "CRM:0001001"


def test_in_reply_to_comes_before_references_and_those_from_the_newest() -> None:
    facts = Facts(by_message_id=KNOWN)
    message = evidence(HELP, in_reply_to=("b@acme.test",), references=("c@acme.test", "a@acme.test"))
    assert correlate(message, facts, SETTINGS).parent == B
    found = correlate(replace(message, in_reply_to=()), facts, SETTINGS)
    assert (found.parent, found.method) == (A, Correlation.IN_REPLY_TO)
    assert found.why == "it answers <a@acme.test>, named in References"


def test_an_unknown_parent_is_passed_over() -> None:
    message = evidence(HELP, in_reply_to=("gone@acme.test",), references=("a@acme.test", "gone@acme.test"))
    assert correlate(message, Facts(by_message_id=KNOWN), SETTINGS).parent == A


def test_a_token_finds_the_parent_where_the_headers_find_none() -> None:
    found = correlate(evidence(HELP, tokens=(TOKEN,)), Facts(by_token={TOKEN: C}), SETTINGS)
    assert (found.parent, found.method) == (C, Correlation.TRACKING_TOKEN)
    assert found.why == "its subject carries the tracking token CRM:0001001"


def test_headers_come_before_the_token_which_is_told_as_the_loser() -> None:
    message = evidence(HELP, in_reply_to=("a@acme.test",), tokens=(TOKEN,))
    found = correlate(message, Facts(by_message_id=KNOWN, by_token={TOKEN: C}), SETTINGS)
    assert (found.parent, found.method) == (A, Correlation.IN_REPLY_TO)
    assert found.losing == ("its subject carries the tracking token CRM:0001001, but in-reply-to comes first",)
    agreeing = correlate(message, Facts(by_message_id=KNOWN, by_token={TOKEN: A}), SETTINGS)
    assert agreeing.losing == ()


def test_the_first_token_that_is_ours_wins() -> None:
    message = evidence(HELP, tokens=("CRM:0009999", TOKEN))
    assert correlate(message, Facts(by_token={TOKEN: C}), SETTINGS).parent == C


@pytest.mark.parametrize(
    ("age", "matches"),
    [
        (timedelta(0), True),
        (timedelta(days=365), True),
        (timedelta(days=366), False),
        (timedelta(hours=-23), True),
        (timedelta(days=-2), False),
    ],
)
def test_a_token_of_long_ago_or_from_the_future_is_a_wrapped_counter(age: timedelta, matches: bool) -> None:
    parent = replace(C, created=NOW - age)
    found = correlate(evidence(HELP, tokens=(TOKEN,)), Facts(by_token={TOKEN: parent}), SETTINGS)
    assert (found.parent is not None) is matches
    if not matches:
        assert found.why == "the token CRM:0001001 belongs to no recent email of this organization"


def test_each_method_can_be_switched_off() -> None:
    message = evidence(HELP, in_reply_to=("a@acme.test",), tokens=(TOKEN,))
    facts = Facts(by_message_id=KNOWN, by_token={TOKEN: C})
    assert correlate(message, facts, replace(SETTINGS, use_headers=False)).parent == C
    assert correlate(message, facts, replace(SETTINGS, use_tokens=False)).parent == A
    nothing = correlate(message, facts, replace(SETTINGS, use_headers=False, use_tokens=False))
    assert (nothing.parent, nothing.method) == (None, Correlation.NONE)


def test_the_words_for_nothing() -> None:
    assert correlate(evidence(HELP), Facts(), SETTINGS).why == "it names no earlier message"
    message = evidence(HELP, references=("a@acme.test", "b@acme.test"), tokens=(TOKEN,))
    assert correlate(message, Facts(), SETTINGS).why == (
        "<b@acme.test> is not known here; the token CRM:0001001 belongs to no recent email of this organization"
    )
