"""Setting up and looking: publish, status, mailboxes, doctor, secrets, Test Access."""

from __future__ import annotations

import getpass
import re
import subprocess
import time
from pathlib import Path

import psycopg
import pytest

from email_router.store.secrets import decoded, key_id, new_key
from tests.fixtures.post import PASSWORD, Post
from tests.fixtures.terminal import Terminal, lines_of, written

pytestmark = pytest.mark.database

SETTINGS = """\
[deployment.acme]
organization = "Acme"
incoming_profile = "old"

[incoming.old]
kind = "maildir"
path = "{path}/{{address}}"

[mailbox."help@acme.test"]
kind = "queue"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return written(tmp_path / "settings.toml", SETTINGS.format(path=tmp_path))


# -- publish


def test_a_publication_shows_what_changes_and_counts(terminal: Terminal, settings: Path) -> None:
    answer = terminal("publish", settings)
    assert (answer.code, answer.out.splitlines()) == (
        0,
        [
            "  new deployment acme",
            "  new incoming profile old",
            "  new mailbox help@acme.test",
            "Revision 1 is active.",
        ],
    )
    assert answer.err == (
        "warning: help@acme.test is no user's and no queue's mailbox in deployment acme: its mail will not be tracked "
        "- to cure it: email-router crm add-user NAME help@acme.test, or add-queue\n"
    )
    settings.write_text(settings.read_text() + '[mailbox."anna@acme.test"]\nenabled = false\n')
    answer = terminal("publish", "--json", settings)
    assert answer.row == {"revision": 2, "changes": ["new mailbox anna@acme.test"]}
    settings.write_text(settings.read_text().replace("enabled = false", "enabled = true"))
    answer = terminal("publish", settings)
    assert answer.out.splitlines()[0] == "  mailbox anna@acme.test: enabled: false → true"
    answer = terminal("publish", written(settings, settings.read_text() + "# only a comment\n"))
    assert (answer.code, answer.out) == (0, "Nothing changes: revision 3 stays active.\n")
    assert terminal("publish", "--json", settings).row == {"revision": 3, "changes": []}


# -- revisions


def test_what_was_published_is_kept_and_shown(terminal: Terminal, settings: Path) -> None:
    assert terminal("revisions", "list").out == "Nothing is published yet: email-router publish FILE\n"
    terminal("publish", settings)
    first = settings.read_text()
    second = first + "".join(f'[mailbox."{n}@acme.test"]\nenabled = false\n' for n in range(7))
    terminal("publish", written(settings, second))
    third = second.replace("enabled = false", "enabled = true", 1)
    terminal("publish", written(settings, third))

    rows = terminal("revisions", "list", "--json").rows
    assert [(r["number"], r["active"], r["comment"]) for r in rows] == [(n, n == 3, str(settings)) for n in (3, 2, 1)]
    assert all(row["who"] == getpass.getuser() and row["created"] for row in rows)
    everything = ["new deployment acme", "new incoming profile old", "new mailbox help@acme.test"]
    added = [f"new mailbox {n}@acme.test" for n in range(7)]
    assert [row["changes"] for row in rows] == [["mailbox 0@acme.test: enabled: false → true"], added, everything]
    assert "source" not in rows[0]
    [newest] = terminal("revisions", "list", "--json", "--limit", 1).rows
    assert newest == rows[0], "it is compared with the one that is not shown"
    lines = terminal("revisions", "list").out.splitlines()
    assert re.search(rf"^3 .* active +{rows[0]['changes'][0]}$", lines[1])
    assert lines[2].endswith("; new mailbox 4@acme.test; and 2 more") and "active" not in lines[2]

    assert terminal("revisions", "show", 1).out == first
    assert terminal("revisions", "show", 2, "--changes").out.splitlines() == added
    assert terminal("revisions", "show", 1, "--json").row == rows[2] | {"source": first}
    for command in (("show", 4), ("show", 0), ("revert", 4)):
        answer = terminal("revisions", *command)
        assert (answer.code, answer.out) == (3, "")
        assert answer.err == f"Error: There is no revision {command[1]}\n  to cure it: email-router revisions list\n"


def test_an_earlier_revision_is_published_again(terminal: Terminal, settings: Path) -> None:
    terminal("publish", settings)
    first = settings.read_text()
    terminal("publish", written(settings, first + '[mailbox."anna@acme.test"]\n'))
    answer = terminal("revisions", "revert", 1)
    assert (answer.code, answer.out) == (0, "  mailbox anna@acme.test is removed\nRevision 3 is active.\n")
    assert terminal("revisions", "show", 3).out == first
    assert terminal("status", "--json").row["revision"] == 3
    assert terminal("revisions", "list", "--json", "--limit", 1).row["comment"] == "revision 1"
    assert terminal("revisions", "revert", "--json", 1).row == {"revision": 3, "changes": []}
    answer = terminal("revisions", "revert", "--json", 2)
    assert answer.row == {"revision": 4, "changes": ["new mailbox anna@acme.test"]}


def test_a_revision_that_is_valid_no_more_is_listed_and_not_published(
    terminal: Terminal, settings: Path, dsn: str
) -> None:
    """A newer release may refuse what an older one took."""
    terminal("publish", settings)
    terminal("publish", written(settings, settings.read_text() + '[mailbox."anna@acme.test"]\n'))
    with psycopg.connect(dsn) as db:
        db.execute("UPDATE router.revision SET source = 'old = 1\n' WHERE number = 1")
    rows = terminal("revisions", "list", "--json").rows
    assert [row["changes"] for row in rows] == [["this release cannot read it, or the one before it"]] * 2
    assert terminal("revisions", "show", 1).out == "old = 1\n"
    answer = terminal("revisions", "revert", 1)
    assert (answer.code, answer.out) == (3, "")
    assert answer.err.startswith("revision 1:1  old: there is no such section\n")
    assert terminal("status", "--json").row["revision"] == 2


def test_an_active_revision_that_is_valid_no_more_is_cured_by_publishing(
    terminal: Terminal, settings: Path, dsn: str
) -> None:
    terminal("publish", settings)
    with psycopg.connect(dsn) as db:
        db.execute("UPDATE router.revision SET source = 'old = 1\n' WHERE active")
    assert terminal("status").code != 0
    answer = terminal("publish", settings)
    assert answer.code == 0
    assert "The active revision 1 cannot be read by this release" in answer.err
    assert answer.out.splitlines()[-1] == "Revision 2 is active."
    assert terminal("status", "--json").row["revision"] == 2


def test_a_check_publishes_nothing(terminal: Terminal, settings: Path) -> None:
    answer = terminal("publish", "--check", settings)
    assert (answer.code, len(answer.out.splitlines()), answer.err) == (0, 4, "")
    assert answer.out.splitlines()[-1] == "These settings may be published. Nothing was changed."
    answer = terminal("publish", "--check", "--json", settings)
    assert answer.row["changes"] == ["new deployment acme", "new incoming profile old", "new mailbox help@acme.test"]
    assert "none published" in terminal("status").out


BROKEN = [
    (("[incoming.old]", "[incoming.old"), 5, "syntax", "Expected ']'", "sections in [brackets]"),
    (('kind = "maildir"', "kind = maildir"), 6, "syntax", "Invalid value", "texts stand in quotes"),
    (
        ('kind = "maildir"', 'kind = "mailbox"'),
        6,
        "incoming.old.kind",
        "'mailbox' is not possible",
        "imap, lmtp, maildir",
    ),
    (('kind = "queue"', 'kind = "que"'), 10, "kind", "'que' is not possible", "did you mean 'queue'?"),
    (("path =", "paht ="), 7, "incoming.old.paht", "there is no such setting", "did you mean 'path'?"),
    (("[incoming.old]", "[incoming.new]"), 3, "incoming_profile", "no such profile: 'old'", "one of: new"),
    (("help@acme.test", "help"), 9, "mailbox.help", "this is no email address", "name@example.com"),
]
"""What is replaced in the settings, and the line, key, words and cure of the error."""


def test_errors_name_the_line_and_the_cure_and_change_nothing(terminal: Terminal, settings: Path) -> None:
    assert terminal("publish", settings).code == 0
    good = settings.read_text()
    for broken, line, key, what, cure in BROKEN:
        settings.write_text(good.replace(*broken))
        for option in ((), ("--check",), ("--json",)):
            answer = terminal("publish", *option, settings)
            assert (answer.code, answer.out) == (3, "")
            first, second, *_, last = answer.err.splitlines()
            assert first.startswith(f"{settings}:{line}  ")
            assert key in first and what in first
            assert second.startswith("    to cure it: ") and cure in second
            assert last.endswith("nothing was changed.")
    assert terminal("status", "--json").row["revision"] == 1


def test_a_settings_file_that_cannot_be_read(terminal: Terminal, tmp_path: Path) -> None:
    for file, what in (
        (tmp_path / "gone.toml", "The settings file cannot be read: No such file or directory"),
        (tmp_path, "The settings file cannot be read: Is a directory"),
        (written(tmp_path / "latin.toml", b"# \xe4\n"), "The settings file is no UTF-8 text"),
    ):
        answer = terminal("publish", file)
        assert (answer.code, answer.out) == (3, "")
        assert answer.err.splitlines()[:2] == [f"Error: {what}", f"  where: {file}"]
        assert "  to cure it: " in answer.err


# -- looking


def test_an_installation_without_settings(terminal: Terminal) -> None:
    answer = terminal("status")
    assert answer.code == 0
    assert "none published" in answer.out
    assert terminal("status", "--json").row["revision"] == 0
    assert terminal("mailboxes").out == "No mailbox is published yet: email-router publish FILE\n"
    assert terminal("mailboxes", "--json").rows == []
    answer = terminal("doctor")
    assert answer.code == 3
    assert lines_of(answer.out, ["FAILED settings: none are published"])
    for command in ("users", "timeline"):
        answer = terminal("crm", command)
        assert (answer.code, answer.out) == (3, "")
        assert answer.err.splitlines() == [
            "Error: No deployment is published yet",
            "  to cure it: email-router publish settings.toml",
        ]


def test_status_mailboxes_and_doctor_agree(terminal: Terminal, settings: Path) -> None:
    terminal("publish", settings)
    terminal("crm", "add-queue", "Help", "help@acme.test")
    [row] = terminal("mailboxes", "--json").rows
    assert (row["name"], row["state"], row["waiting"], row["error"]) == ("help@acme.test", "new", 0, "")
    status = terminal("status", "--json").row
    assert (status["revision"], status["hold"], status["undeliverable"]) == (1, "", [])
    answer = terminal("doctor", "--json")
    assert answer.code == 0
    assert {check["check"]: check["ok"] for check in answer.rows} == {
        "python": True,
        "disk": True,
        "rights": True,
        "database": True,
        "settings": True,
        "outgoing": True,
        "help@acme.test": True,
    }
    assert all(check["cure"] == "" for check in answer.rows)


def test_status_knows_whether_a_router_runs(terminal: Terminal, settings: Path, tmp_path: Path) -> None:
    (tmp_path / "help@acme.test" / "new").mkdir(parents=True)
    terminal("publish", settings)
    answer = terminal("status")
    assert (answer.code, answer.err.splitlines()) == (
        1,
        ["No router runs: nothing is received and nothing is sent", "    to cure it: start it: email-router run"],
    )
    router = terminal.process("run", stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while (status := terminal("status", "--json")).code and time.monotonic() < deadline:
        assert router.poll() is None
    assert (status.code, status.row["routers"], status.row["attention"]) == (0, 1, [])
    router.terminate()
    assert router.wait(30) == 0
    status = terminal("status", "--json")
    assert (status.code, status.row["routers"]) == (1, 0)


def test_doctor_finds_a_password_that_cannot_be_had(terminal: Terminal, post: Post, tmp_path: Path) -> None:
    text = post.settings(tmp_path / "gone", smtp_password="secret:relay")
    terminal("publish", written(tmp_path / "s.toml", text))
    answer = terminal("doctor")
    assert answer.code == 3
    [found] = lines_of(answer.out, ["FAILED secret file:"])
    assert found.endswith(f"The file {tmp_path}/gone with the password cannot be read")
    assert lines_of(answer.out, ["FAILED secret secret:relay: There is no stored secret named relay"])
    assert lines_of(answer.out, ["to cure it: store it with: email-router secret set relay"])


def test_doctor_tells_the_cure_of_a_mailbox_once(terminal: Terminal, settings: Path) -> None:
    terminal("publish", settings)
    terminal("crm", "add-queue", "Help", "help@acme.test")
    with psycopg.connect(terminal.environment["EMAIL_ROUTER_DSN"]) as db:
        told = "it is closed (host:1) - to cure it: open it"
        db.execute("UPDATE router.mailbox SET state = 'away', error = %s", (told,))
    found = terminal("doctor").out.splitlines()
    assert found[-2:] == ["FAILED help@acme.test: away: it is closed (host:1)", "       to cure it: open it"]


# -- secrets


def test_secrets_are_stored_listed_removed_and_never_shown(terminal: Terminal) -> None:
    answer = terminal("secret", "set", "relay", given="p4ss w0rd\r\n")
    assert (answer.code, answer.out, answer.err) == (0, "", "Stored. Settings refer to it as secret:relay\n")
    assert terminal("secret", "set", "office", "--json", given="other\n").row == {"name": "office"}
    rows = terminal("secret", "list", "--json").rows
    key = decoded(terminal.environment["EMAIL_ROUTER_KEY"], "")
    assert [(row["name"], row["key_id"]) for row in rows] == [("office", key_id(key)), ("relay", key_id(key))]
    listed = terminal("secret", "list")
    assert listed.code == 0
    for said in (listed.out, str(rows), terminal("doctor").out, terminal("status", "--json").out):
        assert "p4ss w0rd" not in said
    assert terminal("secret", "remove", "relay").code == 0
    answer = terminal("secret", "remove", "relay")
    assert (answer.code, answer.err.splitlines()[0]) == (3, "Error: There is no stored secret named relay")
    assert [row["name"] for row in terminal("secret", "list", "--json").rows] == ["office"]


@pytest.mark.parametrize("given", ["", "\n"])
def test_an_empty_secret_is_refused(terminal: Terminal, given: str) -> None:
    answer = terminal("secret", "set", "relay", given=given)
    assert (answer.code, answer.err.splitlines()[0]) == (3, "Error: The secret is empty; nothing was stored")


def test_a_new_key_seals_everything_again(terminal: Terminal) -> None:
    for name in ("one", "two"):
        terminal("secret", "set", name, given=f"{name}\n")
    new = terminal("secret", "new-key").out.strip()
    answer = terminal("secret", "rotate", "--json", given=new + "\n")
    assert answer.row == {"secrets": 2, "key": key_id(decoded(new, ""))}
    old = terminal.environment["EMAIL_ROUTER_KEY"]
    answer = terminal("secret", "rotate", given=new_key() + "\n")
    assert answer.code == 3
    assert "The stored secret one cannot be opened with this key" in answer.err
    terminal.environment["EMAIL_ROUTER_KEY"] = new
    assert terminal("secret", "rotate", given=old + "\n").code == 0
    answer = terminal("secret", "rotate", given="short\n")
    assert (answer.code, answer.err.splitlines()[1]) == (3, "  where: the new key")


def test_secrets_need_a_key(terminal: Terminal) -> None:
    terminal.environment["EMAIL_ROUTER_KEY"] = ""
    answer = terminal("secret", "set", "relay", given="x\n")
    assert (answer.code, answer.out) == (3, "")
    assert answer.err.splitlines()[0] == "Error: Stored secrets need an encryption key, and none is configured"
    terminal.environment["EMAIL_ROUTER_KEY"] = "bm90IDMyIGJ5dGVz"
    answer = terminal("status")
    assert answer.code == 3
    assert answer.err.splitlines()[:2] == [
        "Error: The encryption key is not 32 bytes in base64",
        "  where: EMAIL_ROUTER_KEY",
    ]


# -- Test Access


def access(terminal: Terminal, post: Post, tmp_path: Path, **changes: object) -> list[dict[str, object]]:
    """The steps of Test Access of one mailbox with these settings."""
    password = written(tmp_path / "password", PASSWORD)
    assert terminal("publish", written(tmp_path / "s.toml", post.settings(password, **changes))).code == 0
    answer = terminal("test-access", "--json", "HELP@acme.test")
    steps = answer.rows
    assert answer.code == (0 if all(step["ok"] for step in steps) else 1)
    assert all(step["mailbox"] == "help@acme.test" and step["tried"] for step in steps)
    assert all(bool(step["cure"]) is not step["ok"] for step in steps)
    return steps


def test_both_directions_step_by_step(terminal: Terminal, post: Post, tmp_path: Path) -> None:
    steps = access(terminal, post, tmp_path)
    assert [(s["direction"], s["step"]) for s in steps if s["direction"] == "incoming"][:3] == [
        ("incoming", "resolve"),
        ("incoming", "connect"),
        ("incoming", "log in"),
    ]
    assert {s["direction"] for s in steps} == {"incoming", "outgoing"}
    assert all(step["ok"] for step in steps)
    answer = terminal("test-access")
    assert answer.code == 0
    assert all(line.startswith("ok     ") for line in answer.out.splitlines())
    assert {line.split()[1] for line in answer.out.splitlines()} == {"help@acme.test", "anna@acme.test"}
    assert PASSWORD not in answer.out


FAILING: list[tuple[dict[str, object], str, str, str, str]] = [
    ({"imap_host": "nowhere.invalid"}, "incoming", "resolve", "", "correct the host name"),
    ({"smtp_host": "nowhere.invalid"}, "outgoing", "resolve", "", "correct the host name"),
    ({"imap_port": 1}, "incoming", "connect", "nobody listens there", "start the mail server"),
    ({"smtp_port": 1}, "outgoing", "connect", "nobody listens there", "start the mail server"),
    ({"imap_ca_file": None}, "incoming", "connect", "certificate", "ca_file"),
    ({"smtp_ca_file": None}, "outgoing", "connect", "certificate", "ca_file"),
    ({"imap_pinned_sha256": "00" * 32}, "incoming", "connect", "certificate", "pinned_sha256"),
    ({"imap_username": "anna@acme.test", "imap_password": "env:WRONG"}, "incoming", "log in", "", "password"),
    ({"smtp_password": "env:WRONG"}, "outgoing", "log in", "", "password"),
    ({"imap_password": "env:NOT_SET"}, "incoming", "log in", "NOT_SET", "set NOT_SET"),
    ({"imap_folder": "Gone"}, "incoming", "open folder", "", "folder"),
]
"""What is wrong in the settings, and the step that fails with what is said and the cure."""


def test_the_step_that_fails_is_told_with_its_cure(terminal: Terminal, post: Post, tmp_path: Path) -> None:
    terminal.environment["WRONG"] = "wrong"
    for changes, direction, step, said, cure in FAILING:
        steps = access(terminal, post, tmp_path, **changes)
        [failed] = [s for s in steps if not s["ok"]]
        assert (failed["direction"], failed["step"]) == (direction, step)
        assert said in str(failed["said"])
        assert cure in str(failed["cure"])
        assert "wrong" not in str(failed["tried"])
        assert [s for s in steps if s["direction"] == direction][-1] is failed
        shown = terminal("test-access", "help@acme.test").out
        assert lines_of(shown, ["FAILED", "help@acme.test", direction, str(failed["tried"])])
        assert lines_of(shown, ["       to cure it: ", cure])


def test_a_maildir_can_be_read_or_not(terminal: Terminal, settings: Path, tmp_path: Path) -> None:
    terminal("publish", settings)
    step = terminal("test-access", "--json").row
    assert (step["ok"], step["said"]) == (False, 'The Maildir cannot be read: "No such file or directory"')
    written(tmp_path / "help@acme.test" / "cur" / "1", b"From: a@b.test\r\n\r\nx")
    step = terminal("test-access", "--json").row
    assert (step["ok"], step["said"]) == (True, "1 messages, 19 bytes")


def test_a_mailbox_that_is_not_published(terminal: Terminal, settings: Path) -> None:
    terminal("publish", settings)
    for arguments in (("test-access", "halp@acme.test"), ("import", ".", "--mailbox", "halp@acme.test")):
        answer = terminal(*arguments)
        assert (answer.code, answer.out) == (3, "")
        assert answer.err.splitlines() == [
            "Error: There is no mailbox 'halp@acme.test'",
            "  to cure it: did you mean 'help@acme.test'?",
        ]
