"""`explain` without settings and without a database: a decision and its reasons for any bytes, never a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fixtures.terminal import Terminal, written

CORPUS = Path(__file__).resolve().parents[4] / "shared" / "corpus"

REPLY = b"""From: Bob <bob@customer.test>\r
To: Help <help@acme.test>, anna@acme.test\r
Subject: =?utf-8?q?Re:_Gr=C3=BC=C3=9Fe?= CRM:0001001\r
Message-ID: <two@customer.test>\r
In-Reply-To: <one@acme.test>\r
Date: Mon, 23 Nov 2026 10:00:00 +0100\r
MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary=b\r
\r
--b\r
\r
Hello\r
--b\r
Content-Disposition: attachment; filename="a.txt"\r
\r
attached\r
--b--\r
"""


def test_a_message_for_people(bare: Terminal, tmp_path: Path) -> None:
    answer = bare("explain", written(tmp_path / "reply.eml", REPLY))
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[:4] == [
        f"{tmp_path}/reply.eml: tracked (AcceptAll)",
        "  Accepted: user help@acme.test <help@acme.test> takes all email messages.",
        "  Sender bob@customer.test matches no record and is kept as an address.",
        "  It starts a conversation: <one@acme.test> is not known here; the token CRM:0001001 belongs to no recent "
        "email of this organization.",
    ]
    facts = dict(line.strip().split("  ", 1) for line in lines[4:])
    assert facts["subject"].strip() == "Re: Grüße CRM:0001001"
    assert facts["attachments"].strip() == "a.txt (8 bytes)"
    assert facts["viewpoint"].strip() == "no CRM asked; help@acme.test as a user who tracks all email messages"


def test_a_message_for_programs(bare: Terminal, tmp_path: Path) -> None:
    answer = bare("explain", "--json", written(tmp_path / "reply.eml", REPLY))
    assert (answer.code, answer.err) == (0, "")
    row = answer.row
    assert {name: row[name] for name in ("accepted", "reason", "mailbox", "from", "to", "subject")} == {
        "accepted": True,
        "reason": "AcceptAll",
        "mailbox": "help@acme.test",
        "from": ["bob@customer.test"],
        "to": ["help@acme.test", "anna@acme.test"],
        "subject": "Re: Grüße CRM:0001001",
    }
    assert row["attachments"] == [{"name": "a.txt", "type": "text/plain", "size": 8, "inline": False}]
    assert (row["message_id"], row["in_reply_to"]) == ("two@customer.test", ["one@acme.test"])
    assert len(row["identity"]) == 64


@pytest.mark.parametrize(
    ("option", "accepted", "reason"),
    [
        ("all", True, "AcceptAll"),
        ("in-response", False, "NoCorrelationMatch"),
        ("from-leads-contacts-accounts", False, "NoCorrelationMatch"),
        ("from-email-enabled", False, "NoCorrelationMatch"),
        ("none", False, "NoCorrelationMatch"),
    ],
)
def test_a_viewpoint_is_chosen(bare: Terminal, tmp_path: Path, option: str, accepted: bool, reason: str) -> None:
    file = written(tmp_path / "reply.eml", REPLY)
    row = bare("explain", "--json", "--filter", option, "--mailbox", "Anna@acme.test", file).row
    assert (row["accepted"], row["reason"], row["mailbox"]) == (accepted, reason, "Anna@acme.test")


UGLY = {
    "empty": b"",
    "nul": b"\0" * 1000,
    "bytes": bytes(range(256)) * 100,
    "one line": b"x" * 1_000_000,
    "newlines": b"\n" * 100_000,
    "zip": b"PK\x03\x04" + os.urandom(1000),
    "headers": b"A:\r\n" * 50_000,
    "nested": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * 2000,
    "escapes": b"From: =?utf-8?q?=1B[31m?= <a@b.test>\r\nSubject: \x1b[2J=?utf-8?q?=9B=07=0D?=\r\n\r\n",
}


def test_any_bytes_are_explained_and_steer_nothing(bare: Terminal, tmp_path: Path) -> None:
    files = [written(tmp_path / name, raw) for name, raw in UGLY.items()]
    answer = bare("explain", "--json", *files)
    assert (answer.code, answer.err) == (0, "")
    assert [Path(row["file"]).name for row in answer.rows] == list(UGLY)
    assert bare("explain", *files).code == 0
    for said in (answer.out, bare("explain", tmp_path / "escapes").out):
        assert not {"\x1b", "\x9b", "\x07", "\r"} & set(said)


def test_what_is_no_file_is_told_and_the_others_are_explained(bare: Terminal, tmp_path: Path) -> None:
    good = written(tmp_path / "good.eml", REPLY)
    odd = written(tmp_path / os.fsdecode(b"b\xffd.eml"), REPLY)
    answer = bare("explain", "--json", tmp_path, tmp_path / "gone.eml", good, good / "below", odd)
    assert (answer.code, answer.err) == (1, "")
    assert [row.get("error", "explained") for row in answer.rows] == [
        "Is a directory",
        "No such file or directory",
        "explained",
        "Not a directory",
        "explained",
    ]
    answer = bare("explain", tmp_path, tmp_path / "gone.eml", good)
    assert answer.code == 1
    assert answer.err.splitlines() == [
        f"{tmp_path}: cannot be explained: Is a directory",
        f"{tmp_path}/gone.eml: cannot be explained: No such file or directory",
    ]
    assert answer.out.startswith(f"{good}: tracked")


def test_what_has_no_end_is_left_alone(bare: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("email_router.admin.explain.MOST", 1_000_000)
    answer = bare("explain", "/dev/zero")
    assert (answer.code, answer.err) == (1, "/dev/zero: cannot be explained: it is larger than 0 MB\n")


def test_without_a_file_the_use_is_shown(bare: Terminal) -> None:
    answer = bare("explain")
    assert (answer.code, answer.out) == (2, "")
    assert "file" in answer.err.lower()


def test_a_process_explains_what_comes_through_a_pipe(bare: Terminal) -> None:
    answer = bare.finished("explain", "--json", "/dev/stdin", given=REPLY)
    assert (answer.code, answer.row["subject"]) == (0, "Re: Grüße CRM:0001001")


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpus is not beside the repository")
def test_every_message_of_the_corpus_is_explained(bare: Terminal) -> None:
    files = sorted(CORPUS.rglob("*.eml"))
    answer = bare("explain", "--json", *files)
    assert (answer.code, answer.err) == (0, "")
    assert [row["file"] for row in answer.rows] == [str(file) for file in files]
    assert {row["reason"] for row in answer.rows} == {"AcceptAll", "InvalidSender"}
