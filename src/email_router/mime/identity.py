"""The identity of a message: one message is one activity, whatever carried it here. Frozen; see `identity`.

What may fail: the content cannot be opened or read; the error of its stream is raised and nothing is known.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import BinaryIO

from email_router.mime.contents import CHUNK
from email_router.model.message import Content

VERSION = 1
_HEADER_LIMIT = 1024 * 1024
_FIELDS = (b"message-id", b"from", b"date")
_SUBJECT = b"subject"
_MBOX = re.compile(rb">?From [^\n]*\n")
_FIELD_BEGINS = re.compile(rb"[!-9;-~]+[ \t]*:|[ \t]")
_NO_FIELD_BEGINS = re.compile(rb"\n(?![!-9;-~]+[ \t]*:|[ \t])")
_WANTED = re.compile(
    rb"\n([Mm][Ee][Ss][Ss][Aa][Gg][Ee]-[Ii][Dd]|[Ff][Rr][Oo][Mm]|[Dd][Aa][Tt][Ee]|[Ss][Uu][Bb][Jj][Ee][Cc][Tt])[ \t]*+:"
    rb"([^\n]*+(?:\n[ \t][^\n]*+)*+)"
)
_SPACES = re.compile(rb"[ \t\n]+")


def identity(content: Content) -> bytes:
    """Sha256 (32 bytes) that names a message. Reads the content once, in constant memory.

    Version 1, frozen: changing any of this would file every stored message a second time.

    1. Line ends: CRLF, a lone CR and a lone LF each count as one LF. Leading LFs are dropped.
    2. The header section is the longest run of lines at the start that are fields (`name:`, RFC 5322 section 2.2, white
       space allowed before the colon; bytes 33 to 126) or begin with a space or tab. A first line `From ` or `>From `
       (mbox) is passed over. One LF after the run is the separator and belongs to nothing; without it, the first other
       line begins the body. If the run is longer than 1 MiB, its first MiB is the header section.
    3. Of the fields Message-ID, From and Date (any case) all occurrences count, in the order of the message; a value is
       its bytes with each run of spaces, tabs and folds as one space, and none at its ends.
    4. Trailing LFs of the body are dropped. Nothing else is: encodings, `>From ` quoting and white space stay.
    5. A message with none of the three fields and an empty body has its header section as its body.
    6. Without Message-ID and Date the Subject tells two messages apart, as sensors and old devices send them: all
       occurrences count, as in 3, unless 5 applies.

    The hash is over: the byte 1; then for Message-ID, From, Date: the number of values (4 bytes, big endian) and each
    value with its length before it (4 bytes, big endian); then the body; then, by 6 and if there is one, the Subject in
    the same way.
    """
    with content.open() as source:
        return _identity(_normalised(source))


def identity_of(data: bytes) -> bytes:
    """`identity` of a message that is in memory as a whole."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return _identity(iter((data.lstrip(b"\n"),)))


def fields_end(data: bytes, limit: int) -> int:
    """Where the leading fields and their continuation lines end, at most `limit`; a first line of mbox is passed over.

    Found by searching for the first other line, which costs the same for any input. A pattern of all the lines would
    need a possessive group, and before Python 3.11.5 one that fails swallows what it had begun (cpython gh-106052).
    """
    mbox = _MBOX.match(data, 0, limit)
    start = mbox.end() if mbox else 0
    if not _FIELD_BEGINS.match(data, start, limit):
        return start
    other = _NO_FIELD_BEGINS.search(data, start, limit)
    return other.end() if other else min(len(data), limit)


def made_message_id(identity: bytes) -> str:
    """A Message-ID, without angle brackets, for mail that has none: the same for each copy of the message.

    `.invalid` (RFC 2606) says that no system issued it.
    """
    return base64.b32encode(identity[:20]).decode("ascii").lower() + "@no-message-id.invalid"


def _normalised(source: BinaryIO) -> Iterator[bytes]:
    """Chunks with LF as line end, leading LFs dropped."""
    rest = b""
    started = False
    while chunk := source.read(CHUNK):
        data = rest + chunk
        rest = b"\r" if data.endswith(b"\r") else b""  # half of a CRLF, perhaps
        data = data[: len(data) - len(rest)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not started:
            data = data.lstrip(b"\n")
            started = bool(data)
        yield data
    if rest:
        yield b"\n"


def _identity(chunks: Iterator[bytes]) -> bytes:
    head = b""
    for chunk in chunks:
        head = head + chunk if head else chunk
        if len(head) > _HEADER_LIMIT or b"\n\n" in head:
            break
    header = head[: fields_end(head, _HEADER_LIMIT)]
    body = head[len(header) :].removeprefix(b"\n") if header else head

    digest = hashlib.sha256(bytes((VERSION,)))
    values = _values(header)
    for name in _FIELDS:
        digest.update(_framed(values[name]))
    has_body = _hash_body(digest, body, chunks)
    if not has_body and not any(values[name] for name in _FIELDS):
        digest.update(header.rstrip(b"\n"))
    elif values[_SUBJECT] and not (values[b"message-id"] or values[b"date"]):
        digest.update(_framed(values[_SUBJECT]))
    return digest.digest()


def _framed(values: list[bytes]) -> bytes:
    return len(values).to_bytes(4, "big") + b"".join(len(value).to_bytes(4, "big") + value for value in values)


def _values(header: bytes) -> dict[bytes, list[bytes]]:
    values: dict[bytes, list[bytes]] = {name: [] for name in (*_FIELDS, _SUBJECT)}
    for name, value in _WANTED.findall(b"\n" + header):
        values[name.lower()].append(_SPACES.sub(b" ", value.strip(b" \t\n")))
    return values


def _hash_body(digest: hashlib._Hash, first: bytes, chunks: Iterator[bytes]) -> bool:
    """Hash the body without its trailing LFs; false when nothing was left to hash."""
    pending = 0
    something = False
    data: bytes | None = first
    while data is not None:
        kept = data.rstrip(b"\n")
        if kept:
            while pending:
                run = min(pending, CHUNK)
                digest.update(b"\n" * run)
                pending -= run
            digest.update(kept)
            something = True
        pending += len(data) - len(kept)
        data = next(chunks, None)
    return something
