"""What we write is read back by a parser that is not ours (the standard library's) and by ours, exactly."""

from __future__ import annotations

import email
import email.policy
import hashlib
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_router.mime import fields, names
from email_router.mime.compose import compose, needs_smtputf8
from email_router.mime.contents import BytesContent, read_all
from email_router.mime.parse import parse
from email_router.model.errors import Permanent
from email_router.model.message import Address, ParsedEmail
from email_router.model.outgoing import AttachmentRef, OutgoingEmail, Stamps

KNOWN = {"From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted"}
KNOWN |= {"MIME-Version", "Content-Type"}
STAMPS = Stamps("m1.abc@msgid.example.com", datetime(2026, 11, 2, 10, tzinfo=UTC))


def draft(**changes: Any) -> OutgoingEmail:
    usual: dict[str, Any] = {
        "id": UUID(int=1),
        "deployment": "acme",
        "from_": Address("Support", "support@example.com"),
        "to": (Address("Ann", "ann@example.org"),),
        "cc": (),
        "bcc": (),
        "subject": "Offer CRM:0001001",
        "text": "Dear Ann,\n\nsee below.\n",
        "html": "",
    }
    return OutgoingEmail(**(usual | changes))


def attachment(name: str, data: bytes, content_type: str = "application/pdf", **changes: Any) -> AttachmentRef:
    return AttachmentRef(name, content_type, len(data), hashlib.sha256(data).digest(), **changes)


def write(outgoing: OutgoingEmail, *data: bytes, **options: Any) -> bytes:
    contents = {hashlib.sha256(d).digest(): BytesContent(d) for d in data}
    content = compose(outgoing, STAMPS, contents, **options)
    raw = read_all(content)
    assert content.size == len(raw)
    well_formed(raw)
    return raw


def well_formed(raw: bytes) -> None:
    assert raw.endswith(b"\r\n")
    assert raw.replace(b"\r\n", b"").count(b"\r") == 0
    assert raw.replace(b"\r\n", b"").count(b"\n") == 0
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert b"\x00" not in raw


def ours(raw: bytes) -> ParsedEmail:
    parsed = parse(BytesContent(raw))
    assert parsed.defects == ()
    return parsed


def theirs(raw: bytes) -> EmailMessage:
    return email.message_from_bytes(raw, policy=email.policy.default)  # type: ignore[return-value]


def test_a_usual_email_word_by_word() -> None:
    outgoing = draft(in_reply_to="p@example.org", references=("f@example.org", "p@example.org"), importance=2)
    assert write(outgoing).decode() == (
        "From: Support <support@example.com>\r\n"
        "To: Ann <ann@example.org>\r\n"
        "Subject: Offer CRM:0001001\r\n"
        "Date: Mon, 02 Nov 2026 10:00:00 +0000\r\n"
        "Message-ID: <m1.abc@msgid.example.com>\r\n"
        "In-Reply-To: <p@example.org>\r\n"
        "References: <f@example.org> <p@example.org>\r\n"
        "Importance: high\r\n"
        "X-Priority: 1\r\n"
        "MIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n"
        "Content-Transfer-Encoding: 7bit\r\n"
        "\r\n"
        "Dear Ann,\r\n\r\nsee below.\r\n"
    )


def test_all_of_it_in_one() -> None:
    logo, pdf = b"\x89PNG" * 10, b"%PDF" * 50_000
    outgoing = draft(
        html='<p>Grüße <img src="cid:logo@x"></p>',
        text="",
        attachments=(
            attachment("logo.png", logo, "image/png", content_id="logo@x", inline=True),
            attachment("Angebot für Köln.pdf", pdf),
        ),
    )
    raw = write(outgoing, logo, pdf)
    assert [p.get_content_type() for p in theirs(raw).walk()] == [
        "multipart/mixed",
        "multipart/related",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "image/png",
        "application/pdf",
    ]
    parsed = ours(raw)
    assert (parsed.text, parsed.html) == ("Grüße\n", outgoing.html + "\n")
    assert [(a.name, a.inline, read_all(a.content)) for a in parsed.attachments] == [
        ("logo.png", True, logo),
        ("Angebot für Köln.pdf", False, pdf),
    ]
    assert [p.get_filename() for p in theirs(raw).walk() if p.get_filename()] == ["logo.png", "Angebot für Köln.pdf"]


