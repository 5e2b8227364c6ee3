"""SEARCH (RFC 3501 section 6.4.4): a criterion becomes a function that says yes or no to a message."""

from __future__ import annotations

import email
import email.errors
import email.header
import re
from collections.abc import Callable
from datetime import UTC, date
from email.utils import parsedate_to_datetime

from email_router.demo.mailsystem.folder import StoredMessage
from email_router.demo.mailsystem.imap_syntax import Arguments, Bad, Range

Criterion = Callable[[int, StoredMessage], bool]
"""Takes the sequence number and the message."""
Highest = tuple[int, int]
"""What `*` stands for as sequence number and as UID."""

_FLAGS = {name: f"\\{name.title()}" for name in ("ANSWERED", "DELETED", "DRAFT", "FLAGGED", "SEEN")}
_DEEPEST = 50


def criteria(arguments: Arguments, highest: Highest, recent: Callable[[StoredMessage], bool]) -> Criterion:
    """Everything up to the end of the command, with its CHARSET. Raises Bad."""
    if arguments.skip(b"CHARSET "):
        charset = arguments.astring().upper()
        if charset not in (b"UTF-8", b"US-ASCII"):
            raise Bad("[BADCHARSET (US-ASCII UTF-8)] search in UTF-8")
        arguments.space()
    return _all_of(arguments, highest, recent, b"", 0)


def within(ranges: list[Range], highest: int) -> Callable[[int], bool]:
    """Membership of a set. `9:*` always names the highest number, also when that is below 9."""
    bounds = [
        tuple(sorted((highest if low is None else low, highest if high is None else high))) for low, high in ranges
    ]
    return lambda number: any(low <= number <= high for low, high in bounds)


def _all_of(
    arguments: Arguments, highest: Highest, recent: Callable[[StoredMessage], bool], closing: bytes, depth: int
) -> Criterion:
    wanted = [_one(arguments, highest, recent, depth)]
    while not (arguments.skip(closing) if closing else arguments.ended):
        arguments.space()
        wanted.append(_one(arguments, highest, recent, depth))
    return lambda number, message: all(criterion(number, message) for criterion in wanted)


def _one(arguments: Arguments, highest: Highest, recent: Callable[[StoredMessage], bool], depth: int) -> Criterion:
    if depth > _DEEPEST:
        raise Bad("too many parentheses")
    if arguments.skip(b"("):
        return _all_of(arguments, highest, recent, b")", depth + 1)
    if arguments.at_set():
        numbers = within(arguments.set(), highest[0])
        return lambda number, message: numbers(number)
    key = arguments.atom()
    if key == "NOT":
        arguments.space()
        not_wanted = _one(arguments, highest, recent, depth + 1)
        return lambda number, message: not not_wanted(number, message)
    if key == "OR":
        arguments.space()
        left = _one(arguments, highest, recent, depth + 1)
        arguments.space()
        right = _one(arguments, highest, recent, depth + 1)
        return lambda number, message: left(number, message) or right(number, message)
    if key == "UID":
        arguments.space()
        uids = within(arguments.set(), highest[1])
        return lambda number, message: uids(message.uid)
    simple = _state(key, recent) or _with_argument(key, arguments)
    return lambda number, message: simple(message)


def _state(key: str, recent: Callable[[StoredMessage], bool]) -> Callable[[StoredMessage], bool] | None:
    """Criteria without an argument."""
    if key == "ALL":
        return lambda message: True
    if key == "RECENT":
        return recent
    if key == "OLD":
        return lambda message: not recent(message)
    if key == "NEW":
        return lambda message: recent(message) and "\\Seen" not in message.flags
    if key in _FLAGS:
        return lambda message: _FLAGS[key] in message.flags
    if key.startswith("UN") and key[2:] in _FLAGS:
        return lambda message: _FLAGS[key[2:]] not in message.flags
    return None


def _with_argument(key: str, arguments: Arguments) -> Callable[[StoredMessage], bool]:
    arguments.space()
    if key in ("BEFORE", "ON", "SINCE"):
        return _compare(key, arguments.date(), lambda message: message.received.astimezone(UTC).date())
    if key in ("SENTBEFORE", "SENTON", "SENTSINCE"):
        return _compare(key.removeprefix("SENT"), arguments.date(), _sent)
    if key in ("LARGER", "SMALLER"):
        size = arguments.number()
        return lambda message: len(message.raw) > size if key == "LARGER" else len(message.raw) < size
    if key in ("KEYWORD", "UNKEYWORD"):
        keyword = arguments.atom()
        return lambda message: (keyword in {flag.upper() for flag in message.flags}) is (key == "KEYWORD")
    if key in ("FROM", "TO", "CC", "BCC", "SUBJECT"):
        wanted = arguments.astring()
        return lambda message: _field_has(message, key, wanted)
    if key == "HEADER":
        name = arguments.field_name()
        arguments.space()
        wanted = arguments.astring()
        return lambda message: _field_has(message, name, wanted)
    if key in ("BODY", "TEXT"):
        wanted = arguments.astring().lower()
        return lambda message: wanted in (message.body if key == "BODY" else message.raw).lower()
    raise Bad(f"unknown search key {key}")


def _compare(key: str, wanted: date, day_of: Callable[[StoredMessage], date | None]) -> Callable[[StoredMessage], bool]:
    def matches(message: StoredMessage) -> bool:
        day = day_of(message)
        if day is None:
            return False
        return day < wanted if key == "BEFORE" else day == wanted if key == "ON" else day >= wanted

    return matches


def _sent(message: StoredMessage) -> date | None:
    for value in _values(message, "Date"):
        try:
            return parsedate_to_datetime(value).date()
        except (TypeError, ValueError):
            return None
    return None


def _field_has(message: StoredMessage, name: str, wanted: bytes) -> bool:
    text = wanted.decode("utf-8", "replace").casefold()
    return any(text in _decoded(value).casefold() for value in _values(message, name))


def _values(message: StoredMessage, name: str) -> list[str]:
    unfolded = re.sub(rb"\r\n([ \t])", rb"\1", message.header).decode("utf-8", "replace")
    start = name.casefold() + ":"
    return [line[len(start) :].strip() for line in unfolded.split("\r\n") if line.casefold().startswith(start)]


def _decoded(value: str) -> str:
    try:
        return str(email.header.make_header(email.header.decode_header(value)))
    except (email.errors.HeaderParseError, LookupError, UnicodeDecodeError):
        return value
