"""`make fuzz`: mutate messages for FUZZ_SECONDS (60) and say which ones break a promise of `email_router.mime`.

Seeds are messages made here and, where it is there, the shared corpus. A failure prints the number that makes the same
message again: `python -m tests.fuzz NUMBER`. Exit status 1 when anything failed.
"""

from __future__ import annotations

import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from email_router.mime import parse as parse_module
from email_router.mime.contents import BytesContent, read_all
from email_router.mime.html import sanitise, to_text
from email_router.mime.identity import identity, identity_of
from email_router.mime.parse import parse
from email_router.model.message import ParsedEmail

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
SLOWEST = 5.0
"""Seconds of processor time that no mutated message of at most 1 MB may need."""

MADE = (
    b"From: Ann <a@example.com>\r\nTo: b@example.com, Team: c@example.com;\r\nSubject: =?utf-8?q?Gr=C3=BC?=\r\n"
    b"Date: Mon, 2 Nov 2026 10:00:00 +0100\r\nMessage-ID: <1@example.com>\r\nReferences: <0@example.com>\r\n"
    b'Content-Type: multipart/mixed; boundary="B"\r\n\r\n--B\r\nContent-Type: text/html; charset=latin1\r\n\r\n'
    b"<p>x<img src=\"cid:i\"></p>\r\n--B\r\nContent-Type: image/png; name*0*=utf-8''%C3%BC; name*1=.png\r\n"
    b"Content-ID: <i>\r\nContent-Transfer-Encoding: base64\r\n\r\nAAECAw==\r\n--B\r\n"
    b"Content-Type: message/rfc822\r\n\r\n"
    b"Subject: inner\r\n\r\nx\r\n--B--\r\n",
    b"From: a@example.com\n\nplain\n",
)
WORDS = (
    b"\r\n", b"\n", b"\r", b"\x00", b"--B", b"--B--", b"=?utf-8?b?", b"?=", b'"', b"<", b">", b"(", b";", b",", b":",
    b"Content-Type: multipart/mixed; boundary=B\r\n", b"Content-Transfer-Encoding: quoted-printable\r\n",
    b"=", b"=\r\n",
    b"charset=utf-7", b"charset=unicode_escape", b"+2AA-", b"\xed\xa0\x80", b"\xff\xfe", b"\x1b$B", b"\xe2\x80\xa8",
    b"filename*0*=x''%", b"From: ", b"\r\n\r\n", b"\xef\xbb\xbf", b"message/rfc822", b"multipart/digest",
    b"begin 644 x\n",
)  # fmt: skip


def mutated(seeds: list[bytes], number: int) -> bytes:
    """The message of that number: the same wherever the seeds are the same."""
    dice = random.Random(number)
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.randint(1, 12)):
        at = dice.randint(0, len(data))
        end = min(len(data), at + dice.choice((1, 2, 8, 60, 400)))
        match dice.randint(0, 6):
            case 0:
                data[at:end] = b""
            case 1:
                data[at:at] = dice.choice(WORDS) * dice.choice((1, 1, 1, 3, 500))
            case 2:
                data[at:end] = dice.randbytes(end - at)
            case 3:
                data[at:at] = data[at:end]
            case 4:
                other = dice.choice(seeds)
                start = dice.randint(0, len(other))
                data[at:end] = other[start : start + dice.choice((10, 200, 2000))]
            case 5:
                del data[at:]
            case _:
                data[at:end] = bytes(data[at:end]).upper()
    return bytes(data[:1_000_000])


def check(data: bytes) -> None:
    """Every promise that holds for any bytes. Raises AssertionError, or whatever broke."""
    email = parse(BytesContent(data))
    assert not [d for d in email.defects if d.code == "unparsable"], email.defects
    assert email.identity == identity_of(data) == identity(BytesContent(data))
    unix = data.replace(b"\r\n", b"\n")
    assert b"\r" in unix or identity_of(unix) == email.identity
    for text in texts(email):
        assert "\x00" not in text
        text.encode()
    for header in email.headers:
        assert "\n" not in header.value
        assert "\r" not in header.value
    for attachment in email.attachments:
        assert attachment.name
        assert len(read_all(attachment.content)) == attachment.size
        assert not set(attachment.name) & set("/\\\r\n")
    assert "<script" not in sanitise(email.html).casefold()
    to_text(email.html)
    streamed = streamed_parse(data)
    assert (streamed.text, streamed.html, streamed.headers) == (email.text, email.html, email.headers)
    assert [(a.name, a.sha256) for a in streamed.attachments] == [(a.name, a.sha256) for a in email.attachments]


def streamed_parse(data: bytes) -> ParsedEmail:
    """As messages are parsed that are too large for the memory."""
    usual = parse_module.IN_MEMORY, parse_module._LARGE_PART
    parse_module.IN_MEMORY, parse_module._LARGE_PART = (0 if b"\n" in data else 1_000_000), 64
    try:
        return parse(BytesContent(data))
    finally:
        parse_module.IN_MEMORY, parse_module._LARGE_PART = usual


def texts(email: ParsedEmail) -> list[str]:
    people = (*email.from_, *email.sender, *email.reply_to, *email.recipients)
    return [
        email.subject,
        email.message_id,
        email.text,
        email.html,
        *email.references,
        *email.in_reply_to,
        *(a.name + a.address for a in people),
        *(h.name + h.value for h in email.headers),
        *(a.name + a.content_type + a.content_id for a in email.attachments),
    ]


def failure(data: bytes, promise: Callable[[bytes], None] = check) -> str:
    """What went wrong, or ""."""
    started = time.process_time()
    try:
        promise(data)
    except Exception:
        return traceback.format_exc(limit=-3)
    spent = time.process_time() - started
    return f"needed {spent:.1f} s" if spent > SLOWEST else ""


def main(arguments: list[str]) -> int:
    files = sorted(CORPUS.rglob("*.eml")) if CORPUS.is_dir() else []
    seeds = [*MADE, *(f.read_bytes() for f in files)]
    if arguments:
        said = failure(mutated(seeds, int(arguments[0])))
        print(said or "no failure")
        return 1 if said else 0
    ends = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "60"))
    first = number = random.SystemRandom().randrange(10**9)
    failures = 0
    while time.monotonic() < ends and failures < 20:
        if said := failure(mutated(seeds, number)):
            failures += 1
            print(f"--- python -m tests.fuzz {number}\n{said}")
        number += 1
    print(f"{number - first} messages from {len(seeds)} seeds, first number {first}: {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
