"""The commands on a real database: what is published is what is shown, and a forgotten step is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from email_router.cli import run

pytestmark = pytest.mark.database

SETTINGS = """
[deployment.contoso]
incoming_profile = "office"
outgoing_profile = "relay"
[incoming.office]
kind = "imap"
host = "127.0.0.1"
[outgoing.relay]
kind = "smtp"
host = "127.0.0.1"
[mailbox."anna@example.com"]
"""
NO_ROUTER = "No router runs: nothing is received and nothing is sent"
BOB = '[mailbox."bob@example.com"]\n'
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("EMAIL_ROUTER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("EMAIL_ROUTER_DSN", dsn)
    monkeypatch.delenv("EMAIL_ROUTER_CONFIG", raising=False)

    def called(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return called


def publish(command: Command, path: Path, text: str) -> tuple[int, str, str]:
    path.write_text(text)
    return command("publish", "--yes", str(path))


def names(command: Command) -> dict[str, str]:
    _, out, _ = command("mailboxes", "--json")
    return {row["name"]: row["state"] for row in map(json.loads, out.splitlines())}


def test_what_was_removed_or_disabled_needs_no_attention(command: Command, dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    publish(command, file, SETTINGS + BOB)
    with psycopg.connect(dsn) as db:
        db.execute("UPDATE router.mailbox SET state = 'needs operator', error = 'wrong' WHERE name LIKE 'bob@%'")
    assert names(command) == {"anna@example.com": "new", "bob@example.com": "needs operator"}
    code, out, err = command("status")
    assert code == 1
    assert "bob@example.com: needs operator: wrong" in err

    publish(command, file, SETTINGS + BOB + "enabled = false\n")
    assert names(command) == {"anna@example.com": "new", "bob@example.com": "disabled"}
    assert "bob@example.com" not in command("status")[2]

    publish(command, file, SETTINGS)
    assert names(command) == {"anna@example.com": "new"}
    code, out, err = command("status")
    assert (code, err.splitlines()[0], err.count("to cure it")) == (1, NO_ROUTER, 1)
    assert "1, none with a problem" in out


def test_a_profile_that_listens_is_no_mailbox(command: Command, dsn: str, tmp_path: Path) -> None:
    pushed = '[incoming.pushed]\nkind = "lmtp"\n[mailbox."sales@example.com"]\nincoming_profile = "pushed"\n'
    publish(command, tmp_path / "settings.toml", SETTINGS + pushed)
    with psycopg.connect(dsn) as db:  # what a router does that serves it
        db.execute("INSERT INTO router.mailbox (name, state) VALUES ('incoming pushed', 'away')")
    code, out, _ = command("status")
    assert code == 1
    assert re.findall(r"^(mailboxes|profiles) +(.*?) *$", out, re.MULTILINE) == [
        ("mailboxes", "2, none with a problem"),
        ("profiles", "1, 1 with a problem"),
    ]


def test_a_mailbox_that_is_nobodys_is_told_until_somebody_has_it(command: Command, tmp_path: Path) -> None:
    code, _, err = publish(command, tmp_path / "settings.toml", SETTINGS)
    assert code == 0
    assert "anna@example.com is no user's and no queue's mailbox in deployment contoso" in err
    code, out, _ = command("doctor")
    assert code == 3
    assert "FAILED owner of anna@example.com" in out

    assert command("crm", "add-user", "Anna", "Anna@Example.com")[0] == 0
    assert publish(command, tmp_path / "settings.toml", SETTINGS)[2] == ""
    code, out, _ = command("doctor")
    assert (code, "FAILED" in out) == (0, False)


def test_a_forward_mailbox_is_nobodys_and_that_is_right(command: Command, tmp_path: Path) -> None:
    forward = SETTINGS + 'kind = "forward"\ntrusted_forwarder_hosts = ["192.0.2.0/24"]\n'
    assert publish(command, tmp_path / "settings.toml", forward)[2] == ""
