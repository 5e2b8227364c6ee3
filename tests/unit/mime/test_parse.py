from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_router.mime import parse as parse_module
from email_router.mime.contents import BytesContent, read_all
from email_router.mime.forwarded import originals
from email_router.mime.identity import identity_of
from email_router.mime.parse import parse
from email_router.mime.structure import Limits
from email_router.model.message import Address, ParsedEmail
from email_router.net.spool import FileContent

HEAD = b"From: Ann <ann@example.com>\r\nTo: bob@example.com\r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\n"


def read(data: bytes, limits: Limits | None = None) -> ParsedEmail:
    return parse(BytesContent(data), limits or Limits())


def codes(email: ParsedEmail) -> set[str]:
    return {d.code for d in email.defects}


def multipart(*parts: bytes, kind: str = "mixed") -> bytes:
    body = b"".join(b"--B\r\n" + part + b"\r\n" for part in parts)
    return HEAD + f'Content-Type: multipart/{kind}; boundary="B"\r\n\r\n'.encode() + body + b"--B--\r\n"


PLAIN = b"Content-Type: text/plain; charset=utf-8\r\n\r\nHello"
HTML = b'Content-Type: text/html\r\n\r\n<p>Hello <img src="cid:logo@x"></p>'
IMAGE = b"Content-Type: image/png\r\nContent-ID: <logo@x>\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0K"
PDF = (
    b"Content-Type: application/pdf\r\nContent-Disposition: attachment; filename=offer.pdf\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nJVBERi0xLjQK"
)


def test_a_usual_message_word_by_word() -> None:
    raw = (
        b"Message-ID: <One@Example.COM>\r\nIn-Reply-To: <parent@example.org>\r\n"
        b"References: <first@example.org>\r\n\t<parent@example.org>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
        b"Sender: s@example.com\r\nReply-To: r@example.com\r\nCc: c@example.com\r\nBcc: b@example.com\r\n"
        + HEAD
        + b"\r\nDear Bob\r\n\r\nAnn\r\n"
    )
    email = read(raw)
    assert email.identity == identity_of(raw)
    assert email.message_id == "One@example.com"
    assert email.in_reply_to == ("parent@example.org",)
    assert email.references == ("first@example.org", "parent@example.org")
    assert email.subject == "Grüße"
    assert email.from_ == (Address("Ann", "ann@example.com"),)
    assert [a.address for a in (*email.sender, *email.reply_to, *email.recipients)] == [
        "s@example.com",
        "r@example.com",
        "bob@example.com",
        "c@example.com",
        "b@example.com",
    ]
    assert email.date == datetime(2026, 11, 2, 10, tzinfo=UTC)
    assert email.header("references") == "<first@example.org> <parent@example.org>"
    assert (email.text, email.html, email.attachments) == ("Dear Bob\n\nAnn\n", "", ())
    assert email.size == len(raw)
    assert email.defects == ()


def test_alternative_related_and_mixed() -> None:
    alternative = b'Content-Type: multipart/alternative; boundary="A"\r\n\r\n--A\r\n' + PLAIN + b"\r\n--A\r\n"
    alternative += HTML + b"\r\n--A--"
    related = b'Content-Type: multipart/related; boundary="R"\r\n\r\n--R\r\n' + alternative + b"\r\n--R\r\n"
    email = read(multipart(related + IMAGE + b"\r\n--R--", PDF))
    assert email.text == "Hello"
    assert email.html == '<p>Hello <img src="cid:logo@x"></p>'
    assert [(a.name, a.content_type, a.inline, a.content_id, a.size) for a in email.attachments] == [
        ("image.png", "image/png", True, "logo@x", 6),
        ("offer.pdf", "application/pdf", False, "", 9),
    ]
    assert read_all(email.attachments[1].content) == b"%PDF-1.4\n"
    assert email.attachments[1].sha256 == hashlib.sha256(b"%PDF-1.4\n").digest()
    assert email.defects == ()


def test_an_image_is_inline_only_where_the_html_shows_it() -> None:
    image = IMAGE.replace(b"\r\n\r\n", b"\r\nContent-Disposition: inline\r\n\r\n", 1)
    assert [a.inline for a in read(multipart(PLAIN, image)).attachments] == [False]
    assert [a.inline for a in read(multipart(HTML, image)).attachments] == [True]


