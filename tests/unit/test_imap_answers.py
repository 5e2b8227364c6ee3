"""Taking IMAP answers apart: what is right, what is wrong, and anything at all."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_router.mail.imap.answers import (
    Garbled,
    Status,
    internal_date,
    number,
    pairs,
    search_date,
    status,
    tokens,
    uid_sets,
)
from email_router.mail.imap.client import folder_argument
from email_router.mail.imap.transport import Literal, string
from email_router.net.spool import MemoryContent


def test_a_fetch_answer() -> None:
    body = MemoryContent(b"hi")
    parts = [b'12 FETCH (UID 5 FLAGS (\\Seen $x) X NIL S "a \\"q\\" \\\\" BODY[] ', body, b" Y ())"]
    answer = tokens(parts)
    assert answer[:2] == [b"12", b"FETCH"]
    assert pairs(answer[2]) == {
        b"UID": b"5",
        b"FLAGS": [b"\\Seen", b"$x"],
        b"X": None,
        b"S": b'a "q" \\',
        b"BODY[]": body,
        b"Y": [],
    }


def test_atoms_with_brackets() -> None:
    assert tokens([b"BODY[HEADER.FIELDS (DATE FROM)]<0> x"]) == [b"BODY[HEADER.FIELDS (DATE FROM)]<0>", b"x"]


@pytest.mark.parametrize("text", [b"(", b")", b"a)", b'"open', b"[x", b"(" * 100 + b")" * 100, b"] x"])
def test_garbled(text: bytes) -> None:
    with pytest.raises(Garbled):
        tokens([text])


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_anything_is_taken_apart_or_garbled(parts: list[bytes]) -> None:
    try:
        answer = tokens(parts)
        pairs(answer)
    except Garbled:
        pass


@given(st.binary(max_size=200))
def test_any_status_is_one_or_none(text: bytes) -> None:
    found = status(text)
    assert found is None or found.word in ("OK", "NO", "BAD", "BYE", "PREAUTH")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"OK", Status("OK", "", "", "")),
        (b"ok done", Status("OK", "", "", "done")),
        (b"NO [AUTHENTICATIONFAILED] no", Status("NO", "AUTHENTICATIONFAILED", "", "no")),
        (b"OK [CAPABILITY IMAP4rev1 IDLE] hi", Status("OK", "CAPABILITY", "IMAP4rev1 IDLE", "hi")),
        (b"OK [uidvalidity 5]", Status("OK", "UIDVALIDITY", "5", "")),
        (b"BYE {5}", Status("BYE", "", "", "{5}")),
        (b"OKAY x", None),
        (b"12 EXISTS", None),
    ],
)
def test_status(text: bytes, expected: Status | None) -> None:
    assert status(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b" 1-May-2024 12:00:00 +0000", datetime(2024, 5, 1, 12, tzinfo=UTC)),
        (b"31-dec-1999 23:30:00 -0130", datetime(2000, 1, 1, 1, 0, tzinfo=UTC)),
        (b"29-Feb-2024 00:00:60 +1400", datetime(2024, 2, 28, 10, 0, 59, tzinfo=UTC)),
    ],
)
def test_internal_date(text: bytes, expected: datetime) -> None:
    assert internal_date(text) == expected


@pytest.mark.parametrize(
    "value", [None, [], b"", b"yesterday", b"31-Feb-2024 00:00:00 +0000", b" 1-Foo-2024 00:00:00 +0000",
              b" 1-May-2024 00:00:00 +9900", b"01-Jan-0001 00:00:00 +0100"]
)  # fmt: skip
def test_no_internal_date(value: bytes | None) -> None:
    with pytest.raises(Garbled):
        internal_date(value)


@pytest.mark.parametrize("value", [None, b"", b"-1", b"x", b"1" * 20, [b"1"]])
def test_no_number(value: bytes | None) -> None:
    with pytest.raises(Garbled):
        number(value)


def test_search_dates_are_english() -> None:
    assert search_date(datetime(2024, 3, 9, tzinfo=UTC)) == b"9-Mar-2024"


@pytest.mark.parametrize(
    ("uids", "expected"),
    [([], []), ([4], [b"4"]), ([1, 2, 3, 5, 9, 10], [b"1:3,5,9:10"])],
)
def test_uid_sets(uids: list[int], expected: list[bytes]) -> None:
    assert uid_sets(uids) == expected


@given(st.sets(st.integers(1, 100_000), max_size=300))
def test_uid_sets_name_exactly_these_in_short_lines(uids: set[int]) -> None:
    sets = uid_sets(sorted(uids), longest=50)
    named: list[int] = []
    for uid_set in sets:
        assert len(uid_set) <= 50
        for word in uid_set.split(b","):
            first, _, last = word.partition(b":")
            named += range(int(first), int(last or first) + 1)
    assert named == sorted(uids)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", b'"plain"'),
        ("", b'""'),
        ('a"b\\c', b'"a\\"b\\\\c"'),
        ("x\r\nR2 LOGOUT", Literal(b"x\r\nR2 LOGOUT")),
        ("é", Literal("é".encode())),
        ("\0", Literal(b"\0")),
    ],
)
def test_texts_of_users_are_quoted_or_literals(text: str, expected: bytes | Literal) -> None:
    assert string(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inbox", b'"INBOX"'),
        ("Sent & done", b'"Sent &- done"'),
        ("Entwürfe", b'"Entw&APw-rfe"'),
        ("😀", b'"&2D3eAA-"'),
        ("台北/日本語", b'"&U,BTFw-/&ZeVnLIqe-"'),
        ('a"\r\nR1 DELETE x', b'"a\\"&AA0ACg-R1 DELETE x"'),
    ],
)
def test_folder_names(name: str, expected: bytes) -> None:
    assert folder_argument(name) == expected
