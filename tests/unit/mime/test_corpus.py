"""Every message of the corpus and of the threaded archive, with what independent projects expect of them.

The floors are what was measured; the misses are differences of notion (what counts as an attachment), fixtures whose
own expectation keeps a replacement character, and dates without a zone.
"""

from __future__ import annotations

import email
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from email.message import Message
from email.utils import parseaddr
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from email_router.mime.contents import BytesContent, read_all
from email_router.mime.html import sanitise, to_text
from email_router.mime.parse import parse
from email_router.model.message import ParsedEmail

SHARED = Path(__file__).resolve().parents[4] / "shared"
CORPUS = SHARED / "corpus"
ARCHIVE = SHARED / "threads" / "dev" / "usrp-users-2021"

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpus is not beside the repository"),
]


@cache
def corpus() -> list[tuple[dict[str, Any], ParsedEmail]]:
    lines = (CORPUS / "manifest.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r, parse(BytesContent((CORPUS / r["file"]).read_bytes()))) for r in records]


def archive() -> Iterator[tuple[bytes, dict[str, Any]]]:
    data = gzip.decompress(ARCHIVE.with_suffix(".mbox.gz").read_bytes())
    truth = [json.loads(line) for line in ARCHIVE.with_suffix(".truth.jsonl").read_text().splitlines()]
    ends = [t["mbox_offset"] for t in truth[1:]] + [len(data)]
    for record, end in zip(truth, ends, strict=True):
        yield data[record["mbox_offset"] : end], record


def flat(text: Any) -> str:
    return " ".join(str(text or "").split())


def one(value: Any) -> str:
    return str((value or [""])[0] if isinstance(value, list) else value)


AGREEMENT = {
    "subject": (lambda e: flat(e["subject"]), lambda p: flat(p.subject), 233, 243),
    "from": (lambda e: one(e["from"]).lower(), lambda p: p.from_[0].address.lower() if p.from_ else "", 221, 227),
    "to": (lambda e: e["to"], lambda p: [a.address for a in p.to], 193, 207),
    "message_id": (lambda e: flat(e["message_id"]).strip("<>").lower(), lambda p: p.message_id.lower(), 73, 73),
    "n_attachments": (lambda e: e["n_attachments"], lambda p: len(p.attachments), 232, 255),
    "attachment_names": (
        lambda e: sorted(n or "" for n in e["attachment_names"]),
        lambda p: sorted(a.name for a in p.attachments),
        138,
        185,
    ),
    "attachment_sha256": (
        lambda e: sorted(e["attachment_sha256"]),
        lambda p: sorted(a.sha256.hex() for a in p.attachments),
        101,
        115,
    ),
    "text": (lambda e: flat(e["text"]), lambda p: flat(p.text), 194, 231),
}


@pytest.mark.parametrize("key", AGREEMENT)
def test_agreement_with_the_expectations_of_others(key: str) -> None:
    theirs, ours, floor, of = AGREEMENT[key]
    pairs = [(theirs(r["expect"]), ours(p)) for r, p in corpus() if key in (r.get("expect") or {})]
    agreed = sum(a == b for a, b in pairs)
    assert len(pairs) == of
    assert agreed >= floor, f"{key}: {agreed} of {len(pairs)}"


def test_nothing_in_the_corpus_is_unparsable() -> None:
    assert [(r["file"], d) for r, p in corpus() for d in p.defects if d.code == "unparsable"] == []


def leaves(message: Message) -> Iterator[Message]:
    """The parts that the standard library sees, attached messages left closed."""
    if message.get_content_maintype() == "message":
        return
    if not message.is_multipart():
        yield message
        return
    for part in message.get_payload():
        yield from leaves(part)  # type: ignore[arg-type]


def test_no_text_is_lost() -> None:
    """The first words of each text part that the standard library finds are somewhere in what we hold.

    Eleven files differ, because the two disagree about where their broken headers end.
    """
    missing = set()
    for record, parsed in corpus():
        held = "".join([parsed.text, parsed.html, *(read_all(a.content).decode("latin-1") for a in parsed.attachments)])
        for part in leaves(email.message_from_bytes((CORPUS / record["file"]).read_bytes())):
            payload = part.get_payload(decode=True) if part.get_content_maintype() == "text" else None
            words = [w.decode() for w in payload.split() if w.isalnum()][:50] if isinstance(payload, bytes) else []
            missing |= {record["file"] for word in words if len(word) > 4 and word not in held}
    assert len(missing) <= 11, sorted(missing)


def test_text_and_html_of_all_can_be_shown() -> None:
    for _, parsed in corpus():
        assert "<script" not in sanitise(parsed.html).casefold()
        assert parsed.html.strip() == "" or isinstance(to_text(parsed.html), str)


def test_the_archive_agrees_with_its_truth() -> None:
    wrong = Counter[str]()
    count = 0
    for raw, truth in archive():
        parsed = parse(BytesContent(raw))
        count += 1
        wrong["defects"] += bool(parsed.defects)
        wrong["message_id"] += parsed.message_id.lower() != truth["message_id"].strip("<>").lower()
        wrong["from"] += parsed.from_[0].address.lower() != (truth["from_addr"] or "").lower()
        wrong["subject"] += flat(parsed.subject) != flat(truth["subject"])
    assert count == 2236
    assert {k: n for k, n in wrong.items() if n} == {}


def test_parity_with_the_standard_library_on_the_archive() -> None:
    """Another parser (compat32, the policy that never fails) sees the same sender and the same files, to the byte."""
    files = 0
    for raw, _ in archive():
        parsed = parse(BytesContent(raw))
        message = email.message_from_bytes(raw)
        assert parsed.from_[0].address.lower() == parseaddr(message["From"])[1].lower()
        for part in leaves(message):
            if part.get_filename() and part.get_content_disposition() == "attachment":
                files += 1
                assert part.get_payload(decode=True) in [read_all(a.content) for a in parsed.attachments]
    assert files == 96
