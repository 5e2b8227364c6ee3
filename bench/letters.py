"""Real messages made distinct: what the receiving benchmarks find in the mailbox.

The originals (a corpus and a threaded archive) lie beside the repository and are only read. Each copy gets a
Message-ID, a Date and a line of its body of its own, so that no message is a duplicate of another; ids in In-Reply-To
and References change in the same way, so that conversations stay conversations.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from email_router.mime.contents import BytesContent
from email_router.mime.parse import parse

SHARED = Path(__file__).resolve().parents[2] / "shared"
LARGEST = 1024 * 1024
FIRST_DATE = datetime(2026, 1, 1, tzinfo=UTC)

_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_TEXT_PART = re.compile(rb"\ncontent-type[ \t]*:[ \t]*text/(?:plain|html)\b", re.IGNORECASE)
_BASE64 = re.compile(rb"^content-transfer-encoding[ \t]*:[ \t]*\"?base64", re.IGNORECASE | re.MULTILINE)
_MULTIPART = re.compile(rb"^content-type[ \t]*:\s*multipart/", re.IGNORECASE | re.MULTILINE)
_NO_TEXT = re.compile(rb"^content-type[ \t]*:\s*(?!text/|multipart/)", re.IGNORECASE | re.MULTILINE)


def mixed(count: int, directory: Path | None = None) -> list[bytes]:
    """`count` distinct messages, line ends LF, in a fixed order in which corpus and archive are mixed.

    With `directory`, of the files below it instead. Raises SystemExit when there are no originals.
    """
    originals = list(usable([*corpus(), *archive()] if directory is None else files(directory)))
    if not originals:
        place = f"{SHARED} is not there" if directory is None else f"{directory} holds none"
        raise SystemExit(f"no messages to measure with: {place}; name a directory of messages: --originals DIRECTORY")
    random.Random(1).shuffle(originals)  # noqa: S311 - an order, no secret
    return [distinct(originals[n % len(originals)], n, n // len(originals)) for n in range(count)]


def corpus() -> Iterator[bytes]:
    manifest = SHARED / "corpus" / "manifest.jsonl"
    if manifest.is_file():
        for line in manifest.read_text().splitlines():
            yield (manifest.parent / json.loads(line)["file"]).read_bytes()


def archive() -> Iterator[bytes]:
    mbox = SHARED / "threads" / "dev" / "usrp-users-2021.mbox.gz"
    if mbox.is_file():
        data = gzip.decompress(mbox.read_bytes())
        truth = mbox.with_name("usrp-users-2021.truth.jsonl").read_text().splitlines()
        starts = [json.loads(line)["mbox_offset"] for line in truth]
        yield from (data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True))


def files(directory: Path) -> Iterator[bytes]:
    """Each file is a message: a Maildir, or `*.eml`."""
    yield from (path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def usable(originals: Iterable[bytes]) -> Iterator[bytes]:
    """Those that any mail server stores and returns byte by byte, that name a sender, and whose Message-ID is new.

    A message without a sender is not tracked by any filter, so that it would not be an activity.
    """
    ids: set[str] = set()
    for original in originals:
        raw = _lines(original)
        if len(raw) > LARGEST or b"\0" in raw or b"\r" in raw or not _FIELD.match(raw) or b"\n\n" not in raw:
            continue
        head = raw.partition(b"\n\n")[0]
        if _BASE64.search(head) and _NO_TEXT.search(head):
            continue  # one file and nothing else: no line of it can be changed without breaking the file
        email = parse(BytesContent(raw))
        if not email.from_ or not email.from_[0].address or (email.message_id and email.message_id in ids):
            continue
        ids.add(email.message_id)
        yield raw


def distinct(raw: bytes, number: int, round_: int) -> bytes:
    """A copy that differs in Message-ID, Date and a line of the body. `round_` counts the copies of one original."""
    head, _, body = raw.partition(b"\n\n")
    fields = [f for f in _fields(head) if _name(f) != b"date"]
    fields = [_other_ids(f, round_) if _name(f) in (b"in-reply-to", b"references") else f for f in fields]
    named = [n for n, f in enumerate(fields) if _name(f) == b"message-id"]
    if named and b">" in fields[named[0]]:
        fields = [f for n, f in enumerate(fields) if n not in named[1:]]
        fields[named[0]] = _other_ids(fields[named[0]], round_)
    else:
        fields = [f for n, f in enumerate(fields) if n not in named]
        fields.append(b"Message-ID: <%d@bench.test>" % number)
    date = format_datetime(FIRST_DATE + timedelta(seconds=number)).encode()
    fields.append(b"Date: " + date)
    body = _other_line(head, body, b"This is message %09d of the benchmark." % number)
    return b"\n".join(fields) + b"\n\n" + body.removesuffix(b"\n") + b"\n"  # POP3 ends every message in a line end


def _lines(data: bytes) -> bytes:
    data = data.replace(b"\r\n", b"\n").lstrip(b"\n")
    return data.partition(b"\n")[2] if data.startswith((b"From ", b">From ")) else data


def _fields(head: bytes) -> list[bytes]:
    """Fields with their continuation lines."""
    fields: list[bytes] = []
    for line in head.split(b"\n"):
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1] += b"\n" + line
        else:
            fields.append(line)
    return fields


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].strip().lower()


def _other_ids(field: bytes, round_: int) -> bytes:
    return field.replace(b">", b".%d>" % round_)


def _other_line(head: bytes, body: bytes, line: bytes) -> bytes:
    """`line` at the start of the text: encoded where the text is base64, before the first part where there is none."""
    if not _MULTIPART.search(head):
        return _encoded(head, line) + body
    part = _TEXT_PART.search(body)
    end = body.find(b"\n\n", part.start() + 1) if part else -1
    if part is None or end < 0:
        return line + b"\n" + body
    return body[: end + 2] + _encoded(body[part.start() : end], line) + body[end + 2 :]


def _encoded(head: bytes, line: bytes) -> bytes:
    if _BASE64.search(head):
        padded = line.ljust(-(-len(line) // 3) * 3 - 1) + b"\n"  # a multiple of three: what follows stays readable
        return base64.b64encode(padded) + b"\n"
    return line + b"\n"


def as_sent(raw: bytes) -> bytes:
    """The message as it goes over the wire."""
    return raw.replace(b"\n", b"\r\n")


def total(messages: Sequence[bytes]) -> int:
    return sum(map(len, messages))
