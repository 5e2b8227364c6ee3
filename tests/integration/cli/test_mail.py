"""Looking at mail and curing it: import, decisions, undeliverable, outgoing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.crm.embedded import organization
from email_router.crm.embedded.outbox import Outbox
from email_router.model.outgoing import SendState
from email_router.net.postgres import open_engine
from email_router.ports.store import Attempt
from email_router.store.ledger import Ledger
from email_router.store.shards import Shards
from tests.fixtures.company import letter
from tests.fixtures.terminal import Terminal, attention, lines_of, written

pytestmark = pytest.mark.database

SETTINGS = """\
[deployment.acme]
organization = "Acme"
incoming_profile = "old"
outgoing_profile = "relay"
[incoming.old]
kind = "maildir"
path = "/nowhere/{address}"
[outgoing.relay]
kind = "smtp"
host = "127.0.0.1"
[mailbox."help@acme.test"]
kind = "queue"
[mailbox."anna@acme.test"]
"""
HELP = "help@acme.test"
T = TypeVar("T")


@pytest.fixture
def acme(terminal: Terminal, tmp_path: Path) -> Terminal:
    assert terminal("publish", written(tmp_path / "s.toml", SETTINGS)).code == 0
    assert terminal("crm", "add-queue", "Help", HELP).code == 0
    assert terminal("crm", "add-user", "Anna", "anna@acme.test").code == 0
    return terminal


def within(acme: Terminal, work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    """Do something with the database itself."""

    async def run() -> T:
        engine = open_engine(acme.environment["EMAIL_ROUTER_DSN"], 2)
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def sql(acme: Terminal, *statements: str) -> object:
    async def execute(engine: AsyncEngine) -> object:
        async with engine.begin() as db:
            for statement in statements:
                found = await db.execute(text(statement))
            return found.scalar() if found.returns_rows else None

    return within(acme, execute)


def maildir(directory: Path, number: int) -> Path:
    """Messages of a second each, from 2020 on; the newest in `new`, the others in `cur` with flags."""
    for n in range(number):
        received = f"Received: from x by y; Wed, 01 Jan 2020 {n // 3600:02}:{n // 60 % 60:02}:{n % 60:02} +0000\r\n"
        folder, name = ("new", f"1.{n}.host") if n == number - 1 else ("cur", f"1.{n}.host:2,S")
        written(directory / folder / name, received.encode() + letter(n, HELP))
    return directory


# -- import


def test_an_import_files_old_mail_with_its_times_and_once(acme: Terminal, tmp_path: Path) -> None:
    old = maildir(tmp_path / "old", 30)
    answer = acme("import", old, "--mailbox", "HELP@acme.test")
    assert (answer.code, answer.out) == (0, "30 messages: 30 filed\n")
    assert lines_of(answer.err, ["importing", "30/30"])
    answer = acme("import", old, "--mailbox", HELP, "--json")
    assert (answer.code, answer.err, answer.row) == (0, "", {"messages": 0, "older": 0})
    rows = acme("crm", "timeline", "--limit", 100, "--json").rows
    assert [row["received"][:19] for row in rows] == [f"2020-01-01T00:00:{n:02}" for n in range(30)]
    assert len(list(old.rglob("*.host*"))) == 30


def test_an_import_may_begin_somewhere(acme: Terminal, tmp_path: Path) -> None:
    old = maildir(tmp_path / "old", 10)
    answer = acme("import", old, "--mailbox", HELP, "--since", "2020-01-01T00:00:04", "--json")
    assert answer.row == {"messages": 10, "older": 4, "filed": 6, "too-old": 4}
    answer = acme("import", old, "--mailbox", HELP, "--since", "yesterday")
    assert (answer.code, answer.err.splitlines()) == (
        3,
        ["Error: 'yesterday' is no date", "  to cure it: write it as 2026-01-31"],
    )


def test_an_import_of_nothing_that_can_be_read(acme: Terminal, tmp_path: Path) -> None:
    answer = acme("import", tmp_path / "gone", "--mailbox", HELP)
    assert (answer.code, answer.out) == (3, "")
    assert lines_of(answer.err, ["Error: The Maildir cannot be read"])
    assert lines_of(answer.err, ["  where: ", str(tmp_path / "gone")])
    (tmp_path / "empty").mkdir()
    assert acme("import", tmp_path / "empty", "--mailbox", HELP).out == "There is no message there.\n"


@pytest.mark.kill
@pytest.mark.parametrize(("action", "code"), [("kill", -signal.SIGKILL), ("stop", 130)])
def test_an_import_that_is_broken_off_goes_on_where_it_was(
    acme: Terminal, tmp_path: Path, action: str, code: int
) -> None:
    """By SIGKILL and by Ctrl-C, when the second hundred is filed and nobody knows it yet."""
    old = maildir(tmp_path / "old", 450)
    failpoint = written(tmp_path / "failpoint", f"after-file:2:{action}")
    broken_off = acme.process(
        "import",
        old,
        "--mailbox",
        HELP,
        env={"EMAIL_ROUTER_FAILPOINTS": str(failpoint)},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )
    if action == "stop":
        os.waitid(os.P_PID, broken_off.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        for number in (signal.SIGINT, signal.SIGCONT):
            broken_off.send_signal(number)
    _, err = broken_off.communicate(timeout=60)
    assert broken_off.returncode == code
    assert b"Traceback" not in err
    assert sql(acme, "SELECT count(*) FROM crm.activity") == 200
    row = acme("import", old, "--mailbox", HELP, "--json").row
    assert row["messages"] == row["filed"] + row["duplicate"]
    assert row["filed"] == 250
    assert sql(acme, "SELECT count(*) FROM crm.activity") == 450
    assert sql(acme, "SELECT count(*) FROM router.receipt WHERE outcome IS NULL OR closed IS NULL") == 0
    assert sql(acme, "SELECT count(DISTINCT received) FROM crm.activity") == 450


# -- decisions


def test_decisions_are_found_by_each_of_their_marks(acme: Terminal, tmp_path: Path) -> None:
    for n, raw in enumerate((letter(1, HELP, subject="100% wool"), letter(2, HELP, sender="eve@else.test"))):
        written(tmp_path / "old" / f"{n}.eml", raw)
    acme("import", tmp_path / "old", "--mailbox", HELP)
    acme("import", tmp_path / "old", "--mailbox", "anna@acme.test")

    def found(*conditions: str) -> list[str]:
        rows = acme("decisions", "--json", *conditions).rows
        return [f"{row['message_id'][0]} {row['mailbox'].partition('@')[0]} {row['outcome']}" for row in rows]

    everything = ["2 anna duplicate", "1 anna duplicate", "2 help filed", "1 help filed"]
    assert sorted(found()) == sorted(everything)
    assert found("--limit", "1") == [found()[0]]
    assert sorted(found("--mailbox", HELP)) == ["1 help filed", "2 help filed"]
    assert sorted(found("--message-id", "<1@CUSTOMER.test>")) == ["1 anna duplicate", "1 help filed"]
    assert sorted(found("--sender", "ELSE")) == ["2 anna duplicate", "2 help filed"]
    assert sorted(found("--subject", "0% W")) == ["1 anna duplicate", "1 help filed"]
    assert found("--subject", "1%l") == []  # a wildcard is a letter
    assert sorted(found("--outcome", "duplicate", "--sender", "bob")) == ["1 anna duplicate"]
    [row] = acme("decisions", "--json", "--message-id", "1@customer.test", "--outcome", "filed").rows
    assert row["why"].split("\n")[0] == "Accepted: queue Help <help@acme.test> takes all email messages."
    assert (row["reason"], row["subject"], row["recipients"]) == ("AcceptAll", "100% wool", HELP)
    shown = acme("decisions", "--outcome", "filed").out.splitlines()
    assert shown[0].split() == ["created", "mailbox", "sender", "subject", "outcome", "reason", "why"]
    assert len(shown) == 3
    assert acme("decisions", "--sender", "nobody").out == "No decision fits.\n"
    assert acme("decisions", "--outcome", "lost").code == 2


# -- undeliverable


POISON = letter("poison", HELP, subject="poison")
REFUSE = (
    "CREATE FUNCTION crm.refuse() RETURNS trigger AS $$ BEGIN IF NEW.subject = 'poison' THEN "
    "RAISE EXCEPTION 'no poison here' USING ERRCODE = '22000'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql",
    "CREATE TRIGGER refuse BEFORE INSERT ON crm.activity FOR EACH ROW EXECUTE FUNCTION crm.refuse()",
)


def test_what_is_undeliverable_is_kept_shown_and_retried(acme: Terminal, tmp_path: Path) -> None:
    assert acme("undeliverable", "list").out == "Nothing is undeliverable.\n"
    sql(acme, *REFUSE)
    written(tmp_path / "old" / "1.eml", POISON)
    written(tmp_path / "old" / "2.eml", letter(2, HELP))
    answer = acme("import", tmp_path / "old", "--mailbox", HELP)
    assert (answer.code, answer.out) == (1, "2 messages: 1 filed, 1 undeliverable\n")
    [row] = acme("undeliverable", "list", "--json").rows
    assert (row["subject"], row["sender"], row["mailbox"], row["size"]) == (
        "poison",
        "bob@customer.test",
        HELP,
        len(POISON),
    )
    assert ': "no poison here"' in row["cause"]
    assert row["cure"]
    shown = acme("undeliverable", "show", row["id"])
    assert lines_of(shown.out, ["traceback", "Traceback (most recent call last)"])
    assert acme("undeliverable", "show", row["id"], "--json").row["traceback"]
    assert acme.finished("undeliverable", "show", "--raw", row["id"]).out.encode() == POISON
    assert lines_of(acme("undeliverable", "list").out, [row["id"], "poison"])
    assert attention(acme) == ["1 message is undeliverable"]
    answer = acme("undeliverable", "retry")
    assert (answer.code, answer.err.splitlines()[0]) == (3, "Error: No message is named")
    sql(acme, "DROP TRIGGER refuse ON crm.activity")
    assert acme("undeliverable", "retry", row["id"], "--json").row == {"retried": 1}
    assert acme("import", tmp_path / "old", "--mailbox", HELP).out == "1 message: 1 filed\n"
    answer = acme("undeliverable", "retry", "--all")
    assert (answer.code, answer.out) == (1, "None of these is open.\n")
    assert acme("undeliverable", "list", "--json").rows == []
    assert attention(acme) == []
    assert acme("import", tmp_path / "old", "--mailbox", HELP).out == (
        "Nothing new: 2 messages, imported before or older than asked for.\n"
    )
    gone = "01a21106-0fcd-75a6-8136-cde43c48c7e0"
    answer = acme("undeliverable", "show", gone)
    assert (answer.code, answer.err.splitlines()[0]) == (3, f"Error: There is no undeliverable message {gone}")


def test_what_was_not_read_has_no_bytes_here(acme: Terminal, tmp_path: Path) -> None:
    os.truncate(written(tmp_path / "old" / "1.eml", b""), 200 << 20)
    assert acme("import", tmp_path / "old", "--mailbox", HELP).code == 1
    [row] = acme("undeliverable", "list", "--json").rows
    size = "it has 209,715,200 bytes, and maximum_message_bytes of the profile is 157,286,400"
    assert row["cause"] == f"This message could not be read: {size}"
    answer = acme("undeliverable", "show", "--raw", row["id"])
    assert (answer.code, answer.out) == (3, "")
    assert answer.err.startswith("Error: This message could not be read, so that there are no bytes of it here\n")


# -- outgoing


def uncertain(acme: Terminal, subject: str) -> str:
    """An email that was handed over, and whose answer nobody saw; the id of its ledger row."""
    assert acme("crm", "send", "--from", HELP, "--to", "bob@customer.test", "--subject", subject).code == 0

    async def lose(engine: AsyncEngine) -> UUID:
        ledger, outbox = Ledger(engine), Outbox(engine, await organization.find(engine, "Acme"), "acme")
        term = await Shards(engine).take(1, "test")
        [row] = await ledger.open(await outbox.claim([HELP], 10, term), "relay", term)
        await ledger.hand_over([row.id], term)
        await ledger.record([Attempt(row.id, SendState.UNCERTAIN, said="the connection was lost")], term)
        return row.id

    return str(within(acme, lose))


def test_what_is_uncertain_is_listed_and_settled(acme: Terminal) -> None:
    assert acme("outgoing", "list").out == "Nothing waits, nothing failed, nothing is uncertain.\n"
    ids = {verdict: uncertain(acme, verdict) for verdict in ("sent", "again", "failed")}
    rows = acme("outgoing", "list", "--json").rows
    assert {row["id"] for row in rows} == set(ids.values())
    assert {(row["state"], row["last_error"]) for row in rows} == {("uncertain", "the connection was lost")}
    assert lines_of(acme("outgoing", "list").out, [ids["sent"], "uncertain", "the connection was lost"])
    assert attention(acme) == ["3 emails are uncertain: handed over, and the answer was never seen"]
    assert acme("outgoing", "settle", ids["sent"], "sent").out == "It counts as sent.\n"
    assert acme("outgoing", "settle", ids["again"], "again", "--json").row == {"id": ids["again"], "verdict": "again"}
    assert acme("outgoing", "settle", ids["failed"], "failed").out == "It has failed.\n"
    states = {row["id"]: row["state"] for row in acme("outgoing", "list", "--every", "--json").rows}
    assert states == {ids["sent"]: "sent", ids["again"]: "pending", ids["failed"]: "failed"}
    assert {row["id"] for row in acme("outgoing", "list", "--json").rows} == {ids["again"], ids["failed"]}
    answer = acme("outgoing", "settle", ids["sent"], "again")
    assert (answer.code, answer.out) == (3, "")
    assert answer.err.splitlines()[0] == f"Error: There is no uncertain email {ids['sent']}"
    assert acme("outgoing", "settle", ids["sent"], "perhaps").code == 2


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that the database's own user may enter, when root runs the tests."""
    directory = Path(tempfile.mkdtemp(prefix="host-", dir="/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def test_a_container_that_is_made_anew_is_the_same_installation(terminal: Terminal, open_to_all: Path) -> None:
    """Its own name is another one each time; `host` stays, and another `host` is another place."""
    del terminal.environment["EMAIL_ROUTER_DSN"]  # only an embedded database may be a copy
    terminal.environment["EMAIL_ROUTER_DATA"] = str(open_to_all / "data")

    def hold(container: str, host: str) -> str:
        terminal.monkeypatch.setattr(socket, "gethostname", lambda: container)
        terminal.environment["EMAIL_ROUTER_HOST"] = host
        return str(terminal("status", "--json").row["hold"])

    assert hold("4f1c", "machine1") == ""
    assert hold("9a7e", "machine1") == ""
    said = "this installation is known to run on machine1, and it was started on machine2"
    assert hold("9a7e", "machine2") == said
    assert terminal("outgoing", "release", "--json").row == {"released": said}
    assert hold("b002", "machine2") == ""
    assert hold("b002", "") == "this installation is known to run on machine2, and it was started on b002"


def test_a_hold_is_told_and_released(acme: Terminal) -> None:
    sql(acme, "UPDATE router.installation SET outgoing_hold = 'restored from a backup'")
    answer = acme("outgoing", "list")
    assert answer.err.startswith("Outgoing mail is held: restored from a backup. What is written meanwhile waits in ")
    assert attention(acme) == ["Outgoing mail is held: restored from a backup"]
    assert lines_of(acme("doctor").out, ["FAILED outgoing: restored from a backup"])
    assert acme("outgoing", "release").out == "Released: restored from a backup\n"
    assert acme("outgoing", "release", "--json").row == {"released": ""}
    assert attention(acme) == []


# -- how the commands speak


def test_a_reader_that_goes_away_and_a_terminal_without_letters_end_nothing(acme: Terminal, tmp_path: Path) -> None:
    maildir(tmp_path / "old", 300)
    written(tmp_path / "old" / "new" / "2.0.host", letter("jürgen", HELP, subject="Grüße 🙂"))
    acme("import", tmp_path / "old", "--mailbox", HELP)
    for options in ((), ("--json",)):
        read, write = os.pipe()
        process = acme.process("decisions", "--limit", 300, *options, stdout=write)
        os.close(write)
        os.read(read, 10)
        os.close(read)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, b"")
    answer = acme.finished("decisions", "--subject", "Gr", env={"PYTHONIOENCODING": "ascii"})
    assert (answer.code, answer.err) == (0, "")
    assert "Gr\\xfc\\xdfe" in answer.out
    answer = acme.finished("decisions", "--subject", "Gr", "--json", env={"PYTHONIOENCODING": "ascii"})
    assert answer.row["subject"] == "Grüße 🙂"