def test_a_footer_after_html_is_lost_in_neither_form() -> None:
    email = read(multipart(HTML, PLAIN.replace(b"Hello", b"To unsubscribe <...>")))
    assert email.text == "Hello\nTo unsubscribe <...>"
    assert email.html.endswith('<div style="white-space: pre-wrap">To unsubscribe &lt;...&gt;</div>')


def test_attached_messages_stay_whole() -> None:
    inner = b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe/x?=\r\nMessage-ID: <i@x>\r\n\r\n--B-- no boundary\r\n" + b"x \r\n"
    email = read(multipart(PLAIN, b"Content-Type: message/rfc822\r\n\r\n" + inner, PDF))
    assert [(a.name, a.content_type) for a in email.attachments] == [
        ("Grüße_x.eml", "message/rfc822"),
        ("offer.pdf", "application/pdf"),
    ]
    (original,) = originals(email)
    assert read_all(original.content) == inner
    assert parse(original.content).message_id == "i@x"


def test_originals_are_one_level_deep() -> None:
    innermost = b"Subject: innermost\r\n\r\nx"
    middle = multipart(PLAIN, b"Content-Type: message/rfc822\r\n\r\n" + innermost).replace(b"--B", b"--C")
    middle = middle.replace(b'"B"', b'"C"')
    outer = read(multipart(b"Content-Type: message/rfc822\r\n\r\n" + middle, kind="digest"))
    (original,) = originals(outer)
    (deeper,) = originals(parse(original.content))
    assert read_all(original.content) == middle
    assert parse(deeper.content).subject == "innermost"


def test_digest_parts_without_a_type_are_messages() -> None:
    assert [a.name for a in read(multipart(b"\r\nSubject: one\r\n\r\n1", kind="digest")).attachments] == ["one.eml"]


@pytest.mark.parametrize(
    ("disposition", "expected"),
    [
        (b'attachment; filename="../../x\x01y.pdf"', "x y.pdf"),
        (b"attachment; filename=" + b"n" * 300 + b".pdf", "n" * 146 + ".pdf"),
        (b"attachment; filename=con.pdf", "_con.pdf"),
        (b"attachment; filename*=utf-8''K%C3%B6ln.pdf", "Köln.pdf"),
        (b'attachment; filename="=?utf-8?b?S8O2bG4ucGRm?="', "Köln.pdf"),
        (b"attachment", "attachment.pdf"),
        (b'attachment; filename=""', "attachment.pdf"),
    ],
)
def test_attachment_names(disposition: bytes, expected: str) -> None:
    part = b"Content-Type: application/pdf\r\nContent-Disposition: " + disposition + b"\r\n\r\nx"
    assert [a.name for a in read(multipart(PLAIN, part)).attachments] == [expected]


def test_broken_base64_costs_only_what_is_broken() -> None:
    broken = PDF.replace(b"JVBERi0xLjQK", b"JVBE?Ri0x\r\nLjQKA")
    email = read(multipart(PLAIN, broken, IMAGE))
    assert [read_all(a.content) for a in email.attachments] == [b"%PDF-1.4\n", b"\x89PNG\r\n"]
    assert codes(email) == {"base64"}
    assert email.text == "Hello"


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        (b"quoted-printable", b"Gr=C3=BC=\r\n=C3=9Fe =XY", "Grüße =XY"),
        (b"BASE64", b"R3LDvMOfZQ==\r\nLSBlbmQ=", "Grüße- end"),
        (b"x-uuencode", b"begin 644 x\r\n#86)C\r\n`\r\nend\r\n", "abc"),
        (b"8bit", "Grüße".encode(), "Grüße"),
        (b"nonsense", b"as it is", "as it is"),
    ],
)
def test_transfer_encodings(encoding: bytes, body: bytes, expected: str) -> None:
    head = HEAD + b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: " + encoding
    assert read(head + b"\r\n\r\n" + body).text == expected


def test_text_in_another_charset_than_it_names_is_repaired_with_a_mark() -> None:
    email = read(HEAD + b"Content-Type: text/plain; charset=us-ascii\r\n\r\n" + "Grüße".encode())
    assert (email.text, codes(email)) == ("Grüße", {"charset"})


def test_nul_bytes_are_removed_everywhere() -> None:
    email = read(b"Subject: a\x00b\r\n" + HEAD.replace(b"Ann", b"A\x00nn") + b"\r\nx\x00y")
    assert (email.subject, email.from_[0].name, email.text) == ("ab", "Ann", "xy")
    assert codes(email) == {"nul"}


