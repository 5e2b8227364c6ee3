"""The benchmark's own logic: messages are made distinct without harm, and books that are wrong void a figure."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bench import __main__ as bench
from bench.books import differences, expected
from bench.figures import OURS, Outcome, Race, Run, of_race
from bench.letters import as_sent, distinct, mixed, usable

from email_router.mime.contents import BytesContent, read_all
from email_router.mime.identity import identity_of
from email_router.mime.parse import parse
from email_router.model.message import ParsedEmail

PLAIN = (
    b"From: Bob <bob@customer.test>\nTo: help@router.test\nCc: ann@router.test\nSubject: plans\n"
    b"Message-ID: <1@customer.test>\nIn-Reply-To: <0@customer.test>\nReferences:\n <a@customer.test>\n"
    b" <0@customer.test>\nDate: Mon, 2 Nov 2026 10:00:00 +0000\n\nWe have plans.\n"
)
FILE = b"\0\1\2 a file"
MULTIPART = (
    b'From: bob@customer.test\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="B"\n\nNobody reads this.\n'
    b"--B\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\n" + base64.b64encode(b"Here it is.\n") + b"\n"
    b"--B\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n"
    + base64.b64encode(FILE)
    + b"\n--B--\n"
)


def read(raw: bytes) -> ParsedEmail:
    return parse(BytesContent(raw))


def test_a_copy_has_another_message_id_another_date_and_another_line() -> None:
    copy = read(distinct(PLAIN, 7, 1))
    assert copy.message_id == "1@customer.test.1"
    assert copy.date is not None
    assert copy.date.isoformat() == "2026-01-01T00:00:07+00:00"
    assert copy.text == "This is message 000000007 of the benchmark.\nWe have plans.\n"
    assert (copy.subject, copy.from_, copy.to, copy.cc) == (
        *(read(PLAIN).subject, read(PLAIN).from_),
        *(read(PLAIN).to, read(PLAIN).cc),
    )


def test_the_ids_of_a_conversation_change_together() -> None:
    copy = read(distinct(PLAIN, 7, 1))
    assert copy.in_reply_to == ("0@customer.test.1",)
    assert copy.references == ("a@customer.test.1", "0@customer.test.1")


def test_copies_of_one_message_are_different_messages() -> None:
    assert len({identity_of(distinct(raw, n, n)) for raw in (PLAIN, MULTIPART) for n in range(10)}) == 20


def test_an_encoded_text_gets_its_line_and_its_attachment_stays() -> None:
    copy = read(distinct(MULTIPART, 12, 0))
    assert copy.text.split("\n") == [f"{'This is message 000000012 of the benchmark.':<44}", "Here it is.", ""]
    assert copy.message_id == "12@bench.test"
    assert [read_all(a.content) for a in copy.attachments] == [FILE]
    assert copy.defects == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"To: nobody\n\nno sender\n",
        b"From: bob@customer.test\n\n\0\n",
        b"From: bob@customer.test\n\nhalf a\rline\n",
        b"no header at all",
        b"From: b@c.test\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\nAAAA\n",
        PLAIN.replace(b"plans", b"the same Message-ID"),
    ],
)
def test_what_no_server_returns_byte_by_byte_or_no_filter_takes_is_left_out(raw: bytes) -> None:
    assert list(usable([PLAIN, raw])) == [PLAIN]


def test_line_ends_and_a_first_line_of_an_mbox_are_no_part_of_a_message() -> None:
    assert list(usable([b"From bob Mon Nov  2 10:00:00 2026\r\n" + as_sent(PLAIN)])) == [PLAIN]


MESSAGES = [distinct(PLAIN, n, n) for n in range(3)] + [distinct(MULTIPART, 3, 0)]
WANTED = expected(MESSAGES)


def test_right_books_have_no_differences() -> None:
    assert differences(WANTED, list(WANTED.items())) == []
    [attached] = [entry for entry in WANTED.values() if entry.attachments]
    assert attached.attachments == (hashlib.sha256(FILE).digest(),)
    assert sorted(entry.party_count for entry in WANTED.values()) == [1, 3, 3, 3]


def test_a_missing_a_doubled_and_a_strange_message_are_told() -> None:
    (first, entry), *rest = WANTED.items()
    assert differences(WANTED, rest) == ["3 activities instead of 4", f"1 not filed, the first {first.hex()}"]
    assert differences(WANTED, [*WANTED.items(), (first, entry)]) == [
        "5 activities instead of 4",
        f"1 filed twice, the first {first.hex()}",
    ]
    assert differences(WANTED, [(b"strange", entry), *rest]) == [
        f"1 of nobody's message, the first {b'strange'.hex()}",
        f"1 not filed, the first {first.hex()}",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"raw": b""}, "the message is not the one that was sent"),
        ({"parties": b""}, "3 parties, not the 3 of the message"),
        ({"party_count": 2}, "2 parties, not the 3 of the message"),
        ({"attachments": (b"x",)}, "1 attachments, not these 0"),
    ],
)
def test_another_content_is_told(change: dict[str, object], words: str) -> None:
    (first, entry), *rest = WANTED.items()
    assert differences(WANTED, [(first, replace(entry, **change)), *rest]) == [f"{first.hex()}: {words}"]  # type: ignore[arg-type]


def test_a_ratio_is_the_median_of_the_turns() -> None:
    race = Race("receiving")
    for ours, theirs in ((1.0, 0.5), (10.0, 5.0), (2.0, 8.0)):
        race.add(OURS, Run(100, ours))
        race.add("mbsync", Run(100, theirs))
    race.add("fetchmail", Run(100, 4.0))
    race.skipped["getmail6"] = "not installed"
    outcome = of_race(race, "receive_imap", [(name, name) for name in ("mbsync", "fetchmail", "getmail6")])
    assert outcome.figures == {
        "receive_imap_vs_mbsync": "0.50",
        "receive_imap_vs_fetchmail": "4.00",
        "receive_imap_vs_getmail6": "SKIPPED",
    }
    assert "  getmail6          skipped: not installed" in outcome.rows
    assert not outcome.void


def test_wrong_books_void_every_ratio_and_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    race = Race("receiving")
    race.add(OURS, Run(100, 1.0))
    race.add("mbsync", Run(100, 1.0))
    race.void += differences(WANTED, [])

    def measured(given: object) -> Iterator[Outcome]:
        yield of_race(race, "receive_imap", [("mbsync", "mbsync")])
        yield Outcome(["fine"], {"idle_delay_median_s": "0.50"})

    monkeypatch.setattr(bench, "_measurements", measured)
    monkeypatch.setattr(sys, "argv", ["bench"])
    assert bench.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  VOID: 0 activities instead of 4" in lines
    assert lines[-2:] == ["receive_imap_vs_mbsync VOID", "idle_delay_median_s 0.50"]


def test_an_unknown_figure_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "recieve"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "no such figure: recieve" in capsys.readouterr().err


def test_messages_of_ones_own_are_measured_with(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1").write_bytes(b"From: a@x.test\nMessage-ID: <1@x.test>\n\nhello\n")
    first, second = mixed(2, tmp_path)
    assert first != second and all(raw.endswith(b"hello\n") for raw in (first, second))


def test_without_messages_the_cure_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"{tmp_path} holds none; name a directory of messages: --originals"):
        mixed(1, tmp_path)
