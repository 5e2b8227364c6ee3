"""Mail made to stop the router: time and memory stay in proportion to its size."""

from __future__ import annotations

import io
import uuid
from typing import BinaryIO

import pytest

from email_router.mime import addresses, headers, html, received, transfer
from email_router.mime.contents import BytesContent, read_all
from email_router.mime.parse import parse
from tests.unit.mime.patience import comes_back

LONG = 250_000
"""Characters: nearly as many as one header section may have."""
LONGEST = 1_000_000

FIELDS = {
    "blanks in a name": f"a{' ' * LONG}b",
    "blanks before an angle": f"a{' ' * LONG}<",
    "nothing but blanks": " " * LONG,
    "tabs": f"a{chr(9) * LONG}b",
    "blanks in an address": f"a@b{' ' * LONG}c",
    "blanks in angles": f"<a@b{' ' * LONG}c>",
    "apostrophes": f"x{chr(39) * LONG}x@",
    "words in apostrophes": "'a" * (LONG // 2) + "@",
    "quotes": '"' * LONG,
    "escapes": '"' + "\\" * LONG,
    "comments": "(" * (LONG // 2) + ")" * (LONG // 2),
    "angles": "<" * LONG,
    "at signs": "@" * LONG,
    "dots": "a@" + "a." * (LONG // 2),
    "names without an address": "a," * (LONG // 2),
    "groups": "a:" * (LONG // 2),
    "encoded words": "=?utf-8?q?a?= " * (LONG // 14),
    "half encoded words": "=?utf-8?q?" * (LONG // 10),
    "parameters": ';a="' * (LONG // 4),
    "folded blanks": "\n " * (LONG // 2),
}


@pytest.mark.parametrize("value", FIELDS.values(), ids=FIELDS.keys())
def test_a_field_costs_no_more_than_its_length(value: str) -> None:
    with comes_back(value):
        addresses.parse(value)
        headers.decode(value)
        headers.message_id(value)
        headers.named_ids([value])
        headers.parameters(f"text/plain; a={value}")
        headers.date(value)
        received.received_in(b"Received: " + value.encode())


def test_a_name_does_not_grow_with_its_commas() -> None:
    [(name, address)] = addresses.parse("a," * 100_000)
    assert (len(name), address) == (512, "")
    assert [(len(n), a) for n, a in addresses.parse("a," * 100_000 + "<a@b.org>")] == [(512, "a@b.org")]


TAGS = [
    *("<head>", "<title>", "<SCRIPT>", "<noscript", "<template>", "<style>", "<!--", "<br", "</p", "<hr ", "<a", "<"),
    *("<p>", "<td>", "<li>", "<div></x>", "<ul></x><li>", "<svg></x>", "<math><mi></x></x>", "<table></x>"),
    *("&", "&#", "\xa0", "<b>", "<font color=a></x><p>"),
]


@pytest.mark.parametrize("tag", TAGS)
def test_html_costs_no_more_than_its_length(tag: str) -> None:
    source = tag * (LONGEST // len(tag))
    with comes_back(tag):
        html.stripped(source)
        html.sanitise(source[: LONGEST // 2])
        html.to_text(source[: LONGEST // 8])


def test_formatting_that_never_ends_does_not_multiply() -> None:
    source = "<p>" + "".join(f"<b id={n}>" for n in range(190)) + "<p>x" * 10_000
    assert len(html.sanitise(source)) < len(source)  # a browser's tree of it has two million elements


def test_formatting_that_ends_is_shown() -> None:
    source = "<p><b>x</b><i>y</i></p>" * 5_000
    assert html.sanitise(source) == source


def test_what_hides_text_hides_it_only_if_it_ends() -> None:
    assert html.stripped("a<script>b</SCRIPT >c<style>d<script>e</script>f") == "a cd f"
    assert html.stripped("a<!-- b -->c<!-- d<br>e") == "a c d\ne"
    assert html.stripped("a<script") == "a"


@pytest.mark.parametrize("reference", [f"&#{'9' * 5000};", f"&#{'0' * 5000}65;", f"&#x{'f' * 5000};"])
def test_a_character_reference_of_any_length_is_read(reference: str) -> None:
    assert html.stripped(f"a{reference}b") == "a\ufffdb"
    assert "a\ufffdb" in html.sanitise("<i>" * 300 + f"a{reference}b")
    email = parse(BytesContent(
        b"From: a@b.org\nContent-Type: multipart/related; boundary=B\n\n--B\nContent-Type: text/html\n\n"
        b'<img src="cid:' + reference.encode() + b'"><img src="cid:i&#46;x">'
        b"\n--B\nContent-Type: image/png\nContent-ID: <i.x>\n\nx\n--B--\n"
    ))  # fmt: skip
    assert [a.inline for a in email.attachments] == [True]


def test_uuencoded_lines_without_their_blanks_do_not_multiply() -> None:
    bomb = b"begin 644 x\n" + b"M\n" * 1_000_000
    decoded, sound = transfer.decode(bomb, "uuencode")
    assert not sound
    assert len(decoded) < len(bomb) + 1024 * 1024
    assert transfer.decode(b"begin 644 x\nM\nM\n`\nend\n", "uuencode") == (bytes(90), True)  # honest zeros


@pytest.mark.parametrize("size", [1, 7, 100, 1_000_000])
def test_uuencode_in_chunks_is_uuencode_as_a_whole(size: int) -> None:
    import binascii

    data = uuid.UUID(int=7).bytes * 500
    lines = [binascii.b2a_uu(data[n : n + 45]) for n in range(0, len(data), 45)]
    encoded = b"Hello,\r\nbegin 644 x\r\n" + b"".join(lines).replace(b"\n", b"\r\n") + b"`\r\nend\r\nBye\r\n"
    chunks = [encoded[n : n + size] for n in range(0, len(encoded), size)]
    assert b"".join(transfer.decode_chunks(chunks, "uuencode")) == data
    assert transfer.decode(encoded, "uuencode") == (data, True)
    assert b"".join(transfer.decode_chunks([b"no begin", b" here"], "uuencode")) == b"no begin here"


def test_headers_in_no_charset_are_guessed_line_by_line_only_at_the_beginning() -> None:
    block = b"Subject: caf\xe9\n" + b"X: \xe9\n" * 5_000
    fields, repairs = headers.split(block, 10_000)
    assert fields[0] == ("Subject", "café")
    assert fields[-1] == ("X", "\ufffd")
    assert repairs == ("header-charset",)


class Counted(BytesContent):
    """Counts what is read of it."""

    read = 0

    def open(self) -> BinaryIO:
        counted = self

        class Stream(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                data = super().read(size)
                counted.read += len(data)
                return data

        return Stream(read_all(BytesContent(self._data or b"")))


def test_parts_of_an_attached_message_are_read_where_they_lie() -> None:
    """Not by reading all that lies before each of them."""
    part = b"--I\n\n" + b"x" * 100_000 + b"\n--I\nContent-Type: application/x\n\n" + b"y" * 100_000 + b"\n"
    inner = b"From: a@b.org\nContent-Type: multipart/mixed; boundary=I\n\n" + part * 40 + b"--I--\n"
    head = b"From: a@b.org\nContent-Type: multipart/mixed; boundary=O\n\n--O\nContent-Type: message/rfc822\n\n"
    outer = Counted(head + inner + b"\n--O--\n")
    original = parse(outer).attachments[0].content
    outer.read = 0
    assert len(parse(original).attachments) >= 40
    assert outer.read < 4 * original.size
