"""What an IMAP server answers, taken apart. Pure, bounded, and never trusting: `Garbled` for what is no IMAP."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

from email_router.model.message import Content

MAX_DEPTH = 32

Part = bytes | Content
"""Pieces of a response in order: text, a literal, text…"""

Token = bytes | Content | None | list["Token"]
"""An atom or string, a spooled literal, NIL, or a list."""


class Garbled(Exception):
    """The answer does not follow the grammar of RFC 3501 section 9."""


class Status(NamedTuple):
    """A status response (RFC 3501 section 7.1): `word` OK, NO, BAD, BYE or PREAUTH; `code` upper case or ""."""

    word: str
    code: str
    argument: str
    text: str

    @property
    def said(self) -> str:
        """The server's own words, code included, short enough to show."""
        code = f"[{' '.join(filter(None, (self.code, self.argument)))}] " if self.code else ""
        return f"{self.word} {code}{self.text}".strip()[:500]


_STATUS = re.compile(
    rb"(OK|NO|BAD|BYE|PREAUTH)(?: +(?:\[([^\] ]+)(?: ([^\]]*))?\])? ?(.*))?$", re.IGNORECASE | re.DOTALL
)


def status(text: bytes) -> Status | None:
    """The status in a response without its tag, or None when it is none."""
    match = _STATUS.match(text)
    if not match:
        return None
    word, code, argument, rest = (_text(group or b"") for group in match.groups())
    return Status(word.upper(), code.upper(), argument, rest)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


_TOKEN = re.compile(
    rb"""[ ]*(?: (\() | (\)) | "([^"\\]*(?:\\.[^"\\]*)*)" | ([^\ ()"\[\]]+(?:\[[^\]]*\][^\ ()"\[\]]*)*) )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


def tokens(parts: Iterable[Part]) -> list[Token]:
    """A response as nested lists. Raises Garbled for unbalanced or too deep brackets and for stray characters."""
    top: list[Token] = []
    stack = [top]
    for part in parts:
        if not isinstance(part, bytes):
            stack[-1].append(part)
            continue
        at, end = 0, len(part.rstrip(b" "))
        while at < end:
            match = _TOKEN.match(part, at, end)
            if not match:
                raise Garbled(f"unexpected {part[at : at + 40]!r}")
            at = match.end()
            kind = match.lastindex
            if kind == 1:
                inner: list[Token] = []
                stack[-1].append(inner)
                stack.append(inner)
                if len(stack) > MAX_DEPTH:
                    raise Garbled("brackets nested too deep")
            elif kind == 2:
                stack.pop()
                if not stack:
                    raise Garbled("a closing bracket too many")
            elif kind == 3:
                text = match[3]
                stack[-1].append(_ESCAPE.sub(rb"\1", text) if b"\\" in text else text)
            else:
                atom = match[4]
                stack[-1].append(None if atom.upper() == b"NIL" else atom)
    if len(stack) != 1:
        raise Garbled("a bracket was never closed")
    return top


def pairs(value: Token) -> dict[bytes, Token]:
    """A list of names and values in turn, as FETCH and STATUS answer; names in upper case."""
    if not isinstance(value, list) or len(value) % 2:
        raise Garbled("names and values do not pair")
    found: dict[bytes, Token] = {}
    for name, item in zip(value[::2], value[1::2], strict=True):
        if not isinstance(name, bytes):
            raise Garbled("a name is no atom")
        found[name.upper()] = item
    return found


def number(value: Token) -> int:
    """A number of RFC 3501 (63 bits are allowed, as RFC 9051 does)."""
    if not isinstance(value, bytes) or not value.isdigit() or len(value) > 19:
        raise Garbled(f"no number: {value!r:.40}")
    return int(value)


_MONTHS = {name: n for n, name in enumerate(b"JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split(), 1)}
_MONTH_NAMES = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_DATE = re.compile(rb" ?(\d{1,2})-([A-Za-z]{3})-(\d{4}) (\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})$")


def internal_date(value: Token) -> datetime:
    """INTERNALDATE as an aware datetime in UTC."""
    match = _DATE.match(value) if isinstance(value, bytes) else None
    if not match:
        raise Garbled(f"no date: {value!r:.40}")
    day, month, year, hour, minute, second = match.group(1, 2, 3, 4, 5, 6)
    offset = timedelta(hours=int(match[8]), minutes=int(match[9])) * (-1 if match[7] == b"-" else 1)
    try:
        zone = timezone(offset)
        when = datetime(
            int(year), _MONTHS[month.upper()], int(day), int(hour), int(minute), min(int(second), 59), tzinfo=zone
        )
        return when.astimezone(UTC)
    except (KeyError, ValueError, OverflowError) as error:
        raise Garbled(f"no date: {value!r:.40}") from error


def search_date(day: datetime) -> bytes:
    """A date as SEARCH wants it; month names in English whatever the locale."""
    return f"{day.day}-{_MONTH_NAMES[day.month - 1]}-{day.year:04}".encode()


def uid_sets(uids: Sequence[int], longest: int = 7000) -> list[bytes]:
    """Ascending UIDs as `1:5,9`, cut so that no command line grows beyond what servers take (RFC 2683, 3.2.1.5)."""
    words: list[bytes] = []
    start = previous = None
    for uid in [*uids, None]:
        if previous is not None and start is not None and uid != previous + 1:
            words.append(b"%d" % start if start == previous else b"%d:%d" % (start, previous))
            start = uid
        start = uid if start is None else start
        previous = uid
    sets: list[bytes] = []
    for word in words:
        if sets and len(sets[-1]) + len(word) < longest:
            sets[-1] += b"," + word
        else:
            sets.append(word)
    return sets
