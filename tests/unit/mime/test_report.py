"""What a report says: formal ones by their parts, the others by two signs; who writes about bounces is a person."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_router.mime.contents import BytesContent
from email_router.mime.parse import parse
from email_router.mime.report import read
from email_router.model.report import Action, Failure, Report, ReportKind, failure_of

CORPUS = Path(__file__).resolve().parents[4] / "shared" / "corpus"


def report(raw: str) -> Report | None:
    return read(parse(BytesContent(raw.encode())))


def found(raw: str) -> Report:
    made = report(raw)
    assert made is not None
    return made


def formal(
    status: str, *, kind: str = "delivery-status", head: str = "", returned: str = "Message-ID: <1@acme.test>"
) -> str:
    return (
        f"From: MAILER-DAEMON@mx.test\nTo: help@acme.test\n{head}"
        f"Content-Type: multipart/report; report-type={kind}; boundary=B\n\n"
        "--B\n\nSorry.\n"
        f"--B\nContent-Type: message/{kind}\n\n{status}\n"
        f"--B\nContent-Type: text/rfc822-headers\n\n{returned}\nSubject: Hello\n--B--\n"
    )


BOUNCE = formal(
    "Reporting-MTA: dns; mx.test\nOriginal-Envelope-Id: 0123+3Dabc\n\n"
    "Final-Recipient: rfc822; bob@customer.test\nAction: failed\nStatus: 5.1.1\n"
    "Remote-MTA: dns; mail.customer.test\nDiagnostic-Code: smtp; 550 5.1.1 No such user\n\n"
    "Original-Recipient: rfc822;Ann@Customer.TEST\nFinal-Recipient: RFC822; <ann@elsewhere.test>\n"
    "Action: delayed (trying)\nStatus: 4.4.1 (no answer)\n"
)


def test_each_recipient_has_its_own_block() -> None:
    made = found(BOUNCE)
    assert (made.kind, made.formal, made.envelope_id) == (ReportKind.DELIVERY, True, "0123=abc")
    assert made.returned == ("1@acme.test",)
    bob, ann = made.recipients
    assert (bob.address, bob.action, bob.status) == ("bob@customer.test", Action.FAILED, "5.1.1")
    assert (bob.said, bob.remote, bob.failure) == ("550 5.1.1 No such user", "mail.customer.test", Failure.DEAD)
    assert (ann.address, ann.original) == ("ann@elsewhere.test", "Ann@customer.test")
    assert (ann.action, ann.status, ann.failure) == (Action.DELAYED, "4.4.1", Failure.ROUTING)
    assert made.action is Action.FAILED


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ("Diagnostic-Code: smtp; 550 5.2.2 full", "5.2.2"),
        ("Status: 5.0.0\nDiagnostic-Code: smtp; 552-5.2.2 The mailbox is full", "5.2.2"),
        ("Status: 5.0.0\nDiagnostic-Code: smtp; 450 4.2.2 later", "5.0.0"),
        ("Diagnostic-Code: smtp; 550 go away", "5.0.0"),
        ("Diagnostic-Code: X-Unix; 67", ""),
        ("Status: 5.7.1 (delivery not authorized)", "5.7.1"),
    ],
)
def test_a_status_that_says_nothing_is_taken_from_what_the_server_said(fields: str, status: str) -> None:
    [bob] = found(formal(f"Final-Recipient: rfc822; bob@customer.test\nAction: failed\n{fields}\n")).recipients
    assert bob.status == status


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        ("5.1.1", Failure.DEAD),
        ("5.1.10", Failure.DEAD),
        ("5.2.1", Failure.DEAD),
        ("4.1.1", Failure.EXPIRED),
        ("5.2.2", Failure.FULL),
        ("4.2.2", Failure.FULL),
        ("5.3.4", Failure.SIZE),
        ("5.2.3", Failure.SIZE),
        ("5.3.2", Failure.SYSTEM),
        ("5.4.4", Failure.ROUTING),
        ("4.4.7", Failure.EXPIRED),
        ("5.7.1", Failure.POLICY),
        ("5.6.0", Failure.POLICY),
        ("5.0.0", Failure.UNKNOWN),
        ("", Failure.UNKNOWN),
    ],
)
def test_only_a_dead_address_is_about_the_address(status: str, failure: Failure) -> None:
    assert failure_of(status) is failure


def test_an_international_address_is_decoded() -> None:
    block = "Final-Recipient: utf-8; b\\x{F6}b@customer.test\nAction: failed\nStatus: 5.1.1\n"
    [bob] = found(formal(block)).recipients
    assert bob.address == "böb@customer.test"


def test_a_read_receipt_is_no_bounce() -> None:
    made = found(
        formal(
            "Final-Recipient: rfc822;bob@customer.test\nOriginal-Message-ID: <7@acme.test>\n"
            "Disposition: manual-action/MDN-sent-manually; displayed\n",
            kind="disposition-notification",
        )
    )
    assert (made.kind, made.said) == (ReportKind.DISPOSITION, "displayed")
    assert made.returned[0] == "7@acme.test"


def test_a_complaint_is_no_bounce() -> None:
    made = found(formal("Feedback-Type: abuse\nOriginal-Rcpt-To: <bob@customer.test>\n", kind="feedback-report"))
    assert (made.kind, made.said, made.recipients[0].address) == (ReportKind.FEEDBACK, "abuse", "bob@customer.test")


def test_another_report_is_only_that() -> None:
    raw = (
        "From: a@x.test\nIn-Reply-To: <1@acme.test>\nContent-Type: multipart/report; report-type=tlsrpt; boundary=B\n\n"
    )
    made = found(raw + "--B\n\nhello\n--B--\n")
    assert (made.kind, made.returned) == (ReportKind.OTHER, ("1@acme.test",))


QMAIL = """\
Return-Path: <>
From: MAILER-DAEMON@mx.test
To: help@acme.test
Subject: failure notice

