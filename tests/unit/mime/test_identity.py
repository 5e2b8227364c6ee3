"""The identity is frozen: these vectors hold for ever. Each is also computed here by the words of its docstring."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_router.mime.contents import BytesContent
from email_router.mime.identity import identity, identity_of, made_message_id

PLAIN = b"""Received: from a by b; Mon, 2 Nov 2026 10:00:00 +0000
Message-ID: <1@example.com>
From: Ann <ann@example.com>
Date: Mon, 2 Nov 2026 10:00:00 +0000
Subject: Hello

Hello Bob,

the offer is attached.
"""

VECTORS = {
    "plain": PLAIN,
    "nothing at all": b"",
    "no header": b"no header here\n",
    "only a header": b"Subject: x\n",
    "no separator": b"Message-ID: <1@example.com>\nHello\n",
    "two From fields, folded": b"From: a@example.com\nfrom :\n b@example.com\n\nx",
    "latin-1 From": b"From: M\xfcller <m@example.com>\n\nGr\xfc\xdfe\n",
    "a sensor": b"From: door@example.com\nSubject: Door 3\n opened\n\n",
    "nothing but a subject": b"Subject: Door 3 opened\n\nsee the log\n",
}


def by_the_words(
    message_ids: list[bytes], froms: list[bytes], dates: list[bytes], body: bytes, subjects: tuple[bytes, ...] = ()
) -> bytes:
    hashed = b"\x01"
    for values in (message_ids, froms, dates):
        hashed += framed(values)
    return hashlib.sha256(hashed + body + (framed(subjects) if subjects else b"")).digest()


def framed(values: Sequence[bytes]) -> bytes:
    return len(values).to_bytes(4, "big") + b"".join(len(value).to_bytes(4, "big") + value for value in values)


EXPECTED = {
    "plain": by_the_words(
        [b"<1@example.com>"],
        [b"Ann <ann@example.com>"],
        [b"Mon, 2 Nov 2026 10:00:00 +0000"],
        b"Hello Bob,\n\nthe offer is attached.",
    ),
    "nothing at all": by_the_words([], [], [], b""),
    "no header": by_the_words([], [], [], b"no header here"),
    "only a header": by_the_words([], [], [], b"Subject: x"),
    "no separator": by_the_words([b"<1@example.com>"], [], [], b"Hello"),
    "two From fields, folded": by_the_words([], [b"a@example.com", b"b@example.com"], [], b"x"),
    "latin-1 From": by_the_words([], [b"M\xfcller <m@example.com>"], [], b"Gr\xfc\xdfe"),
    "a sensor": by_the_words([], [b"door@example.com"], [], b"", (b"Door 3 opened",)),
    "nothing but a subject": by_the_words([], [], [], b"see the log", (b"Door 3 opened",)),
}

GOLDEN = {
    "plain": "415a7363527ae1089a1425f339eccb5b415a21f1f98612df23670410c4da70c3",
    "nothing at all": "8150a65e854b9bbbd52eefd048eb025c76fe48f0475c0f942c9db9eda40a94c3",
    "no header": "f718f2ae7ab6299bedba3ef19a8317e7a6d57173447deabd961c211b6ca92da7",
    "only a header": "a0a0382a24bb72f7d41df82f09451d9e169521434cc012b1d031cd7b2d704947",
    "no separator": "d71d7c7817567148637968cce253c7d4f6985db8adb534a37c92eb75e4d510a3",
    "two From fields, folded": "d488826136018e9d4da7e620794a7b7e17657f8575de32e7082f8f1c39d02532",
    "latin-1 From": "8dea57f46e297aba92c640baa1c5cf09452a5b4158e0b321825e4011ee92ed2b",
    "a sensor": "eb72ae41804d24b784547287757103ed8e3e13bb795b7addc7bb5608e2a4c0a6",
    "nothing but a subject": "91dbf16085228c6de41c1610abdd832719ee6ce9973056c12f680528ac01e352",
}


class Trickle:
    """A content whose stream gives `step` bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = data
        self._step = step

    @property
    def size(self) -> int:
        return len(self._data)

    def open(self) -> BinaryIO:
        step = self._step

        class Slow(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                return super().read(step)

        return Slow(self._data)

    def discard(self) -> None:
        pass


@pytest.mark.parametrize("name", VECTORS)
def test_golden_vectors(name: str) -> None:
    message = VECTORS[name]
    assert identity_of(message).hex() == GOLDEN[name]
    assert identity_of(message) == EXPECTED[name]
    assert identity(BytesContent(message)) == EXPECTED[name]


@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("name", VECTORS)
def test_streamed_in_any_steps_it_is_the_same(name: str, step: int) -> None:
    message = VECTORS[name].replace(b"\n", b"\r\n")
    assert identity(Trickle(message, step)) == EXPECTED[name]


@pytest.mark.parametrize(
    "copy",
    [
        PLAIN.replace(b"\n", b"\r\n"),
        PLAIN.replace(b"\n", b"\r"),
        PLAIN.rstrip(b"\n"),
        PLAIN + b"\n\n",
        b"\r\n" + PLAIN,
        b"From ann@example.com Mon Nov  2 10:00:00 2026\n" + PLAIN,
        b">From ann@example.com Mon Nov  2 10:00:00 2026\n" + PLAIN,
        b"Delivered-To: bob@example.com\nX-Spam: no\n" + PLAIN,
        PLAIN.replace(b"Message-ID: ", b"Message-Id:\n\t"),
        PLAIN.replace(b"From: Ann <", b"FROM:   Ann\n  <"),
        PLAIN.replace(b"Subject: Hello", b"Subject: [SPAM] Hello"),
    ],
)
def test_what_transports_do_changes_nothing(copy: bytes) -> None:
    assert identity_of(copy) == EXPECTED["plain"]
    assert identity(BytesContent(copy)) == EXPECTED["plain"]


@pytest.mark.parametrize(
    "other",
    [
        PLAIN.replace(b"<1@", b"<2@"),
        PLAIN.replace(b"Ann <ann@", b"Ann <anna@"),
        PLAIN.replace(b"Message-ID: <1@example.com>\n", b""),
        PLAIN.replace(b"Date: Mon", b"Date: Tue"),
        PLAIN.replace(b"offer", b"0ffer"),
        PLAIN.replace(b"\n\nthe", b"\nthe"),
        PLAIN.replace(b"Hello Bob", b" Hello Bob"),
        PLAIN.replace(b"Message-ID: <1@example.com>\nFrom: Ann", b"From: <1@example.com>\nMessage-ID: Ann"),
    ],
)
def test_other_messages_are_others(other: bytes) -> None:
    assert identity_of(other) != EXPECTED["plain"]


def test_headers_without_the_three_fields_and_without_body_are_told_apart() -> None:
    assert identity_of(b"Subject: a\n\n") != identity_of(b"Subject: b\n\n")
    assert identity_of(b"Subject: a\n\n") == identity_of(b"Subject: a\n")


def test_a_header_longer_than_a_mebibyte_needs_no_more_memory() -> None:
    head = b"X: " + b"x" * 3_000_000
    assert identity(BytesContent(head + b"\nFrom: a@example.com\n\nbody")) != identity(
        BytesContent(head + b"\nFrom: b@example.com\n\nbody")
    )


def test_endless_empty_lines() -> None:
    body = b"a" + b"\n" * 1_000_000 + b"b"
    assert identity(BytesContent(b"\n" + body)) == by_the_words([], [], [], body)


def test_made_message_id_is_fixed_and_has_a_right_side_that_nobody_owns() -> None:
    assert made_message_id(bytes(range(32))) == "aaaqeayeaudaocajbifqydiob4ibceqt@no-message-id.invalid"


texts = st.binary(max_size=300).map(lambda b: b.replace(b"\r", b""))


@given(texts)
def test_line_ends_do_not_matter(data: bytes) -> None:
    assert identity_of(data.replace(b"\n", b"\r\n")) == identity_of(data)


@given(st.binary(max_size=400), st.integers(1, 9))
def test_streaming_equals_memory(data: bytes, step: int) -> None:
    assert identity(Trickle(data, step)) == identity_of(data)


@given(texts, texts)
def test_different_bodies_differ(one: bytes, other: bytes) -> None:
    head = b"Message-ID: <1@example.com>\n\n"
    same = one.rstrip(b"\n") == other.rstrip(b"\n")
    assert (identity_of(head + one) == identity_of(head + other)) == same


def test_what_only_a_subject_tells_apart_is_told_apart() -> None:
    """A sensor names neither id nor time and has one text for everything: each message was a duplicate of the first."""
    opened, closed = (
        b"From: door@example.com\nSubject: Door 3 %b\n\nsee the log\n" % word for word in (b"open", b"closed")
    )
    assert identity_of(opened) != identity_of(closed)
    dated = b"Date: Mon, 2 Nov 2026 10:00:00 +0000\n"
    assert identity_of(dated + opened) == identity_of(dated + closed)  # a list may write into subjects
