"""Settings that a careless administrator may write: refused or warned about before they do harm."""

from __future__ import annotations

import pytest

from email_router.app import KINDS
from email_router.settings.difference import difference
from email_router.settings.problems import Invalid, Problem
from email_router.settings.read import read

TEXT = """
[deployment.sales]
organization = "Acme"
{deployment}
[deployment.sales.tracking]
{tracking}
[incoming.office]
kind = "imap"
host = "imap.example.com"
{incoming}
[outgoing.relay]
kind = "smtp"
host = "smtp.example.com"
{outgoing}
[mailbox."help@example.com"]
kind = "queue"
incoming_profile = "office"
outgoing_profile = "relay"
{mailbox}
"""


def text(**lines: str) -> str:
    return TEXT.format(
        **{name: lines.get(name, "") for name in ("deployment", "tracking", "incoming", "outgoing", "mailbox")}
    )


def problems(**lines: str) -> list[Problem]:
    try:
        return list(read(text(**lines), KINDS)[1])
    except Invalid as error:
        return list(error.problems)


def test_honest_settings_have_no_problem() -> None:
    assert problems() == []


@pytest.mark.parametrize("folder", ["", 'folder = "inbox"', 'folder = "Tracked"'])
def test_mail_is_not_moved_into_the_folder_it_is_read_from(folder: str) -> None:
    target = "Tracked" if "Tracked" in folder else "INBOX"
    found = problems(mailbox=f'source_action = "move"\nmove_to = "{target}"\n{folder}')
    assert [(p.key.rpartition(".")[2], p.severity) for p in found] == [("move_to", "error")]
    assert "again and again" in found[0].what
    assert problems(mailbox=f'source_action = "move"\nmove_to = "Done"\n{folder}') == []


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("tracking", "token_counter_digits = 0"),
        ("tracking", "token_user_digits = -1"),
        ("tracking", "token_wrap_days = 10000000000"),
        ("tracking", "maximum_subject = 5"),
        ("deployment", "keep_raw_days = -1"),
        ("incoming", "timeout = 0"),
        ("incoming", "connect_timeout = -5"),
        ("incoming", "timeout = inf"),
        ("incoming", "poll_seconds = nan"),
        ("incoming", "idle_seconds = 0"),
        ("incoming", "maximum_message_bytes = 0"),
        ("outgoing", "retry_seconds = 0"),
        ("outgoing", "retry_seconds = inf"),
        ("outgoing", "give_up_hours = 1e300"),
        ("outgoing", "attempts = 0"),
        ("outgoing", "messages_per_minute = -1"),
        ("outgoing", "data_timeout = 0"),
    ],
)
def test_numbers_with_which_nothing_works_are_refused(where: str, line: str) -> None:
    [found] = problems(**{where: line})
    assert found.severity == "error"
    assert found.key.rpartition(".")[2] == line.partition(" ")[0]
    assert found.line > 0


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_everybody_is_no_trusted_network(network: str) -> None:
    mine = f'trusted_forwarder_hosts = ["{network}"]'
    forward = text(mailbox=mine).replace('kind = "queue"', 'kind = "forward"')
    with pytest.raises(Invalid, match="anybody could forward as any user"):
        read(forward, KINDS)


@pytest.mark.parametrize(
    ("username", "own", "warned"),
    [("shared", "", True), ("{address}", "", False), ("shared", 'folder = "Second"', False), ("", "", False)],
)
def test_two_mailboxes_that_are_one_are_warned_about(username: str, own: str, warned: bool) -> None:
    login = f'username = "{username}"\npassword = "env:X"' if username else ""
    second = f'[mailbox."second@example.com"]\nincoming_profile = "office"\noutgoing_profile = "relay"\n{own}'
    _, warnings = read(text(incoming=login) + second, KINDS)
    assert [w.key for w in warnings] == (['mailbox."second@example.com".username'] if warned else [])
    assert all("the same folder as help@example.com" in w.what for w in warnings)


def test_a_proxys_password_is_warned_about_and_never_shown() -> None:
    before, after = (text(incoming=f'proxy = "http://me:{word}@proxy.example:3128"') for word in ("hush", "hush-hush"))
    new, [warning] = read(after, KINDS)
    assert (warning.severity, "in clear" in warning.what) == ("warning", True)
    assert difference(read(before, KINDS)[0], new) == (
        "incoming profile office: proxy: http://me:…@proxy.example:3128 → http://me:…@proxy.example:3128",
    )
    assert "hush" not in str(warning)


def test_changes_are_told_as_they_stand_in_the_file() -> None:
    changed = text(incoming='port = 993\ntls = "implicit"\npoll_seconds = 30\nidle = false')
    assert difference(read(text(), KINDS)[0], read(changed, KINDS)[0]) == (
        "incoming profile office: port: the standard port → 993",
        "incoming profile office: tls: starttls → implicit",
        "incoming profile office: idle: true → false",
        "incoming profile office: poll_seconds: 60 → 30",
    )
