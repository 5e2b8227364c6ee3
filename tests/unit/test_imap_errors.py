"""Every response code of the RFCs has its place in the table, and each place its consequence."""

from __future__ import annotations

import pytest

from email_router.mail.imap.answers import Status
from email_router.mail.imap.errors import CODES, Doing, is_about_messages, named_wait, refused
from email_router.model.errors import NeedsOperator, Transient

RFC_3501 = "ALERT BADCHARSET CAPABILITY PARSE PERMANENTFLAGS READ-ONLY READ-WRITE TRYCREATE UIDNEXT UIDVALIDITY UNSEEN"
RFC_5530 = (
    "UNAVAILABLE AUTHENTICATIONFAILED AUTHORIZATIONFAILED EXPIRED PRIVACYREQUIRED CONTACTADMIN NOPERM INUSE "
    "EXPUNGEISSUED CORRUPTION SERVERBUG CLIENTBUG CANNOT LIMIT OVERQUOTA ALREADYEXISTS NONEXISTENT"
)
RFC_9051 = (
    "ALERT ALREADYEXISTS APPENDUID AUTHENTICATIONFAILED AUTHORIZATIONFAILED BADCHARSET CANNOT CAPABILITY CLIENTBUG "
    "CLOSED CONTACTADMIN COPYUID CORRUPTION EXPIRED EXPUNGEISSUED HASCHILDREN INUSE LIMIT NONEXISTENT NOPERM OVERQUOTA "
    "PARSE PERMANENTFLAGS PRIVACYREQUIRED READ-ONLY READ-WRITE SERVERBUG TRYCREATE UIDNEXT UIDNOTSTICKY UIDVALIDITY "
    "UNAVAILABLE UNKNOWN-CTE"
)
STANDARD = set(f"{RFC_3501} {RFC_5530} {RFC_9051}".split())
OPERATOR = {
    "AUTHENTICATIONFAILED",
    "AUTHORIZATIONFAILED",
    "EXPIRED",
    "PRIVACYREQUIRED",
    "CONTACTADMIN",
    "NOPERM",
    "CORRUPTION",
    "CANNOT",
    "OVERQUOTA",
    "NONEXISTENT",
    "TRYCREATE",
    "READ-ONLY",
}
LATER = {"UNAVAILABLE", "INUSE", "EXPUNGEISSUED", "SERVERBUG", "LIMIT", "BADCHARSET", "UNKNOWN-CTE"}


def test_the_table_knows_every_standard_code() -> None:
    assert STANDARD - CODES.keys() == set()
    assert CODES.keys() - STANDARD == {"THROTTLED", "IN-USE", "SYS/TEMP", "WEBALERT"}


@pytest.mark.parametrize("code", sorted(STANDARD))
@pytest.mark.parametrize("doing", list(Doing))
def test_what_each_code_leads_to(code: str, doing: Doing) -> None:
    error = refused(Status("NO", code, "", "because"), doing, "mail.test:143, u")
    if code in OPERATOR:
        assert isinstance(error, NeedsOperator)
        assert error.cure
    elif code in LATER:
        assert isinstance(error, Transient)
    else:  # the code says nothing about the failure: what was asked decides
        operator = doing in (Doing.TLS, Doing.LOGIN, Doing.OPEN)
        assert isinstance(error, NeedsOperator if operator else Transient)
    assert error.where == "mail.test:143, u"
    assert error.said == f"NO [{code}] because"
    assert error.what


@pytest.mark.parametrize("doing", list(Doing))
@pytest.mark.parametrize(
    "text",
    ["throttled", "Suggested Backoff Time: 1 milliseconds", "Too many connections", "temporarily away", "server busy",
     "please try again later", "Service unavailable", "User is authenticated but not connected.", "Internal error"],
)  # fmt: skip
def test_back_off_is_never_a_matter_for_the_operator(doing: Doing, text: str) -> None:
    for code in ("", "ALERT", "AUTHENTICATIONFAILED"):
        error = refused(Status("NO", code, "", text), doing, "")
        assert isinstance(error, Transient)
        assert error.retry_after is not None


@pytest.mark.parametrize("doing", [Doing.CONNECT, Doing.LOGIN, Doing.OPEN, Doing.READ, Doing.CHANGE])
@pytest.mark.parametrize("word", ["BAD", "BYE"])
def test_bad_and_bye_come_again_later(doing: Doing, word: str) -> None:
    assert isinstance(refused(Status(word, "", "", "hm"), doing, ""), Transient)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Suggested Backoff Time: 92415 milliseconds", 92.415),
        ("try again in 5 minutes", 300.0),
        ("retry in 30 s", 30.0),
        ("wait 999999999 s", 3600.0),
        ("nothing here", None),
        ("backoff soon", None),
    ],
)
def test_named_wait(text: str, seconds: float | None) -> None:
    assert named_wait(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("", "FETCH failed", True),
        ("SERVERBUG", "Internal error occurred", True),
        ("CORRUPTION", "", True),
        ("", "throttled", False),
        ("UNAVAILABLE", "", False),
        ("NOPERM", "", False),
    ],
)
def test_what_may_be_the_fault_of_a_message(code: str, text: str, expected: bool) -> None:
    assert is_about_messages(Status("NO", code, "", text)) is expected
