"""Arguments of IMAP commands by the grammar of RFC 3501 section 9: what does not fit is refused, never guessed."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH_NUMBERS = {name.upper().encode(): number for number, name in enumerate(MONTHS, 1)}

_ATOM = re.compile(rb'[^\x00-\x20(){%*"\\\]\x7f-\xff]+')
_ASTRING = re.compile(rb'[^\x00-\x20(){%*"\\\x7f-\xff]+')
_LIST_MAILBOX = re.compile(rb'[^\x00-\x20(){"\\\x7f-\xff]+')
_QUOTED = re.compile(rb'"((?:[^"\\\r\n\x00\x80-\xff]|\\["\\])*)"')
_LITERAL = re.compile(rb"\{(\d+)\+?\}\r\n")
_NUMBER = re.compile(rb"\d{1,10}")
_SET = re.compile(rb"(?:[1-9]\d{0,9}|\*)(?::(?:[1-9]\d{0,9}|\*))?(?:,(?:[1-9]\d{0,9}|\*)(?::(?:[1-9]\d{0,9}|\*))?)*")
_FETCH_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9.]*")
_FIELD_NAME = re.compile(r"[!-9;-~]+")
_WORD = re.compile(rb"[A-Za-z0-9+/=*]+")
_FLAG = re.compile(rb'\\?[^\x00-\x20(){%*"\\\]\x7f-\xff]+')
_DATE = re.compile(rb'"?([ \d]?\d)-([A-Za-z]{3})-(\d{4})"?')
_DATE_TIME = re.compile(rb'"([ \d]\d)-([A-Za-z]{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)"')

SYSTEM_FLAGS = {flag.casefold(): flag for flag in ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")}
Range = tuple[int | None, int | None]
"""A range of a set; None stands for `*`."""


class Bad(Exception):
    """Answered with BAD: no such command, or not in this form, or not in this state."""


class No(Exception):
    """Answered with NO: understood, and refused."""


class Arguments:
    """Reads a command from left to right. Literals lie in `data` as they came: `{n}`, CRLF, n bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _match(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        match = pattern.match(self._data, self._at)
        if match is None:
            raise Bad(f"{what} expected at character {self._at}")
        self._at = match.end()
        return match

    def at(self, text: bytes) -> bool:
        """Whether `text` comes next."""
        return self._data.startswith(text, self._at)

    def skip(self, text: bytes) -> bool:
        """Step over `text` if it comes next."""
        if not self.at(text):
            return False
        self._at += len(text)
        return True

    def expect(self, text: bytes) -> None:
        if not self.skip(text):
            raise Bad(f'"{text.decode()}" expected at character {self._at}')

    def space(self) -> None:
        self.expect(b" ")

    def end(self) -> None:
        if not self.ended:
            raise Bad(f"the command should end at character {self._at}")

    @property
    def ended(self) -> bool:
        return self._at == len(self._data)

    def atom(self) -> str:
        """An atom in upper case."""
        return self._match(_ATOM, "an atom")[0].decode().upper()

    def fetch_name(self) -> str:
        """A FETCH item or section without its brackets, in upper case."""
        return self._match(_FETCH_NAME, "a FETCH item")[0].decode().upper()

    def number(self) -> int:
        return int(self._match(_NUMBER, "a number")[0])

    def string(self) -> bytes:
        if self.at(b'"'):
            return re.sub(rb"\\(.)", rb"\1", self._match(_QUOTED, "a quoted string")[1])
        size = int(self._match(_LITERAL, "a string")[1])
        self._at += size
        return self._data[self._at - size : self._at]

    def astring(self) -> bytes:
        if self.at(b'"') or self.at(b"{"):
            return self.string()
        return self._match(_ASTRING, "a string")[0]

    def field_name(self) -> str:
        """The name of a header field (RFC 5322 section 2.2)."""
        name = self.astring().decode("ascii", "replace")
        if not _FIELD_NAME.fullmatch(name):
            raise Bad("no header field can have this name")
        return name

    def word(self) -> bytes:
        """Base64, or `*` or `=`, as AUTHENTICATE takes it."""
        return self._match(_WORD, "base64")[0]

    def mailbox(self) -> str:
        """A folder name in modified UTF-7; INBOX in any case is INBOX."""
        return _folder_name(self.astring())

    def pattern(self) -> str:
        """A folder name that may hold the wildcards of LIST."""
        if self.at(b'"') or self.at(b"{"):
            return _folder_name(self.string())
        return _folder_name(self._match(_LIST_MAILBOX, "a pattern")[0])

    def at_set(self) -> bool:
        match = _SET.match(self._data, self._at)
        return match is not None and self._data[match.end() : match.end() + 1] in (b"", b" ", b")")

    def set(self) -> list[Range]:
        ranges: list[Range] = []
        for item in self._match(_SET, "a set of numbers")[0].split(b","):
            first, colon, last = item.partition(b":")
            ranges.append((_position(first), _position(last if colon else first)))
        return ranges

    def flags(self) -> frozenset[str]:
        """A parenthesised list of flags, or flags without parentheses."""
        listed = self.skip(b"(")
        found: set[str] = set()
        if not (listed and self.at(b")")):
            found.add(self._match(_FLAG, "a flag")[0].decode())
            while self.skip(b" "):
                found.add(self._match(_FLAG, "a flag")[0].decode())
        if listed:
            self.expect(b")")
        return frozenset(found)

    def atoms(self) -> list[str]:
        """A parenthesised list of atoms with at least one."""
        self.expect(b"(")
        found = [self.atom()]
        while self.skip(b" "):
            found.append(self.atom())
        self.expect(b")")
        return found

    def date(self) -> date:
        match = self._match(_DATE, "a date like 1-Oct-2026")
        try:
            return date(int(match[3]), _MONTH_NUMBERS[match[2].upper()], int(match[1]))
        except (KeyError, ValueError):
            raise Bad(f"{match[0].decode()} is no date") from None

    def at_date_time(self) -> bool:
        return self.at(b'"')

    def date_time(self) -> datetime:
        match = self._match(_DATE_TIME, 'a time like "01-Oct-2026 08:00:00 +0200"')
        day, month, year, hour, minute, second, sign, zone_hours, zone_minutes = match.groups()
        offset = timedelta(hours=int(zone_hours), minutes=int(zone_minutes)) * (-1 if sign == b"-" else 1)
        try:
            zone = timezone(offset)
            return datetime(
                int(year), _MONTH_NUMBERS[month.upper()], int(day), int(hour), int(minute), int(second), tzinfo=zone
            )
        except (KeyError, ValueError):
            raise Bad(f"{match[0].decode()} is no time") from None


def _position(text: bytes) -> int | None:
    return None if text == b"*" else int(text)


def _folder_name(name: bytes) -> str:
    text = name.decode("ascii", "replace")
    if not (text.isascii() and text.isprintable()):
        raise Bad("folder names are in modified UTF-7")
    return "INBOX" if text.upper() == "INBOX" else text


def internal_date(when: datetime) -> bytes:
    """`"01-Oct-2026 06:00:00 +0000"`, in UTC, with English months whatever the locale."""
    utc = when.astimezone(UTC)
    return f'"{utc.day:02}-{MONTHS[utc.month - 1]}-{utc:%Y %H:%M:%S} +0000"'.encode()


def quoted(text: str) -> bytes:
    return b'"' + text.encode("ascii").replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def astring(text: str) -> bytes:
    """As an atom if that is possible, as clients expect it of names of header fields."""
    data = text.encode("ascii")
    return data if _ASTRING.fullmatch(data) else quoted(text)


def settable(flags: frozenset[str]) -> frozenset[str]:
    """Flags with their usual spelling. Raises Bad for system flags that no client may set."""
    found = set()
    for flag in flags:
        if flag.startswith("\\") and flag.casefold() not in SYSTEM_FLAGS:
            raise Bad(f"the flag {flag} cannot be set")
        found.add(SYSTEM_FLAGS.get(flag.casefold(), flag))
    return frozenset(found)
