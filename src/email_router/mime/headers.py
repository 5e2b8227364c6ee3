"""Header fields: splitting, decoding (RFC 2047, raw 8-bit), parameters (RFC 2231), ids and dates. Never raises."""

from __future__ import annotations

import binascii
import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_tz
from urllib.parse import unquote_to_bytes

from email_router.mime import charset, transfer

# Begins with a literal line end, which makes the search quick; possessive, so that no input makes it slow.
_FIELD = re.compile(r"\n([!-9;-~]++)[ \t]*+:[ \t]*+(.*+(?:\n[ \t].*+)*+)")
_FOLD = re.compile(r"\n[ \t]+")
_CONTROLS = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]+")
_WORD = re.compile(r"=\?([^?\s]{1,80})\?([bBqQ])\?")

_LINES_ALONE = 1000
"""Lines of a header whose charset is guessed one by one; there are 256 KB of them in each part of a hostile message."""

Field = tuple[str, str]
"""Name and value of a field as they stand in the message, unfolded, the value not yet decoded."""


def split(block: bytes, most: int) -> tuple[list[Field], tuple[str, ...]]:
    """The fields of a header section (without its empty line), at most `most`, and the codes of what was repaired.

    Lines that belong to no field are passed over.
    """
    text, sound = _text(block)
    repairs = [] if sound else ["header-charset"]
    found = _FIELD.findall("\n" + text)
    if len(found) > most:
        repairs.append("header-count")
        del found[most:]
    fields = [(n, (_FOLD.sub(" ", v) if "\n" in v else v).rstrip(" \t")) for n, v in found]
    return fields, tuple(repairs)


def _text(block: bytes) -> tuple[str, bool]:
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if block.isascii():
        return block.decode("ascii").replace("\x00", ""), True
    try:
        return charset.clean(block.decode("utf-8")), True  # RFC 6532
    except UnicodeDecodeError:
        pass
    # Each line on its own: one sender's latin-1 name must not spoil another's UTF-8 subject.
    # Where encoded words may hold raw bytes in a charset of their own, these wait for it as surrogates.
    lines = block.split(b"\n", _LINES_ALONE)
    rest = [line.decode("utf-8", "replace") for line in lines[_LINES_ALONE:]]
    decoded = [
        line.replace(b"\x00", b"").decode("utf-8", "surrogateescape")
        if b"=?" in line
        else charset.decode(line)[0].replace("\r", " ").replace("\n", " ")
        for line in lines[:_LINES_ALONE]
    ]
    return "\n".join(decoded + rest).replace("\x00", ""), False


def decode(value: str) -> str:
    """A field's value as a person reads it: encoded words decoded, controls and line breaks as spaces."""
    if "=?" in value:
        value = decode_words(value)
    if value.isprintable():
        return value
    return _CONTROLS.sub(" ", charset.repair(value)).strip()


def decode_words(value: str) -> str:
    """Decode encoded words (RFC 2047), in linear time.

    Neighbours with one charset are joined as bytes first: many senders split inside a character.
    """
    out: list[str] = []
    pending = b""
    pending_charset = ""
    position = 0
    while (start := value.find("=?", position)) >= 0:
        word = _WORD.match(value, start)
        end = value.find("?=", word.end()) if word else -1
        if word is None or end < 0:
            if word is not None:
                break  # no word can end any more
            out += _flush(pending, pending_charset, value[position : start + 2])
            pending, position = b"", start + 2
            continue
        label = word[1].partition("*")[0].casefold()
        between = value[position:start]
        if not pending or between.strip() or label != pending_charset:
            # White space between two encoded words is not shown (RFC 2047 section 6.2).
            shown = "" if pending and not between.strip() else between
            out += _flush(pending, pending_charset, shown)
            pending = b""
        pending += _word_bytes(value[word.end() : end], word[2])
        pending_charset = label
        position = end + 2
    out += _flush(pending, pending_charset, value[position:])
    return "".join(out)


def _flush(pending: bytes, label: str, after: str) -> tuple[str, str]:
    return (charset.decode(pending, label)[0] if pending else "", charset.repair(after))


def _word_bytes(text: str, encoding: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if encoding in "bB":
        return transfer.decode(raw, "base64")[0]
    try:
        return binascii.a2b_qp(raw, header=True)
    except ValueError:
        return raw


# --- Parameters -------------------------------------------------------------------------------------------------------

_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*+)"|([^;]*))')
_SECTION = re.compile(r"([^*]+)\*(\d{1,3})?(\*)?$")
_ESCAPED = re.compile(r"\\(.)")
_PARAMETERS_MOST = 8192
"""Characters of a Content-Type or Content-Disposition that are looked at."""


