"""The log of mail: one line per event, whatever strangers put into it."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator

import pytest
import structlog

from email_router.model.errors import Transient
from email_router.model.ids import new_id
from email_router.model.message import DeliveryKey
from email_router.model.outgoing import LedgerRow, SendState, Stamps
from email_router.model.receipt import Decision, Outcome, Receipt
from email_router.observe import maillog
from tests.unit.tracking.people import NOW

HOSTILE = "a\x1b[31mb\x9b2J\r\nc\u202ed\u2028e\x07"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A logger of this test's own standard error."""
    monkeypatch.setattr(maillog, "log", structlog.get_logger("mail"))
    yield
    structlog.reset_defaults()


def row(sender: str, *pending: str) -> LedgerRow:
    stamps = Stamps("m@acme.test", NOW, "e")
    return LedgerRow(new_id(), new_id(), "sales", "relay", sender, stamps, SendState.PENDING, 0, pending)


def say_all() -> int:
    receipt = Receipt(new_id(), "sales", DeliveryKey(HOSTILE, "INBOX", HOSTILE), NOW)
    maillog.decided(receipt, Decision(Outcome.FILED, HOSTILE, (HOSTILE,), message_id=HOSTILE, sender=HOSTILE))
    maillog.postponed([receipt], 5.0, Transient(HOSTILE, said=HOSTILE))
    maillog.sent(row(HOSTILE, HOSTILE), SendState.SENT, HOSTILE)
    maillog.mailbox_state(HOSTILE, "away", HOSTILE)
    return 4


def test_one_line_per_event_and_nothing_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    maillog.configure("console")
    number = say_all()
    said = capsys.readouterr().err
    assert not {"\x1b", "\x9b", "\r", "\u202e", "\u2028", "\x07"} & set(said)
    assert said.count("\n") == number
    assert "a\ufffd[31mb" in said


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    maillog.configure("console")
    receipt = Receipt(new_id(), "sales", DeliveryKey("help@acme.test", "INBOX", "7:12"), NOW)
    maillog.decided(
        receipt,
        Decision(
            Outcome.FILED, "AcceptAll", ("Accepted: it's all.", "More."), message_id="m@x.test", sender="a@x.test"
        ),
    )
    maillog.sent(row("help@acme.test", "a@x.test"), SendState.SENT, "")
    maillog.sent(row("help@acme.test", *(f"{n}@x.test" for n in "abcde")), SendState.PENDING, "450 later")
    maillog.mailbox_state("help@acme.test", "away", 'nobody listens there: "Connection refused"')
    lines = capsys.readouterr().err.splitlines()
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", line[:20]) for line in lines)
    assert [line[22:] for line in lines] == [
        'filed  mailbox=help@acme.test sender=a@x.test reason=AcceptAll why="Accepted: it\'s all." message_id=m@x.test '
        "deployment=sales item=7:12",
        "outgoing  state=sent sender=help@acme.test recipients=a@x.test message_id=m@acme.test deployment=sales",
        'outgoing  state=pending sender=help@acme.test recipients="a@x.test, b@x.test, c@x.test and 2 more" '
        'said="450 later" message_id=m@acme.test deployment=sales',
        "warning  mailbox  mailbox=help@acme.test state=away error=\"nobody listens there: 'Connection refused'\"",
    ]


def test_a_traceback_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    maillog.configure("console")
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        maillog.bug("filing", error)
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert len([line for line in said.splitlines() if line.startswith("  File ")]) == 1


def test_as_json_each_line_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    maillog.configure("json")
    number = say_all()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == number
    first = json.loads(lines[0])
    assert (first["event"], first["message_id"], first["why"]) == ("filed", HOSTILE, HOSTILE)


def test_the_log_goes_where_standard_error_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where it was when the log was set up: that may be closed by now."""
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    maillog.configure("console")
    maillog.serving(1)
    monkeypatch.setattr(sys, "stderr", second)
    first.close()
    maillog.serving(2)
    assert "shards=2" in second.getvalue()
