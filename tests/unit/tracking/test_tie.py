"""A report is believed when it is about an email of ours and somebody who got it, and not too late."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from email_router.model.report import Action, RecipientReport, Report, ReportKind, SentEmail
from email_router.tracking.tie import tie
from tests.unit.tracking.people import NOW, new_id

OURS = SentEmail(
    new_id(), new_id(), "1@acme.test", "abc", NOW - timedelta(days=1), ("Bob@customer.test", "ann@customer.test")
)
FAILED = RecipientReport("bob@customer.test", Action.FAILED, status="5.1.1", said="No such user")
REPORT = Report(ReportKind.DELIVERY, "", True, returned=("1@acme.test",), recipients=(FAILED,))


def test_by_the_message_id_that_comes_back() -> None:
    tied = tie(REPORT, [OURS], NOW)
    assert (tied.email, tied.why) == (OURS, "it brings back <1@acme.test>")
    assert tied.recipients == (replace(FAILED, address="Bob@customer.test"),)


def test_by_the_envelope_id_that_we_gave() -> None:
    tied = tie(replace(REPORT, returned=(), envelope_id="abc"), [OURS], NOW)
    assert (tied.email, tied.why) == (OURS, "it carries the envelope id abc")


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (replace(REPORT, returned=("2@acme.test",)), "it brings back no email that was sent from here"),
        (replace(REPORT, returned=(), envelope_id="x"), "it brings back no email that was sent from here"),
    ],
)
def test_a_report_about_somebody_elses_mail_is_tied_to_nothing(report: Report, why: str) -> None:
    tied = tie(report, [OURS], NOW)
    assert (tied.email, tied.recipients, tied.why) == (None, (), why)


def test_after_fifteen_days_it_is_too_late() -> None:
    assert tie(REPORT, [replace(OURS, handed_over=NOW - timedelta(days=15))], NOW).email is not None
    assert tie(REPORT, [replace(OURS, handed_over=NOW - timedelta(days=15, seconds=1))], NOW).email is None


def test_who_did_not_get_the_email_is_not_marked() -> None:
    tied = tie(replace(REPORT, recipients=(replace(FAILED, address="carl@elsewhere.test"),)), [OURS], NOW)
    assert tied.email == OURS
    assert tied.recipients == ()
    assert (
        tied.why
        == "it brings back <1@acme.test>, but carl@elsewhere.test is no recipient of that email: nobody is marked"
    )


def test_mail_that_was_forwarded_on_is_about_whom_we_wrote_to() -> None:
    moved = replace(FAILED, address="bob@elsewhere.test", original="bob@Customer.test")
    assert tie(replace(REPORT, recipients=(moved,)), [OURS], NOW).recipients[0].address == "Bob@customer.test"