def test_a_raw_latin_1_name_harms_no_other_header() -> None:
    email = read("Subject: Grüße\r\n".encode() + HEAD.replace(b"Ann", b"Ren\xe9") + b"\r\nx")
    assert (email.subject, email.from_) == ("Grüße", (Address("René", "ann@example.com"),))
    assert codes(email) == {"header-charset"}


@pytest.mark.parametrize(
    ("raw", "subject", "text", "defects"),
    [
        (b"", "", "", {"no-from", "date"}),
        (b"\r\n\r\n", "", "\n", {"no-from", "date"}),
        (b"just text\r\n", "", "just text\n", {"no-from", "date", "header-end"}),
        (HEAD + b"Subject: s\r\nno separator", "s", "no separator", {"header-end"}),
        (b"Subject: s\r\ngarbage\r\n" + HEAD + b"\r\nbody", "s", "body", {"header-line"}),
        (b"\xef\xbb\xbf\r\nSubject: s\r\n" + HEAD + b"\r\nbody", "s", "body", set()),
        (b"From x Mon\nSubject: s\r\n" + HEAD + b"\r\nbody", "s", "body", set()),
        ((b"Subject: s\r\n" + HEAD + b"\r\nbody").replace(b"\r\n", b"\r"), "s", "body", set()),
    ],
)
def test_headers_that_are_hardly_headers(raw: bytes, subject: str, text: str, defects: set[str]) -> None:
    email = read(raw)
    assert (email.subject, email.text, codes(email)) == (subject, text, defects)


def test_missing_last_boundary() -> None:
    email = read(multipart(PLAIN, PDF).removesuffix(b"--B--\r\n"))
    assert (email.text, len(email.attachments), codes(email)) == ("Hello", 1, {"boundary"})


def test_boundary_that_never_comes_or_is_not_named() -> None:
    head = HEAD + b"Content-Type: multipart/mixed"
    assert read(head + b"; boundary=Q\r\n\r\nthe text").text == "the text"
    guessed = read(head + b"\r\n\r\n--Q\r\n\r\nthe text\r\n--Q--\r\n")
    assert (guessed.text, codes(guessed)) == ("the text", {"boundary"})


def test_header_named_like_an_internal_key_is_only_a_header() -> None:
    email = read(b"__proto__: x\r\n__class__: y\r\nidentity: z\r\n" + HEAD + b"\r\n")
    assert email.header("__proto__") == "x"
    assert email.identity != b"z"


def test_limits_are_defects_and_the_rest_is_read() -> None:
    many = b"To: " + b", ".join(b"u%d@x.org" % n for n in range(10)) + b"\r\n"
    limits = Limits(header_bytes=4096, headers=5, parts=3, depth=2, recipients=4, text_bytes=10)
    recipients = read(b"From: a@x.org\r\nCc: c@x.org\r\n" + many + b"\r\nx", limits)
    assert ([len(recipients.to), len(recipients.cc)], codes(recipients)) == ([4, 0], {"recipients", "date"})
    count = read(b"A: 1\r\nB: 2\r\n" + HEAD + b"Subject: too late\r\n\r\nbody", limits)
    assert (count.subject, count.text, codes(count)) == ("", "body", {"header-count"})
    long = read(HEAD + b"X: " + b"x" * 9000 + b"\r\nSubject: too late\r\n\r\nbody", limits)
    assert (long.from_[0].address, long.text, codes(long)) == ("ann@example.com", "body", {"header-bytes"})
    parts = read(multipart(PLAIN, PDF, PDF, PDF), limits)
    assert (len(parts.attachments), "parts" in codes(parts)) == (1, True)
    text = read(HEAD + b"\r\n0123456789abc", limits)
    assert (text.text, read_all(text.attachments[0].content)) == ("0123456789", b"0123456789abc")
    assert codes(text) == {"text-bytes"}
    total = read(HEAD + b"\r\n0123456789abc", Limits(total_bytes=len(HEAD) + 5))
    assert (total.text, total.size, codes(total)) == ("012", len(HEAD) + 15, {"total-bytes"})


def test_parts_too_deep_are_kept_closed() -> None:
    inner = PLAIN
    for n in range(40):
        inner = f'Content-Type: multipart/mixed; boundary="b{n}"\r\n\r\n--b{n}\r\n'.encode() + inner
        inner += f"\r\n--b{n}--".encode()
    email = read(HEAD + inner)
    assert [a.content_type for a in email.attachments] == ["multipart/mixed"]
    assert b"Hello" in read_all(email.attachments[0].content)
    assert codes(email) == {"depth"}


