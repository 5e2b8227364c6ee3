"""The letters of the story are what they say: read by the standard library and by our own reader, without a defect."""

from __future__ import annotations

import base64
import email
import email.policy
import re
import zlib
from datetime import datetime, timedelta, timezone

import pytest

from email_router.demo import messages
from email_router.demo.enclosures import drawing, order_form
from email_router.demo.messages import ANNA, BOB, CARLA, DANIEL, JÜRGEN, SUPPORT, VIKTOR, Letter
from email_router.mime.parse import parse
from email_router.net.spool import MemoryContent

WHEN = datetime(2026, 11, 23, 8, 41, 7, tzinfo=timezone(timedelta(hours=1)))
ANSWER = (
    "Return-Path: <router@contoso.example>\r\nFrom: Contoso Support <support@contoso.example>\r\n"
    "To: Carla Mendes <carla.mendes@fabrikam.example>\r\n"
    "Subject: =?utf-8?q?RE=3A_Oven_3_stops_at_180_=C2=B0C?= CRM:0001001\r\n"
    "Message-ID: <0198.answer@contoso.example>\r\nReferences: <first@fabrikam.example>\r\n"
    "Date: Mon, 23 Nov 2026 09:02:00 +0000\r\nMIME-Version: 1.0\r\n"
    "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    "Hello Carla,\r\n\r\npress Réset for 10 seconds.\r\n"
).encode()
LETTERS = {
    "first mail": messages.first_mail(WHEN),
    "cold mail": messages.cold_mail(WHEN),
    "order with drawing": messages.order_with_drawing(WHEN),
    "reply": messages.reply(ANSWER, WHEN),
    "to two mailboxes": messages.to_two_mailboxes(WHEN),
    "question": messages.question(WHEN),
    "afterthought": messages.afterthought(messages.question(WHEN), WHEN),
    "refused by the CRM": messages.refused_by_crm(WHEN),
    "too large": messages.too_large(WHEN, 300_000),
    "while away": messages.while_away(WHEN),
}


@pytest.mark.parametrize("name", LETTERS)
def test_the_standard_library_reads_it_without_a_defect(name: str) -> None:
    letter = LETTERS[name]
    assert re.search(rb"(?<!\r)\n|\r(?!\n)", letter.raw) is None
    assert all(len(line) <= 998 for line in letter.raw.split(b"\r\n"))
    assert letter.raw.isascii()
    read = email.message_from_bytes(letter.raw, policy=email.policy.default)
    assert [part.defects for part in read.walk()] == [[] for _ in read.walk()]
    assert read["Subject"] == letter.subject
    assert read["Message-ID"] == letter.message_id
    assert read["Date"].datetime == WHEN
    assert [(a.display_name, a.addr_spec) for a in read["From"].addresses] == [letter.sender]
    assert [(a.display_name, a.addr_spec) for a in read["To"].addresses] == list(letter.recipients)


@pytest.mark.parametrize("name", LETTERS)
def test_our_reader_agrees(name: str) -> None:
    letter = LETTERS[name]
    read = parse(MemoryContent(letter.raw))
    assert read.defects == ()
    assert read.subject == letter.subject
    assert read.message_id.casefold() == letter.message_id.strip("<>").casefold()
    assert [tuple(address) for address in read.from_] == [letter.sender]
    assert [tuple(address) for address in read.to] == list(letter.recipients)


def test_no_two_letters_have_the_same_id() -> None:
    again = messages.first_mail(WHEN + timedelta(seconds=1))
    ids = [letter.message_id for letter in LETTERS.values()]
    assert len({*ids, again.message_id}) == len(LETTERS) + 1
    assert all(re.fullmatch(r"<[^<>@\s]+@[a-z.A-Z0-9]+\.example>", message_id) for message_id in ids)


def test_who_writes_to_whom() -> None:
    def way(name: str) -> tuple[messages.Person, tuple[messages.Person, ...]]:
        letter: Letter = LETTERS[name]
        return letter.sender, letter.recipients

    assert way("first mail") == (CARLA, (SUPPORT,))
    assert way("cold mail") == (VIKTOR, (BOB,))
    assert way("order with drawing") == (JÜRGEN, (ANNA,))
    assert way("reply") == (CARLA, (SUPPORT,))
    assert way("to two mailboxes") == (DANIEL, (SUPPORT, ANNA))


def test_the_order_has_a_picture_inside_and_a_document_beside() -> None:
    read = parse(MemoryContent(LETTERS["order with drawing"].raw))
    picture, document = read.attachments
    assert (picture.content_type, picture.inline, picture.name) == ("image/png", True, "skizze.png")
    assert f"cid:{picture.content_id}" in read.html
    assert picture.content.open().read() == drawing()
    assert (document.content_type, document.inline, document.name) == (
        "application/pdf",
        False,
        "Bestellung Köln 4711.pdf",
    )
    assert document.content.open().read() == order_form()
    assert "Grüße aus Köln" in read.text


def test_a_reply_names_what_it_answers_and_quotes_it() -> None:
    letter = LETTERS["reply"]
    read = parse(MemoryContent(letter.raw))
    assert letter.subject == "RE: Oven 3 stops at 180 °C CRM:0001001"
    assert read.in_reply_to == ("0198.answer@contoso.example",)
    assert read.references == ("first@fabrikam.example", "0198.answer@contoso.example")
    assert read.text.index("the reset worked") < read.text.index("press Réset for 10 seconds.")
    assert len(base64.b64decode(read.header("Thread-Index"))) == 22 + 2 * 5


def test_an_answer_without_re_gets_one() -> None:
    plain = ANSWER.replace(b"=?utf-8?q?RE=3A_Oven_3_stops_at_180_=C2=B0C?= CRM:0001001", b"Your oven CRM:0001002")
    assert messages.reply(plain, WHEN).subject == "RE: Your oven CRM:0001002"


def test_the_afterthought_answers_the_question() -> None:
    question, later = LETTERS["question"], LETTERS["afterthought"]
    read = email.message_from_bytes(later.raw, policy=email.policy.default)
    assert read["In-Reply-To"] == read["References"] == question.message_id
    assert later.subject == "RE: Cleaning the steam valves"


def test_only_one_letter_is_refused_by_the_crm() -> None:
    marked = [name for name, letter in LETTERS.items() if b"X-Demo-Filing: refuse\r\n" in letter.raw]
    assert marked == ["refused by the CRM"]


def test_the_large_letter_is_as_large_as_asked() -> None:
    (video,) = parse(MemoryContent(LETTERS["too large"].raw)).attachments
    assert video.size == 300_000


def test_the_picture_and_the_document_are_sound() -> None:
    png = drawing()
    start = png.index(b"IDAT")
    size = int.from_bytes(png[start - 4 : start], "big")
    assert len(zlib.decompress(png[start + 4 : start + 4 + size])) == 80 * (1 + 3 * 120)
    pdf = order_form()
    places = [int(place) for place in re.findall(rb"(\d{10}) 00000 n ", pdf)]
    assert [pdf[place : place + 7] for place in places] == [b"%d 0 obj" % n for n in range(1, 6)]
    assert pdf[int(re.findall(rb"startxref\n(\d+)", pdf)[0]) :].startswith(b"xref\n")