def test_the_same_input_gives_the_same_bytes() -> None:
    data = b"x" * 300_000
    outgoing = draft(attachments=(attachment("a.bin", data),), html="<p>x</p>")
    assert write(outgoing, data) == write(outgoing, data)


def test_bcc_is_never_on_the_wire() -> None:
    raw = write(draft(bcc=(Address("Secret", "secret@example.net"),)))
    assert b"ecret" not in raw
    assert b"bcc" not in raw.lower()


def test_only_bcc_receivers() -> None:
    raw = write(draft(to=(), bcc=(Address("", "secret@example.net"),)))
    assert b"To: undisclosed-recipients:;\r\n" in raw


def test_receipts_and_automatic_mail_only_when_asked() -> None:
    plain = ours(write(draft()))
    assert [plain.header(n) for n in ("Disposition-Notification-To", "Auto-Submitted", "X-Priority")] == ["", "", ""]
    asked = ours(write(draft(read_receipt=True, importance=0), auto_submitted="auto-replied"))
    assert asked.header("Disposition-Notification-To") == "Support <support@example.com>"
    assert asked.header("Auto-Submitted") == "auto-replied"
    assert asked.header("Importance") == "low"


def test_international_domains_become_ascii_and_local_parts_need_smtputf8() -> None:
    ascii_local = draft(to=(Address("Jürgen", "j@münchen.de"),))
    assert not needs_smtputf8(ascii_local)
    assert ours(write(ascii_local)).to == (Address("Jürgen", "j@xn--mnchen-3ya.de"),)
    utf8_local = draft(to=(Address("", "用户@例え.jp"),))
    assert needs_smtputf8(utf8_local)
    assert needs_smtputf8(draft(bcc=(Address("", "é@x.org"),)))
    raw = write(utf8_local)
    assert ours(raw).to == (Address("", "用户@xn--r8jz45g.jp"),)
    assert "To: 用户@xn--r8jz45g.jp\r\n".encode() in raw


def test_references_keep_the_first_and_the_newest_in_two_kibibytes() -> None:
    ids = tuple(f"{n:03}@" + "x" * 40 + ".example.org" for n in range(100))
    assert ours(write(draft(references=ids))).references == (ids[0], *ids[-20:])
    long = tuple(f"{n:03}@" + "x" * 300 + ".example.org" for n in range(100))
    kept = ours(write(draft(references=long))).references
    assert kept == (long[0], *long[-5:])
    assert sum(len(i) + 3 for i in kept) <= 2048


@pytest.mark.parametrize("bad", ["a@b\r\nBcc: c@d.org", "a b@c.org", "no address", "a@b>", "a\u2028@b.org"])
def test_an_address_that_cannot_be_written_is_refused_not_changed(bad: str) -> None:
    with pytest.raises(Permanent, match="cannot be written"):
        compose(draft(to=(Address("", bad),)), STAMPS, {})


def test_missing_bytes_and_missing_sender_are_refused_with_a_cure() -> None:
    with pytest.raises(Permanent, match="attach the file again"):
        compose(draft(attachments=(attachment("a.pdf", b"x"),)), STAMPS, {})
    with pytest.raises(Permanent, match="give the sending user"):
        compose(draft(from_=Address("x", "")), STAMPS, {})