def test_a_bug_of_ours_is_a_defect_of_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(parse_module.Scanner, "scan", bug)
    raw = b"Subject: s\r\nMessage-ID: <1@x.org>\r\n" + HEAD + b"\r\nbody"
    email = read(raw)
    assert (email.subject, email.message_id, email.identity) == ("s", "1@x.org", identity_of(raw))
    assert email.from_ == (Address("Ann", "ann@example.com"),)
    assert [d.code for d in email.defects] == ["unparsable"]
    assert "KeyError: 'bug'" in email.defects[0].detail
    for name in ("headers.decode", "headers.message_id", "addresses.parse", "headers.split"):
        module, _, function = name.partition(".")
        monkeypatch.setattr(getattr(parse_module, module), function, bug)
    assert read(raw).identity == identity_of(raw)


# --- Large messages ---------------------------------------------------------------------------------------------------


@pytest.fixture
def always_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_module, "IN_MEMORY", -1)
    monkeypatch.setattr(parse_module, "_LARGE_PART", 3)
    monkeypatch.setattr("email_router.mime.structure.CHUNK", 7)
    monkeypatch.setattr("email_router.mime.contents.CHUNK", 5)


def meaning(email: ParsedEmail) -> tuple[object, ...]:
    attachments = [(a.name, a.content_type, a.size, a.sha256, a.inline, read_all(a.content)) for a in email.attachments]
    return (email.identity, email.subject, email.text, email.html, attachments, email.headers)


SAMPLES = [
    multipart(PLAIN, HTML, IMAGE, PDF, b"Content-Type: message/rfc822\r\n\r\nSubject: i\r\n\r\n--x\r\n\r\n"),
    multipart(PLAIN, PDF).replace(b"\r\n", b"\n"),
    multipart(PLAIN, PDF).removesuffix(b"--B--\r\n"),
    multipart(b"Content-Transfer-Encoding: quoted-printable\r\nContent-Type: a/b\r\n\r\n" + b"=3D=\r\nx=20\r\n" * 9),
    HEAD + b"\r\n" + b"a line\r\n" * 20,
    b"no header",
]


@pytest.mark.parametrize("raw", SAMPLES)
@pytest.mark.usefixtures("always_large")
def test_large_messages_are_understood_as_small_ones_are(raw: bytes) -> None:
    large = meaning(read(raw))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse_module, "IN_MEMORY", 1_000_000)
        assert large == meaning(read(raw))


def test_a_large_attachment_is_read_from_the_spool(tmp_path: Path) -> None:
    body = bytes(range(256)) * 24_000
    encoded = base64.encodebytes(body).replace(b"\n", b"\r\n").rstrip()
    path = tmp_path / "spool"
    path.write_bytes(multipart(PLAIN, PDF.replace(b"JVBERi0xLjQK", encoded)))
    email = parse(FileContent(path, path.stat().st_size))
    (attachment,) = email.attachments
    assert not isinstance(attachment.content, BytesContent)
    assert attachment.size == len(body)
    assert attachment.sha256 == hashlib.sha256(body).digest()
    assert read_all(attachment.content) == body
    attachment.content.discard()
    attachment.content.discard()
    with pytest.raises(ValueError, match="discarded"):
        attachment.content.open()


def test_a_message_of_50_mb_needs_little_memory() -> None:
    """In a process of its own, since a peak never falls. The issue allows 200 MB for router and database together."""
    script = "from bench.parse import rise_of_memory; print(rise_of_memory(50))"
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 30


# --- Anything at all --------------------------------------------------------------------------------------------------

fragments = st.sampled_from(
    [*SAMPLES, HEAD, PLAIN, HTML, b"\r\n\r\n", b"--B\r\n", b"--B--", b"=?utf-8?q?", b"?=", b"\x00", b"Content-Type: "]
)


@given(st.lists(st.one_of(fragments, st.binary(max_size=40)), max_size=8).map(b"".join))
def test_never_raises(raw: bytes) -> None:
    email = read(raw)
    assert "unparsable" not in codes(email)
    everything = [email.subject, email.text, email.html, *(h.value for h in email.headers)]
    everything += [a.name for a in email.attachments] + [a.name + a.address for a in email.recipients]
    for text in everything:
        assert "\x00" not in text
        text.encode()
