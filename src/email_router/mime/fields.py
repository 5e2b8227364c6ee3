"""Writing header fields: folded, encoded, and proof against text that wants to be a field of its own.

Lines have at most 76 characters where words allow, and never more than 998 (RFC 5322 section 2.1.1).
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Iterable

from email_router.mime import addresses
from email_router.model.errors import Permanent
from email_router.model.message import Address

_LINE = 76
_WORD = 39
"""Bytes of UTF-8 in one encoded word: as base64 52 characters, under the 75 of RFC 2047 section 2."""
_LONGEST_ASCII_WORD = 200

# C0, DEL, C1, line and paragraph separators, directions, lone surrogates: nothing of this has a place in a header.
_UNWANTED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")
_SPACES = re.compile(" {2,}")
_ATOM_WORDS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")
_TOKEN = re.compile(r"[A-Za-z0-9!#$&^_.+-]+")
_ID = re.compile(r"[!-;=?-~]+")


def clean(text: str) -> str:
    """One line without control characters; runs of spaces as one."""
    return _SPACES.sub(" ", _UNWANTED.sub(" ", text)).strip()


def unstructured(name: str, text: str) -> str:
    """A whole field whose value is free text, with its final CRLF."""
    text = clean(text)
    if not text.isascii() or "=?" in text or len(max(text.split(" "), key=len)) > _LONGEST_ASCII_WORD:
        return _folded(name, encoded_words(text), " ")
    return _folded(name, text.split(" "), " ")


def _folded(name: str, words: Iterable[str], glue: str) -> str:
    """Words joined by `glue`, each line break before a space that belongs to the value."""
    lines = []
    line = f"{name}:"
    for n, word in enumerate(words):
        piece = word if n == 0 else glue.rstrip(" ") + " " + word
        text = " " + word if n == 0 else piece
        if len(line) + len(text) > _LINE and line.strip() and n:
            lines.append(line + glue.rstrip(" "))
            line = " " + word
        else:
            line += text
    lines.append(line)
    return "\r\n".join(lines) + "\r\n"


def encoded_words(text: str) -> list[str]:
    """RFC 2047 words in UTF-8; no character is split over two of them."""
    words = []
    chunk: list[str] = []
    size = 0
    for character in text:
        width = len(character.encode())
        if size + width > _WORD:
            words.append("".join(chunk))
            chunk, size = [], 0
        chunk.append(character)
        size += width
    words.append("".join(chunk))
    return [f"=?utf-8?B?{base64.b64encode(word.encode()).decode('ascii')}?=" for word in words]


def mailboxes(name: str, people: Iterable[Address]) -> str:
    """An address field with its final CRLF, or "" when nobody in it has an address.

    Raises Permanent for an address that cannot stand in a header: changing it would send mail to somebody else.
    """
    written = [mailbox(person) for person in people if person.address]
    return _folded(name, written, ", ") if written else ""


def mailbox(person: Address) -> str:
    """`Name <local@domain>`; several encoded words stand on lines of their own."""
    address = wire_address(person.address)
    shown = clean(person.name)
    if not shown:
        return address
    if not shown.isascii() or "=?" in shown or len(shown) > 60:
        return (
            "\r\n ".join(encoded_words(shown)) + f"\r\n <{address}>"
            if len(shown) > 25
            else (" ".join(encoded_words(shown)) + f" <{address}>")
        )
    if not _ATOM_WORDS.fullmatch(shown):
        shown = '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{shown} <{address}>"


def wire_address(address: str) -> str:
    """The address as it goes over the wire: its domain in A-labels. Raises Permanent when it is none."""
    wire = addresses.normalise(address)
    if not wire:
        raise Permanent(
            "an address cannot be written into a message",
            where=clean(address)[:100],
            cure="correct the address on the party or its record in the CRM, then send the email again",
        )
    return wire


def message_ids(name: str, ids: Iterable[str]) -> str:
    """A field of ids in angle brackets, with its final CRLF; "" when there is none."""
    good = [f"<{found}>" for raw in ids if (found := plain_id(raw))]
    return _folded(name, good, " ") if good else ""


def plain_id(raw: str) -> str:
    """An id without angle brackets, or "" when it cannot be written."""
    found = raw.strip().removeprefix("<").removesuffix(">")
    return found if len(found) <= 900 and _ID.fullmatch(found) else ""


def parameter(name: str, value: str) -> str:
    """`; name=value` on a line of its own, quoted or by RFC 2231 with continuations."""
    if value.isascii() and len(value) <= 60:
        if _TOKEN.fullmatch(value):
            return f";\r\n {name}={value}"
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f';\r\n {name}="{escaped}"'
    pieces = _percent_encoded(value)
    if len(pieces) == 1:
        return f";\r\n {name}*=utf-8''{pieces[0]}"
    first = f";\r\n {name}*0*=utf-8''{pieces[0]}"
    return first + "".join(f";\r\n {name}*{n}*={piece}" for n, piece in enumerate(pieces[1:], 1))


def _percent_encoded(value: str) -> list[str]:
    """Pieces of at most 50 characters; no character is split."""
    pieces = [""]
    for character in value:
        encoded = character if _PLAIN.fullmatch(character) else "".join(f"%{b:02X}" for b in character.encode())
        if len(pieces[-1]) + len(encoded) > 50:
            pieces.append("")
        pieces[-1] += encoded
    return pieces


_PLAIN = re.compile(r"[A-Za-z0-9._-]")


def ascii_name(name: str) -> str:
    """A file name for readers that know no RFC 2231: without accents, the rest as `_`."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode() if not name.isascii() else name
    if not plain.rpartition(".")[0].strip(" ._"):
        plain = "attachment." + plain.rpartition(".")[2].strip(" ._") if "." in plain else "attachment"
    stem, dot, extension = plain.rpartition(".")
    return re.sub(r'["\\]', "_", plain if len(plain) <= 60 else stem[:40] + dot + extension[:16])