Hi. This is the qmail-send program at mx.test.

<bob@customer.test>:
192.0.2.1 does not like recipient.
Remote host said: 550 5.1.1 no such user here
Giving up on 192.0.2.1.

--- Below this line is a copy of the message.

Return-Path: <help@acme.test>
Received: from acme.test by mx.test
Message-ID: <1@acme.test>
From: help@acme.test
To: bob@customer.test, carl@customer.test
Subject: Hello
"""


def test_a_report_in_plain_words_names_whom_it_failed_for_and_what_came_back() -> None:
    made = found(QMAIL)
    assert (made.kind, made.formal, made.returned) == (ReportKind.DELIVERY, False, ("1@acme.test",))
    [bob] = made.recipients
    assert (bob.address, bob.action, bob.status) == ("bob@customer.test", Action.FAILED, "5.1.1")


def test_who_is_not_named_is_whom_the_message_was_for() -> None:
    made = found(
        "Return-Path: <>\nFrom: postmaster@mx.test\nTo: help@acme.test\nSubject: Undeliverable: Hello\n"
        "Content-Type: multipart/mixed; boundary=B\n\n--B\n\nUnzustellbar.\n"
        "--B\nContent-Type: message/rfc822\n\nMessage-ID: <1@acme.test>\nTo: Bob <bob@customer.test>\n\nhi\n--B--\n"
    )
    assert [r.address for r in made.recipients] == ["bob@customer.test"]


PEOPLE = {
    "postmaster is a person": (
        "From: postmaster@customer.test\nSubject: Re: your question\nIn-Reply-To: <1@acme.test>\n\nHello!"
    ),
    "a subject like one": (
        "From: bob@customer.test\nSubject: Undeliverable printer\n\nIt says 550 5.1.1 x@y.test user unknown"
    ),
    "a bounce that is forwarded": (
        "From: bob@customer.test\nSubject: Fwd: failure notice\n\nWhat is this?\n\n" + QMAIL.replace("\n", "\n> ")
    ),
    "a bounce that is attached": (
        "From: bob@customer.test\nSubject: look\nContent-Type: multipart/mixed; boundary=C\n\n--C\n\nWhat is this?\n"
        f"--C\nContent-Type: message/rfc822\n\n{BOUNCE}\n--C--\n"
    ),
    "an empty reverse path alone": "Return-Path: <>\nFrom: bob@customer.test\nSubject: Away\n\nI am away.",
    "a mail delivery company": "From: daemon@tools.test\nSubject: Mail delivery in Oslo\n\nWe deliver.",
}


@pytest.mark.parametrize("raw", PEOPLE.values(), ids=PEOPLE)
def test_people_write_about_bounces(raw: str) -> None:
    assert report(raw) is None


@given(
    st.text(alphabet="ab:;@<>.-\n\r\t 5\x00\xff()=+\\x{F6}", max_size=400), st.sampled_from(["delivery-status", "x"])
)
def test_nothing_in_a_report_raises(status: str, kind: str) -> None:
    report(formal(status, kind=kind))
    report(f"Return-Path: <>\nFrom: mailer-daemon\nSubject: {status[:50]}\n\n{status}")


def test_a_report_of_any_size_is_bounded() -> None:
    block = "Final-Recipient: rfc822; b{}@customer.test\nAction: failed\nDiagnostic-Code: smtp; " + "x" * 5000 + "\n\n"
    made = found(formal("".join(block.format(n) for n in range(1000))))
    assert len(made.recipients) <= 200
    assert max(len(r.said) for r in made.recipients) == 500
    hostile = "Return-Path: <>\nFrom: mailer-daemon@x.test\n\n" + "a" * 2_000_000 + "\n" + "To: \n" * 100_000
    assert found(hostile).kind is ReportKind.DELIVERY


JUDGED = {
    "set-of-emails/lhost-amazonses-09.eml": "a notification in JSON for programs, from Amazon's API",
    "set-of-emails/lhost-amazonses-10.eml": "a notification in JSON for programs, from Amazon's API",
    "set-of-emails/lhost-apachejames-01.eml": "from a person's kind of address, a reply by its subject, and no code",
    "set-of-emails/lhost-verizon-02.eml": "from a person's kind of address, a reply by its subject, and no code",
    "set-of-emails/lhost-fml-02.eml": "a mailing list refuses a post: not about delivery",
    "set-of-emails/lhost-fml-03.eml": "a mailing list refuses a post: not about delivery",
    "set-of-emails/lhost-kddi-01.eml": "no code, no header, from no-reply: one sign only",
    "set-of-emails/lhost-postfix-75.eml": "a transcript for the postmaster of that server, not a report to a sender",
    "set-of-emails/lhost-sendmail-14.eml": "a person forwards a bounce",
    "set-of-emails/rb-issue-368-bug.eml": "postmaster, an empty reverse path and a returned message: it is one",
}
"""Where we do not say what the source says, and why."""
RECIPIENTS = {
    "set-of-emails/lhost-postfix-07.eml": "it names the support's address beside the recipient's",
    "set-of-emails/rfc3464-01.eml": "two blocks for one address",
    "set-of-emails/rhost-aol-03.eml": "two blocks for one address",
    "set-of-emails/rhost-cox-01.eml": "two blocks for one address",
    "set-of-emails/rfc3464-04.eml": "its status part is broken; the text also names where it is forwarded to",
    "set-of-emails/rhost-google-02.eml": "it has no status part, and names nobody",
}


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpus is not beside the repository")
def test_the_corpus_agrees() -> None:
    agreed: Counter[tuple[str, bool]] = Counter()
    differs: dict[str, set[str]] = {"is_bounce": set(), "recipients": set(), "is_complaint": set()}
    for line in (CORPUS / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        expected = entry["expect"] or {}
        if "is_bounce" not in expected:
            continue
        made = read(parse(BytesContent((CORPUS / entry["file"]).read_bytes())))
        tells_failure = made is not None and made.action in (None, Action.FAILED, Action.DELAYED)
        is_bounce = made is not None and made.kind is ReportKind.DELIVERY and tells_failure
        said = {"is_bounce": is_bounce is expected["is_bounce"]}
        if is_bounce and expected["is_bounce"] and expected.get("n_bounced_recipients") and made is not None:
            said["recipients"] = len(made.recipients) == expected["n_bounced_recipients"]
        if "is_complaint" in expected:
            said["is_complaint"] = (made is not None and made.kind is ReportKind.FEEDBACK) is expected["is_complaint"]
        for field, agrees in said.items():
            agreed[field, agrees] += 1
            if not agrees:
                differs[field].add(entry["file"])
    assert differs["is_bounce"] == set(JUDGED)
    assert differs["recipients"] == set(RECIPIENTS)
    assert agreed["is_bounce", True] / (agreed["is_bounce", True] + agreed["is_bounce", False]) > 0.97
    assert agreed["recipients", True] / (agreed["recipients", True] + agreed["recipients", False]) > 0.97
