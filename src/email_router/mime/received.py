"""When a message was received, from its topmost Received field: the one that the receiving server wrote."""

from __future__ import annotations

import email.utils
import re
from datetime import UTC, datetime

_FIELD = re.compile(rb"^received:((?:[^\n]*\n[ \t])*[^\n]*)$", re.IGNORECASE | re.MULTILINE)
_END = re.compile(rb"\r?\n\r?\n")


def received_in(head: bytes) -> datetime | None:
    """The time after the last semicolon of the first Received field (RFC 5321 section 4.4), with a zone.

    `head` is the beginning of a message; None when it has no such field or no time in it.
    """
    header = _END.split(head, 1)[0]
    found = _FIELD.search(header)
    if found is None:
        return None
    words = found.group(1).decode("latin-1").rpartition(";")[2]
    try:
        when = email.utils.parsedate_to_datetime(" ".join(words.split()))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if not 1970 <= when.year <= 9998:  # what datetime and PostgreSQL hold in every time zone
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
