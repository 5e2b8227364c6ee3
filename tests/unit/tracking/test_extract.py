from __future__ import annotations

from dataclasses import replace

import pytest

from email_router.mime.contents import BytesContent
from email_router.mime.identity import identity_of
from email_router.mime.parse import parse
from email_router.model.evidence import Evidence
from email_router.model.filing import IncomingEmail
from email_router.tracking.extract import extract
from tests.unit.tracking.people import NOW, SETTINGS

RAW = b"""From: "Bob" <Bob@Customer.TEST>\r
To: help@acme.test, Anna <ANNA@acme.test>\r
Cc: carl@acme.test\r
Bcc: secret@acme.test\r
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= CRM:0001001\r
Message-ID: <One@Customer.TEST>\r
In-Reply-To: <asked@acme.test>\r
References: <first@acme.test> <asked@acme.test>\r
Date: Mon, 23 Nov 2026 10:00:00 +0100\r
\r
Hello\r
"""


def evidence_of(raw: bytes, **settings: object) -> Evidence:
    incoming = IncomingEmail(parse(BytesContent(raw)), NOW, "Help@acme.test")
    return extract(incoming, replace(SETTINGS, **settings))  # type: ignore[arg-type]


def test_everything_that_judging_needs() -> None:
    found = evidence_of(RAW)
    assert found.identity == identity_of(RAW)
    assert (found.message_id, found.subject) == ("One@customer.test", "Grüße CRM:0001001")
    assert found.sender is not None
    assert (found.sender.name, found.sender.key) == ("Bob", "bob@customer.test")
    assert [a.key for a in found.recipients] == [
        "help@acme.test",
        "anna@acme.test",
        "carl@acme.test",
        "secret@acme.test",
    ]
    assert (found.in_reply_to, found.references) == (("asked@acme.test",), ("first@acme.test", "asked@acme.test"))
    assert found.named_ids == ("asked@acme.test", "first@acme.test")
    assert found.tokens == ("CRM:0001001",)
    assert (found.received, found.receiving) == (NOW, "Help@acme.test")
    assert found.addresses == {a.key for a in found.recipients} | {"bob@customer.test", "help@acme.test"}


def test_no_tokens_are_looked_for_where_there_are_none() -> None:
    assert evidence_of(RAW, use_tokens=False).tokens == ()


def test_a_token_that_was_folded_away_from_its_subject_is_found() -> None:
    folded = RAW.replace(b" CRM:0001001", b"\r\n =?utf-8?q?_CRM=3A00?=\r\n\t=?utf-8?b?MDEwMDE=?=")
    assert evidence_of(folded).tokens == ("CRM:0001001",)


def test_of_a_long_chain_the_first_and_the_newest_are_looked_at() -> None:
    chain = b" ".join(b"<%d@acme.test>" % n for n in range(1000))
    found = evidence_of(RAW.replace(b"<first@acme.test> <asked@acme.test>", chain))
    assert len(found.references) == 33
    assert (found.references[0], found.references[-1]) == ("0@acme.test", "999@acme.test")


@pytest.mark.parametrize(
    ("field", "sender"),
    [
        (b"From: Bob <bob@customer.test>, eve@customer.test", "bob@customer.test"),
        (b"From: Bob, eve@customer.test", "eve@customer.test"),
        (b"From: undisclosed:;", None),
        (b"From: <>", None),
        (b"From: MAILER-DAEMON", None),
        (b"X-From: bob@customer.test", None),
    ],
)
def test_the_sender_is_the_first_of_from_that_has_an_address(field: bytes, sender: str | None) -> None:
    found = evidence_of(RAW.replace(b'From: "Bob" <Bob@Customer.TEST>', field))
    assert (found.sender.address if found.sender else None) == sender


def test_the_same_message_and_settings_give_the_same_evidence() -> None:
    assert evidence_of(RAW) == evidence_of(RAW)
