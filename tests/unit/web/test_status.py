"""The status page: what it shows, to whom, and that nothing in it is more than text."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from email_router.model.errors import NeedsOperator, Transient
from email_router.model.settings import ServerSettings, TlsMode
from email_router.net.connection import connect
from email_router.web.status import Snapshot, as_json, is_private, render, served, troubles

HOSTILE = "<script>alert(1)</script>\"'&\u202e"


def snapshot(**changes: Any) -> Snapshot:
    mailbox = {"name": "anna@x.test", "state": "away", "polled": None, "waiting": 3, "older": 0, "lag_seconds": 1.25}
    decision = {
        "created": datetime.now(UTC) - timedelta(minutes=5),
        "mailbox": "anna@x.test",
        "sender": "bob@y.test",
        "subject": HOSTILE,
        "outcome": "filed",
        "reason": "AcceptAll",
        "why": f"{HOSTILE}\nsecond reason",
    }
    undeliverable = decision | {"cause": HOSTILE, "cure": HOSTILE, "id": "7"}
    facts: dict[str, Any] = {
        "revision": 1,
        "routers": 1,
        "hold": HOSTILE,
        "mailboxes": [mailbox | {"error": HOSTILE}],
        "outcomes": {"filed": 12},
        "outgoing": {"sent": 34, "uncertain": 1},
        "decisions": [decision],
        "undeliverable": [undeliverable],
        "undeliverable_open": 77,
    }
    return Snapshot(**facts | changes)


async def look() -> Snapshot:
    return snapshot()


async def alive() -> None:
    pass


async def get(address: str, path: str, host: str) -> tuple[int, dict[str, str], str]:
    port = int(address.rstrip("/").rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(10):
        answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), fields, body


def test_nothing_in_it_is_more_than_text() -> None:
    page = render(snapshot())
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;") == 7
    assert "javascript:" not in page


CALM: dict[str, Any] = {
    "hold": "",
    "mailboxes": [],
    "outgoing": {},
    "undeliverable": [],
    "undeliverable_open": 0,
}


def test_nothing_is_wrong() -> None:
    calm = snapshot(**CALM)
    assert troubles(calm) == []
    assert as_json(calm)["attention"] == []
    page = render(calm)
    assert "All is well" in page and "<title>Email Router</title>" in page
    assert "Needs attention" not in page
    page = render(snapshot(**CALM, revision=0, routers=0))
    assert "Waiting for settings" in page and "All is well" not in page


MAILBOX = {"name": "anna@x.test", "state": "ok", "polled": None, "waiting": 0, "older": 0, "lag_seconds": None}


@pytest.mark.parametrize(
    ("changes", "what", "cure"),
    [
        ({"routers": 0}, "No router runs: nothing is received and nothing is sent", "email-router run"),
        ({"hold": "restored"}, "Outgoing mail is held: restored", "email-router outgoing release"),
        ({"undeliverable_open": 1}, "1 message is undeliverable", "email-router undeliverable list"),
        ({"undeliverable_open": 1200}, "1,200 messages are undeliverable", "email-router undeliverable list"),
        (
            {"outgoing": {"sent": 5, "failed": 1, "pending": 3, "uncertain": 2}},
            "2 emails are uncertain: handed over, and the answer was never seen",
            "email-router outgoing settle ID sent",
        ),
        (
            {"mailboxes": [MAILBOX | {"state": "away", "error": "nobody listens - to cure it: start the server"}]},
            "anna@x.test: away: nobody listens",
            "start the server",
        ),
        (
            {"mailboxes": [MAILBOX | {"state": "broken", "error": "bug"}]},
            "anna@x.test: broken: bug",
            "email-router test-access anna@x.test",
        ),
    ],
)
def test_what_needs_attention_is_told_with_its_cure(changes: dict[str, Any], what: str, cure: str) -> None:
    now = snapshot(**CALM | changes)
    [trouble] = troubles(now)
    assert trouble.what == what
    assert trouble.cure.endswith(cure)
    page = render(now)
    assert f"<li>{what}<small>{trouble.cure}</small></li>" in page
    assert "<title>(1) Email Router</title>" in page


def test_an_outage_of_many_mailboxes_does_not_fill_the_page() -> None:
    away = [MAILBOX | {"name": f"{n}@x.test", "state": "away", "error": "nobody listens"} for n in range(1012)]
    page = render(snapshot(**CALM | {"mailboxes": away}))
    assert page.count("nobody listens") == 10
    assert "and 1,002 more" in page


def test_profiles_stand_apart() -> None:
    rows = [MAILBOX | {"state": "ok", "error": ""}, MAILBOX | {"name": "outgoing relay", "state": "ok", "error": ""}]
    page = render(snapshot(**CALM | {"mailboxes": rows}))
    mailboxes, profiles = page.index("<h2>Mailboxes</h2>"), page.index("<h2>Profiles</h2>")
    assert mailboxes < page.index("anna@x.test") < profiles < page.index("outgoing relay")


@pytest.mark.parametrize("host", ["127.0.0.1:8025", "localhost", "LOCALHOST:1", "[::1]:8025", "192.0.2.7"])
async def test_it_answers_by_address_and_as_this_machine(host: str) -> None:
    async with served(look, alive, "127.0.0.1:0") as address:
        code, fields, body = await get(address, "/", host)
    assert code == 200
    assert "&lt;script&gt;" in body
    assert fields["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8025", "", "[::1"])
@pytest.mark.parametrize("path", ["/", "/status.json", "/health"])
async def test_a_name_that_leads_here_is_not_enough(host: str, path: str) -> None:
    """DNS rebinding: a page in the administrator's browser must not read this one by a name of its own."""
    async with served(look, alive, "127.0.0.1:0") as address:
        code, _, body = await get(address, path, host)
    assert (code, "bob@y.test" in body) == (421, False)


async def test_what_others_can_reach_shows_nobodys_mail() -> None:
    async with served(look, alive, "0.0.0.0:0") as address:
        _, _, page = await get(address, "/", "router.example.com")
        _, fields, status = await get(address, "/status.json", "router.example.com")
    assert "bob@y.test" not in page
    assert "only where nobody but this machine can reach" in page
    found = json.loads(status)
    assert (found["decisions"], found["undeliverable"], found["undeliverable_open"]) == ([], [], 77)
    assert (fields["cache-control"], fields["x-content-type-options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize(
    ("host", "private"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("x.test", False)],
)
def test_what_only_this_machine_reaches(host: str, private: bool) -> None:
    assert is_private(host) is private


async def test_health_looks_at_nothing_that_grows() -> None:
    async def no_look() -> Snapshot:
        raise AssertionError("health must be cheap")

    async def away() -> None:
        raise Transient("The database cannot be reached")

    async with served(no_look, alive, "127.0.0.1:0") as address:
        assert (await get(address, "/health", "localhost"))[0::2] == (200, "ok\n")
    async with served(no_look, away, "127.0.0.1:0") as address:
        assert (await get(address, "/health", "localhost"))[0::2] == (503, "The database cannot be reached\n")


async def test_no_profile_leads_back_into_the_router() -> None:
    async with served(look, alive, "127.0.0.1:0") as address:
        port = int(address.rstrip("/").rpartition(":")[2])
        with pytest.raises(NeedsOperator, match="never a mail server"):
            await connect(ServerSettings(host="localhost", port=port, tls=TlsMode.NONE), 25)
