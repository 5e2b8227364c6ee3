"""FETCH items (RFC 3501 section 6.4.5): what a client asks of a message, and the answer as bytes.

Body sections are the whole message, its header, chosen header fields and its text. What needs a MIME parser (ENVELOPE,
BODYSTRUCTURE, sections by part number) is answered with NO.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from email_router.demo.mailsystem.folder import StoredMessage
from email_router.demo.mailsystem.imap_syntax import Arguments, Bad, No, astring, internal_date

_FAST = ("FLAGS", "INTERNALDATE", "RFC822.SIZE")
_NOT_OFFERED = {"ALL", "FULL", "ENVELOPE", "BODY", "BODYSTRUCTURE"}
_PLAIN: dict[str, Callable[[StoredMessage], bytes]] = {
    "UID": lambda message: b"%d" % message.uid,
    "INTERNALDATE": lambda message: internal_date(message.received),
    "RFC822.SIZE": lambda message: b"%d" % len(message.raw),
    "RFC822": lambda message: literal(message.raw),
    "RFC822.HEADER": lambda message: literal(message.header),
    "RFC822.TEXT": lambda message: literal(message.body),
}
_MARK_SEEN = {"RFC822", "RFC822.TEXT"}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing asked for: its name in the answer, and how its value is made. FLAGS are the session's own to tell."""

    name: bytes
    value: Callable[[StoredMessage], bytes]
    marks_seen: bool = False


FLAGS = Item(b"FLAGS", lambda message: b"")
UID = Item(b"UID", _PLAIN["UID"])


def items(arguments: Arguments) -> list[Item]:
    """What a FETCH command asks for. Raises Bad."""
    if not arguments.skip(b"("):
        name, peek = _name(arguments)
        if name == "FAST":
            return [_item(arguments, part, False) for part in _FAST]
        return [_item(arguments, name, peek)]
    wanted = [_item(arguments, *_name(arguments))]
    while arguments.skip(b" "):
        wanted.append(_item(arguments, *_name(arguments)))
    arguments.expect(b")")
    return wanted


def literal(data: bytes) -> bytes:
    """A literal; NUL is not allowed in one (RFC 3501 section 9, CHAR8) and becomes 0x80, as elsewhere."""
    return b"{%d}\r\n%b" % (len(data), data.replace(b"\0", b"\x80"))


def _name(arguments: Arguments) -> tuple[str, bool]:
    """The item's name, and whether it was asked for by PEEK."""
    name = arguments.fetch_name()
    return name.removesuffix(".PEEK"), name == "BODY.PEEK"


def _item(arguments: Arguments, name: str, peek: bool) -> Item:
    if name == "BODY" and arguments.skip(b"["):
        return _section(arguments, peek)
    if peek:
        raise Bad("BODY.PEEK needs a section")
    if name == "FLAGS":
        return FLAGS
    if name in _NOT_OFFERED:
        raise No(f"[CANNOT] {name} is not offered here; fetch the whole message")
    if name not in _PLAIN:
        raise Bad(f"unknown FETCH item {name}")
    return Item(name.encode(), _PLAIN[name], name in _MARK_SEEN)


def _section(arguments: Arguments, peek: bool) -> Item:
    label, part = _part(arguments)
    arguments.expect(b"]")
    name = b"BODY[" + label + b"]"
    if not arguments.skip(b"<"):
        return Item(name, lambda message: literal(part(message)), not peek)
    start = arguments.number()
    arguments.expect(b".")
    count = arguments.number()
    if count == 0:
        raise Bad("a partial fetch of nothing")
    arguments.expect(b">")
    return Item(name + b"<%d>" % start, lambda message: literal(part(message)[start : start + count]), not peek)


def _part(arguments: Arguments) -> tuple[bytes, Callable[[StoredMessage], bytes]]:
    if arguments.at(b"]"):
        return b"", lambda message: message.raw
    name = arguments.fetch_name()
    if name == "HEADER":
        return b"HEADER", lambda message: message.header
    if name == "TEXT":
        return b"TEXT", lambda message: message.body
    if name == "MIME" or name[0].isdigit():
        raise No("[CANNOT] parts are not offered here; fetch the whole message")
    if name not in ("HEADER.FIELDS", "HEADER.FIELDS.NOT"):
        raise Bad(f"unknown section {name}")
    arguments.space()
    arguments.expect(b"(")
    fields = [arguments.field_name()]
    while arguments.skip(b" "):
        fields.append(arguments.field_name())
    arguments.expect(b")")
    chosen = frozenset(field.casefold() for field in fields)
    label = name.encode() + b" (" + b" ".join(astring(field) for field in fields) + b")"
    return label, lambda message: _fields(message.header, chosen, name == "HEADER.FIELDS")


def _fields(header: bytes, chosen: frozenset[str], wanted: bool) -> bytes:
    found = [
        field
        for field in re.split(rb"\r\n(?![ \t])", header)
        if field and (field.partition(b":")[0].strip().decode("latin-1").casefold() in chosen) is wanted
    ]
    return b"".join(field + b"\r\n" for field in found) + b"\r\n"