def parameters(value: str) -> tuple[str, dict[str, str]]:
    """The value before the first `;`, lower case, and the parameters by lower-case name, decoded (RFC 2231, 2047)."""
    main, semicolon, _ = value.partition(";")
    main = main.strip().casefold()
    if not semicolon:
        return main, {}
    found: dict[str, str] = {}
    sections: dict[str, list[tuple[int, str, bool]]] = {}
    for name, quoted, plain in _PARAMETER.findall(value[:_PARAMETERS_MOST]):
        name = name.casefold()
        text = _ESCAPED.sub(r"\1", quoted) if quoted else plain.strip().strip('"')
        section = _SECTION.match(name) if "*" in name else None
        if section is None:
            found.setdefault(name, text)
        else:
            number = int(section[2]) if section[2] else 0
            sections.setdefault(section[1], []).append((number, text, bool(section[3]) or section[2] is None))
    for name, text in found.items():
        if "=?" in text or not text.isprintable():
            found[name] = decode(text)  # forbidden by RFC 2047 section 5, usual with Outlook
    for name, parts in sections.items():
        found[name] = _joined(parts)
    return main, found


def _joined(parts: list[tuple[int, str, bool]]) -> str:
    """RFC 2231 sections 3 and 4: numbered sections, the first one naming the charset."""
    parts.sort(key=lambda part: part[0])
    label = ""
    if parts[0][2] and parts[0][1].count("'") >= 2:
        label, _, text = parts[0][1].split("'", 2)
        parts[0] = (parts[0][0], text, True)
    raw = b"".join(
        unquote_to_bytes(text) if encoded else text.encode("utf-8", "surrogateescape") for _, text, encoded in parts
    )
    text = charset.decode(raw, label or "utf-8")[0]
    return decode_words(text) if "=?" in text else text


# --- Ids --------------------------------------------------------------------------------------------------------------

_BRACKETED = re.compile(r"<([^<>]*)>")
_LONGEST_ID = 512
_SHORTEST_NAMED = 8


def message_id(value: str) -> str:
    """The message's own id without angle brackets, its right side lower case; "" for none."""
    return next(iter(_ids(value, 3)), "")


def named_ids(values: list[str]) -> tuple[str, ...]:
    """Ids in In-Reply-To or References fields, in order, each once; the first and the newest 32 of many.

    Ids shorter than 8 or longer than 512 characters name nothing reliably and are dropped.
    """
    ids = tuple(dict.fromkeys(found for value in values for found in _ids(value, _SHORTEST_NAMED)))
    return ids if len(ids) <= 33 else (ids[0], *ids[-32:])


def _ids(value: str, shortest: int) -> list[str]:
    if "=?" in value:
        value = decode_words(value)
    found = _BRACKETED.findall(value)
    if not found:
        found = [token.strip("<>,;\"'") for token in value.split() if token.count("@") == 1]
    ids = ("".join(_CONTROLS.sub("", token).split()) for token in found)
    return [_lower_right(token) for token in ids if shortest <= len(token) <= _LONGEST_ID and token != "@"]


def _lower_right(token: str) -> str:
    left, at, right = token.rpartition("@")
    return f"{left}@{right.lower()}" if at else token


# --- Dates ------------------------------------------------------------------------------------------------------------

_DATE = re.compile(
    r"(?:[A-Za-z]{2,9},?\s*)?(\d{1,2})\s+([A-Za-z]{3})\s+(\d{4})\s+(\d{1,2}):(\d\d)(?::(\d\d))?\s*([+-])(\d\d)(\d\d)\b"
)
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {m: n for n, m in enumerate(_MONTH_NAMES, 1)}


def date(value: str) -> datetime | None:
    """The Date field with its offset (RFC 5322 section 3.3 and what is seen beside it), or None."""
    match = _DATE.match(value)
    try:
        parsed = _common_date(match) if match and match[2].lower() in _MONTHS else _odd_date(value)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    # So that no time zone takes it out of what datetime and PostgreSQL can hold.
    return parsed if parsed is not None and 1900 <= parsed.year <= 9998 else None


def _common_date(match: re.Match[str]) -> datetime:
    day, month, year, hour, minute, second, sign, zone_hour, zone_minute = match.groups()
    offset = timedelta(hours=int(zone_hour), minutes=int(zone_minute))
    zone = UTC if not offset else timezone(-offset if sign == "-" else offset)
    at = (int(year), _MONTHS[month.lower()], int(day), int(hour), int(minute), min(int(second or 0), 59))
    return datetime(*at, tzinfo=zone)


def _odd_date(value: str) -> datetime | None:
    value = decode(value)[:200]
    parsed = parsedate_tz(value)
    if parsed is None:
        stamp = datetime.fromisoformat(value.strip())
        return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
    zone = timezone(timedelta(seconds=parsed[9] or 0))
    return datetime(*parsed[:5], min(parsed[5], 59), tzinfo=zone)
