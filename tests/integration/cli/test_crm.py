"""`email-router crm`: users, queues, records, and email as it is written, read, sent and canceled."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from email_router.net.postgres import open_engine
from tests.fixtures.company import letter
from tests.fixtures.terminal import Terminal, written

pytestmark = pytest.mark.database

SETTINGS = """\
[deployment.acme]
organization = "Acme"
incoming_profile = "old"
[incoming.old]
kind = "maildir"
path = "/nowhere/{address}"
[mailbox."help@acme.test"]
kind = "queue"
"""
HELP = "help@acme.test"


@pytest.fixture
def acme(terminal: Terminal, tmp_path: Path) -> Terminal:
    """A published deployment with a queue and its owner."""
    assert terminal("publish", written(tmp_path / "s.toml", SETTINGS)).code == 0
    assert terminal("crm", "add-user", "Boss", "boss@acme.test").code == 0
    queue = ("crm", "add-queue", "Help", HELP, "--makes-cases", "--owner", "boss@acme.test", "--case-priority", "high")
    assert terminal(*queue).code == 0
    return terminal


def imported(acme: Terminal, directory: Path, *messages: bytes) -> None:
    for n, raw in enumerate(messages):
        written(directory / f"{n}.eml", raw)
    assert acme("import", directory, "--mailbox", HELP).code == 0


def column(answer: Any, name: str) -> list[Any]:
    return [row[name] for row in answer.rows]


def test_users_and_queues_with_all_that_they_have(acme: Terminal) -> None:
    [boss] = acme("crm", "users", "--json").rows
    [queue] = acme("crm", "queues", "--json").rows
    assert (boss["name"], boss["mailbox"], boss["filter_option"], boss["approval"]) == ("Boss", "boss@acme.test", 1, 1)
    assert (queue["mailbox"], queue["filter_option"], queue["makes_cases"]) == (HELP, 0, True)
    assert queue["owner"] == boss["id"]
    assert acme("crm", "users").out.splitlines()[1].split()[:3] == ["Boss", "boss@acme.test", "in-response"]
    assert acme("crm", "queues").out.splitlines()[1].split()[:4] == ["Help", HELP, "all", "yes"]
    changed = ("crm", "add-user", "The Boss", "BOSS@acme.test", "--filter", "none", "--forward-mailbox", "--no-approve")
    assert acme(*changed, "--no-send", "--disable", "--json").row == {"id": boss["id"]}
    [boss] = acme("crm", "users", "--json").rows
    assert {name: boss[name] for name in ("name", "filter_option", "incoming", "outgoing", "approval", "active")} == {
        "name": "The Boss",
        "filter_option": 4,
        "incoming": 3,
        "outgoing": 0,
        "approval": 2,
        "active": False,
    }


def test_records_are_made_searched_and_changed(acme: Terminal) -> None:
    identifier = acme("crm", "add", "contact", "Ann [Lee]", "ann@customer.test", "a@b.test", "--json").row["id"]
    assert acme("crm", "add", "case", "A case").out.startswith("case A case: ")
    for kind in ("account", "lead", "opportunity", "equipment", "team"):
        assert acme("crm", "add", kind, f"The {kind}", f"{kind}@x.test").code == 0
        assert column(acme("crm", "records", kind, "--json"), "name") == [f"The {kind}"]
    assert acme("crm", "contacts").out.splitlines()[1].split() == [
        *("Ann", "[Lee]", "ann@customer.test,", "a@b.test"),
        identifier,
    ]
    assert "CAS-00001" in acme("crm", "cases").out
    assert column(acme("crm", "contacts", "--search", "CUSTOMER", "--json"), "id") == [identifier]
    assert acme("crm", "contacts", "--search", "zzz").out == "There is no contact here.\n"
    assert acme("crm", "records", "user", "--search", "zzz").out == "There is no user here.\n"
    assert acme("crm", "change", identifier, "--name", "Ann", "--address", "new@x.test", "--disable").code == 0
    [row] = acme("crm", "contacts", "--json").rows
    assert (row["name"], row["addresses"], row["active"]) == ("Ann", ["new@x.test"], False)


def test_mail_that_came_in_is_read_whole(acme: Terminal, tmp_path: Path) -> None:
    acme("crm", "add", "contact", "Bob", "bob@customer.test")
    hostile = "=?utf-8?q?Broken_=1B[31m_oven?="
    raw = letter(1, HELP, subject=hostile, sender="Bob <bob@customer.test>", body="This is \x1b[2Jletter 1.")
    imported(acme, tmp_path / "mail", raw, letter(2, HELP, answers="1@customer.test", sender="Eve <eve@else.test>"))
    first, second = acme("crm", "timeline", "--json").rows
    [case] = acme("crm", "cases", "--json").rows
    assert (first["status"], first["regarding"], second["regarding_id"]) == ("Received", case["name"], case["id"])
    assert (case["fields"]["prioritycode"], case["customer_name"]) == (1, "Bob")
    shown = acme("crm", "email", first["id"]).out
    assert "\x1b" not in shown
    facts = dict(line.split("  ", 1) for line in shown.splitlines() if line[:1].strip() and "  " in line)
    assert {name: facts[name].strip() for name in ("status", "subject", "from", "queues", "received by")} == {
        "status": "Received (incoming)",
        "subject": "Broken  [31m oven",
        "from": "Bob <bob@customer.test>",
        "queues": "Help",
        "received by": HELP,
    }
    assert "This is \ufffd[2Jletter 1." in shown
    whole = acme("crm", "email", first["id"], "--json").row
    assert (whole["subject"], len(whole["parties"])) == ("Broken  [31m oven", 2)
    assert acme.finished("crm", "email", first["id"], "--raw").out.encode() == raw
    assert column(acme("crm", "timeline", case["id"], "--json"), "id") == [first["id"], second["id"]]
    ticket = case["fields"]["ticketnumber"].lower()
    assert column(acme("crm", "timeline", ticket, "--json"), "id") == [first["id"], second["id"]]
    assert column(acme("crm", "timeline", "--limit", "1", "--json"), "id") == [second["id"]]
    assert acme("crm", "change", ticket, "--name", "Cold oven", "--json").row == {"id": case["id"]}
    assert acme("crm", "cases", "--json").row["name"] == "Cold oven"


def test_an_email_is_written_kept_sent_and_canceled(acme: Terminal, tmp_path: Path) -> None:
    imported(acme, tmp_path / "mail", letter(1, HELP))
    [asked] = acme("crm", "timeline", "--json").rows
    attached = written(tmp_path / "plan.pdf", b"%PDF")
    words = (
        "--from",
        HELP,
        "--to",
        "Bob <bob@customer.test>, x@y.test",
        "--cc",
        "c@d.test",
        "--subject",
        "RE: letter 1",
    )
    answer = acme("crm", "send", *words, "--text", "-", "--attach", attached, "--answers", asked["id"], given="Grüße\n")
    assert answer.out.startswith('Pending Send "RE: letter 1": ')
    draft = acme("crm", "send", *words, "--draft", "--json").row["id"]
    sent, kept = acme("crm", "timeline", "--json").rows[-2:]
    assert (sent["status"], sent["subject"], kept["status"]) == ("Pending Send", "RE: letter 1 CRM:0002001", "Draft")
    whole = acme("crm", "email", sent["id"], "--json").row
    assert (whole["body_text"], whole["regarding"], whole["in_reply_to"]) == (
        "Grüße\n",
        asked["regarding_id"],
        "1@customer.test",
    )
    assert [(p["role"], p["address"]) for p in whole["parties"]] == [
        ("from", HELP),
        ("to", "bob@customer.test"),
        ("to", "x@y.test"),
        ("cc", "c@d.test"),
    ]
    assert [(a["name"], a["content_type"], a["size"]) for a in whole["attachments"]] == [
        ("plan.pdf", "application/pdf", 4)
    ]
    assert acme("crm", "submit", draft).out == "It is in Pending Send.\n"
    assert acme("crm", "cancel", sent["id"], "--json").row == {"id": sent["id"]}
    assert column(acme("crm", "timeline", "--json"), "status")[-2:] == ["Canceled", "Pending Send"]
    answer = acme("crm", "submit", sent["id"])
    assert (answer.code, answer.out) == (3, "")
    assert answer.err.splitlines() == [
        "Error: The email is Canceled and cannot become Pending Send",
        "  to cure it: write a new one",
    ]
    answer = acme("crm", "email", draft, "--raw")
    assert (answer.code, answer.err.splitlines()[0]) == (3, f"Error: The message behind the email {draft} is not kept")


def test_an_answer_knows_whom_and_what_it_answers(acme: Terminal, tmp_path: Path) -> None:
    imported(acme, tmp_path / "mail", letter(1, HELP, subject="Broken oven"))
    [asked] = acme("crm", "timeline", "--json").rows
    answered = acme("crm", "send", "--from", HELP, "--answers", asked["id"], "--text", "Soon.", "--json").row["id"]
    found = acme("crm", "email", answered, "--json").row
    assert (found["subject"], found["regarding"]) == ("RE: Broken oven CRM:0002001", asked["regarding_id"])
    assert [(p["role"], p["address"]) for p in found["parties"]] == [("from", HELP), ("to", "bob@customer.test")]

    again = acme("crm", "send", "--from", HELP, "--answers", answered, "--text", "Today.", "--draft", "--json").row[
        "id"
    ]
    found = acme("crm", "email", again, "--json").row
    assert (found["subject"], found["parties"][1]["address"]) == ("RE: Broken oven CRM:0002001", "bob@customer.test")

    words = ("--from", HELP, "--answers", asked["id"], "--cc", "eve@else.test", "--subject", "Other", "--draft")
    other = acme("crm", "send", *words, "--json").row["id"]
    found = acme("crm", "email", other, "--json").row
    assert found["subject"] == "Other"
    assert [(p["role"], p["address"]) for p in found["parties"]] == [("from", HELP), ("cc", "eve@else.test")]


def test_an_email_belongs_to_the_case_of_that_number(acme: Terminal) -> None:
    case = acme("crm", "add", "case", "Cold oven", "--json").row["id"]
    words = ("--from", HELP, "--to", "bob@customer.test", "--subject", "Oven", "--json")
    for regarding in ("CAS-00001", case):
        sent = acme("crm", "send", *words, "--regarding", regarding).row["id"]
        assert acme("crm", "email", sent, "--json").row["regarding"] == case


NOBODY = "01a21106-0fcd-75a6-8136-cde43c48c7e0"
REFUSED = [
    (("email", NOBODY), 3, f"There is no email {NOBODY}"),
    (("cancel", NOBODY), 3, f"There is no email activity {NOBODY}"),
    (("email", "7"), 2, ""),
    (("add", "animal", "Rex"), 3, "'animal' is no type of record"),
    (("add", "contact", "Rex", "rex"), 3, "'rex' is no email address"),
    (("add-user", "Rex", "rex"), 3, "'rex' is no email address"),
    (("add-user", "Rex", HELP), 3, f"{HELP} is the queue Help"),
    (("add-queue", "Rex", "rex@x.test", "--owner", "nobody@x.test"), 3, "There is no user nobody@x.test"),
    (("add-queue", "Rex", "rex@x.test", "--filter", "some"), 2, ""),
    (("change", NOBODY, "--name", "Rex"), 3, f"There is no record {NOBODY}"),
    (("send", "--to", "a@b.test"), 2, ""),
    (("send", "--from", HELP), 3, "The email has no recipient"),
    (("send", "--from", HELP, "--to", "garbage"), 3, "'garbage' is no email address"),
    (("send", "--from", "x@y.test", "--to", "a@b.test"), 3, "x@y.test is no user or queue of this organization"),
    (("send", "--from", HELP, "--to", "a@b.test", "--attach", "/gone"), 3, "The attachment cannot be read: No such"),
    (("send", "--from", HELP, "--to", "a@b.test", "--answers", NOBODY), 3, f"There is no email activity {NOBODY}"),
    (("send", "--from", HELP, "--to", "a@b.test", "--regarding", NOBODY), 3, f"There is no record {NOBODY}"),
    (("timeline", NOBODY), 3, f"There is no record {NOBODY}"),
    (("timeline", "CAS-99999"), 3, "There is no record CAS-99999"),
    (("users", "--deployment", "acne"), 3, "There is no deployment 'acne'"),
    (("nothing",), 2, ""),
]


def test_what_is_wrong_is_told_with_its_cure_and_changes_nothing(acme: Terminal) -> None:
    before = acme("crm", "queues", "--json").out + acme("crm", "users", "--json").out
    for arguments, code, words in REFUSED:
        answer = acme("crm", *arguments)
        assert (answer.code, answer.out) == (code, ""), arguments
        if words:
            first, *_, last = answer.err.splitlines()
            assert first.startswith(f"Error: {words}"), arguments
            assert last.startswith("  to cure it: "), arguments
    assert acme("crm", "queues", "--json").out + acme("crm", "users", "--json").out == before
    assert acme("crm", "timeline", "--json").rows == []


def test_several_deployments_must_be_named(acme: Terminal, tmp_path: Path) -> None:
    more = SETTINGS + '[deployment.globex]\norganization = "Globex"\n'
    more = more.replace('kind = "queue"', 'kind = "queue"\ndeployments = ["acme", "globex"]')
    assert acme("publish", written(tmp_path / "s.toml", more)).code == 0
    answer = acme("crm", "users")
    assert answer.err.splitlines() == [
        "Error: Several deployments are published",
        "  to cure it: --deployment: one of: acme, globex",
    ]
    assert acme("crm", "users", "--deployment", "globex", "--json").rows == []
    assert column(acme("crm", "users", "--deployment", "acme", "--json"), "name") == ["Boss"]
    made = acme("crm", "organization", "Globex", "--json").row["id"]
    assert acme("crm", "organization", "Globex").out == f"Globex: {made}\n"


def test_dates_of_all_times_are_shown(acme: Terminal, tmp_path: Path) -> None:
    imported(acme, tmp_path / "mail", letter(1, HELP))

    async def set_date(moment: datetime) -> None:
        engine = open_engine(acme.environment["EMAIL_ROUTER_DSN"], 1)
        async with engine.begin() as db:
            await db.execute(text("UPDATE crm.activity SET date = :d, received = :d"), {"d": moment})
        await engine.dispose()

    for moment in (datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)):
        asyncio.run(set_date(moment))
        [row] = acme("crm", "timeline", "--json").rows
        assert row["received"].startswith(f"{moment:%Y-%m-%d}".zfill(10))
        assert acme("crm", "timeline").code == acme("crm", "email", row["id"]).code == 0