def test_attached_messages_are_sent_as_files() -> None:
    data = b"Subject: x\n\nno CRLF"
    parsed = ours(write(draft(attachments=(attachment("x.eml", data, "message/rfc822"),)), data))
    assert [(a.name, a.content_type, read_all(a.content)) for a in parsed.attachments] == [
        ("x.eml", "application/octet-stream", data)
    ]


def test_large_attachments_are_not_held_in_memory() -> None:
    class Counted(BytesContent):
        opened = 0

        def open(self) -> Any:
            Counted.opened += 1
            return super().open()

    data = b"y" * 3_000_000
    content = compose(
        draft(attachments=(attachment("y", data),)), STAMPS, {hashlib.sha256(data).digest(): Counted(data)}
    )
    assert Counted.opened == 0
    with content.open() as source:
        source.read(10_000)
    assert Counted.opened == 1
    (read_back,) = ours(read_all(content)).attachments
    assert read_back.sha256 == hashlib.sha256(data).digest()


# --- Properties -------------------------------------------------------------------------------------------------------

# Whatever a person, or an attacker who writes into the CRM, may put into a field.
wild = st.text(
    st.one_of(st.characters(), st.sampled_from("\r\n\x00\u2028\u2029\x85 \t=?<>,;:\"\\@()'é日")), max_size=150
)
bodies = st.one_of(wild, st.text(max_size=3000), st.text("abc \n.=_-é\r", max_size=400))


def normal(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    text = text.encode("utf-8", "replace").decode()
    return text if text.endswith("\n") else text + "\n"


@given(subject=wild, name=wild, file_name=wild, other=wild)
def test_no_text_becomes_a_header_and_all_is_read_back(subject: str, name: str, file_name: str, other: str) -> None:
    data = b"data"
    outgoing = draft(
        subject=subject,
        from_=Address(name, "support@example.com"),
        to=(Address(other, "ann@example.org"), Address(name, "bob@example.org")),
        attachments=(attachment(file_name, data, other, content_id=other),),
        in_reply_to=other,
        references=(other, "known@example.org"),
    )
    raw = write(outgoing, data, auto_submitted=other)
    parsed = ours(raw)
    assert {h.name for h in parsed.headers} <= KNOWN
    assert len({h.name for h in parsed.headers}) == len(parsed.headers)
    assert parsed.subject == fields.clean(subject)
    assert [a.address for a in (*parsed.from_, *parsed.to)] == [
        "support@example.com",
        "ann@example.org",
        "bob@example.org",
    ]
    assert parsed.from_[0].name.strip("'\" ") == " ".join(fields.clean(name).split()).strip("'\" ")
    expected = names.safe(file_name) or names.of_type(other)
    assert [(a.name, read_all(a.content)) for a in parsed.attachments] == [(expected, data)]
    message = theirs(raw)
    assert [a.addr_spec for a in message["To"].addresses] == ["ann@example.org", "bob@example.org"]
    assert sorted(message.keys()) == sorted(h.name for h in parsed.headers)
    assert " ".join(str(message["Subject"]).split()) == " ".join(fields.clean(subject).split())


@given(text=bodies, html=bodies)
def test_bodies_are_read_back_exactly(text: str, html: str) -> None:
    raw = write(draft(text=text, html=html))
    parsed = ours(raw)
    if text.strip() or not html:
        assert parsed.text == normal(text)
    assert parsed.html == (normal(html) if html else "")
    parts = [p for p in theirs(raw).walk() if not p.is_multipart()]
    assert [p.get_payload(decode=True).decode(p.get_param("charset")).replace("\r\n", "\n") for p in parts] == (
        [parsed.text, parsed.html] if html else [parsed.text]
    )


@given(st.binary(max_size=2000), st.integers(0, 3))
def test_attachments_are_read_back_exactly(data: bytes, more: int) -> None:
    data = data * more * 57
    parsed = ours(write(draft(attachments=(attachment("a.bin", data, "text/plain"),)), data))
    assert [read_all(a.content) for a in parsed.attachments] == [data]
