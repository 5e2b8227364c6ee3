"""When a message was received: only times that every part of the router can hold."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from email_router.mime.received import received_in


def test_the_topmost_field_counts() -> None:
    head = (
        b"Subject: x\nReceived: from a by b;\n Mon, 2 Nov 2026 10:00:00 +0100\n"
        b"Received: from c by a; Mon, 2 Nov 2026 08:00:00 +0000\n\nReceived: from body; Tue, 3 Nov 2026 10:00 +0000\n"
    )
    assert received_in(head) == datetime(2026, 11, 2, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "when",
    [
        "Mon, 1 Jan 0101 00:00:00 +0000",
        "Fri, 31 Dec 9999 23:59:59 -1200",
        "Thu, 1 Jan 1960 00:00:00 +0000",
        "Mon, 99 Foo 2026",
        "Mon, 2 Nov 2026 10:00:00 +9999",
        "",
    ],
)
def test_a_time_that_no_server_writes_is_none(when: str) -> None:
    """PostgreSQL keeps the second, and nobody can read it back: no list of decisions could be shown any more."""
    assert received_in(f"Received: from a by b; {when}\n\n".encode()) is None
