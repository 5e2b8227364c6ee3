"""Message data up to its final dot, in whatever pieces it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_router.mail.lmtp.wire import Dots

AWKWARD = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"..", b"x", b"\0", b"\xff"])).map(b"".join)


def stuffed(message: bytes) -> bytes:
    """As a client sends it (RFC 5321 section 4.5.2)."""
    doubled = (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:]
    return doubled + (b"" if not doubled or doubled.endswith(b"\r\n") else b"\r\n") + b".\r\n"


def taken(data: bytes, cuts: list[int]) -> tuple[bytes, bytes | None]:
    """What `Dots` makes of the data cut at these places: the message, and what came behind its final dot."""
    dots = Dots()
    message = b""
    places = sorted({min(c, len(data)) for c in cuts} | {len(data)})
    for start, end in zip([0, *places], places, strict=False):
        more, rest = dots.feed(data[start:end])
        message += more
        if rest is not None:
            return message, rest + data[end:]
    return message, None


@given(AWKWARD, AWKWARD, st.lists(st.integers(0, 60), max_size=20))
def test_every_message_comes_out_as_it_went_in(message: bytes, behind: bytes, cuts: list[int]) -> None:
    whole = message if not message or message.endswith(b"\r\n") else message + b"\r\n"
    assert taken(stuffed(message) + behind, cuts) == (whole, behind)


@given(AWKWARD, st.lists(st.integers(0, 60), max_size=20))
def test_the_pieces_make_no_difference(data: bytes, cuts: list[int]) -> None:
    assert taken(data, cuts)[1] == taken(data, [])[1]
    if taken(data, [])[1] is not None:
        assert taken(data, cuts) == taken(data, [])


@pytest.mark.parametrize(
    "end",
    [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\r\n.\0\r\n", b"\r\n..\r\n", b"\r\n. \r\n"],
)
def test_nothing_else_ends_a_message(end: bytes) -> None:
    """Each of these is taken for the end by some server: what stands behind it would be smuggled in."""
    behind = b"MAIL FROM:<evil@x.test>\r\n"
    message, rest = taken(b"Subject: a" + end + behind + b".\r\n" + b"QUIT\r\n", [])
    assert behind in message
    assert rest == b"QUIT\r\n"


def test_an_empty_message() -> None:
    assert taken(b".\r\nRSET\r\n", [0, 1, 2]) == (b"", b"RSET\r\n")
