"""What may be wrong with an LMTP profile: the line, the reason, the cure."""

from __future__ import annotations

import pytest

from email_router.app import KINDS
from email_router.settings.problems import Invalid
from email_router.settings.read import read

SETTINGS = """\
[deployment.sales]
organization = "Acme"
incoming_profile = "push"

[incoming.push]
kind = "lmtp"
port = 8124

[mailbox."help@acme.test"]
"""


def problems(text: str) -> list[tuple[int, str, str]]:
    """Line, key and severity of what is wrong with a profile of these lines."""
    whole = SETTINGS.replace("port = 8124", text)
    try:
        _, warnings = read(whole, KINDS)
    except Invalid as invalid:
        return [(p.line, p.key, p.what) for p in invalid.problems]
    return [(p.line, p.key, p.what) for p in warnings]


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("port = 0", "port", "0 is no port"),
        ("port = 25", "port", "port 25 is for SMTP"),
        ('host = ""', "host", "the address to listen on is missing"),
        ('socket = "run/lmtp.sock"', "socket", "this is no absolute path"),
        ("allowed_peers = []", "allowed_peers", "nobody may hand mail over"),
        ('allowed_peers = ["mx.acme.test"]', "allowed_peers", "'mx.acme.test' is no network"),
        ('allowed_peers = "127.0.0.1"', "allowed_peers", "is not a list of texts"),
        ("maximum_message_bytes = 0", "maximum_message_bytes", "0 is out of range"),
        ("maximum_connections = -1", "maximum_connections", "-1 is out of range"),
        ("timeout = 0", "timeout", "0 is out of range"),
        ("require_tls = true", "require_tls", "there is no certificate for TLS"),
        ('certificate_file = "/nowhere.pem"', "certificate_file", "the file /nowhere.pem does not exist"),
        ('password = "env:X"', "password", "there is no such setting"),
        ("jitter = 0.2", "jitter", "there is no such setting"),
        ("connections = 5", "connections", "there is no such setting"),
        ('allowed_peers = ["0.0.0.0/0"]', "allowed_peers", "0.0.0.0/0 LETS ANYBODY ON THE INTERNET FILE MAIL"),
        ('allowed_peers = ["10.0.0.0/8", "::/0"]', "allowed_peers", "::/0 LETS ANYBODY ON THE INTERNET FILE MAIL"),
        ('host = "0.0.0.0"', "require_tls", "mail may cross the network in clear"),
    ],
)
def test_what_is_wrong_names_the_line(line: str, key: str, words: str) -> None:
    [(number, what)] = [(n, w) for n, k, w in problems(line) if k == f"incoming.push.{key}"]
    assert number == (7 if line.startswith(key) else 5)
    assert words in what


@pytest.mark.parametrize("line", ['allowed_peers = ["192.0.2.25", "10.0.0.0/8", "fd00::/8"]', 'host = "localhost"', ""])
def test_what_is_right(line: str) -> None:
    assert problems(line) == []


def test_a_source_action_is_refused() -> None:
    with pytest.raises(Invalid, match="only leave") as caught:
        read(SETTINGS + '[mailbox."x@acme.test"]\nsource_action = "seen"\n', KINDS)
    assert [p.line for p in caught.value.problems] == [11]


@pytest.mark.parametrize("line", ['folder = "Sales"', "threshold = 2030-01-01T00:00:00Z", 'username = "help"'])
def test_settings_of_reading_are_refused(line: str) -> None:
    with pytest.raises(Invalid, match="nothing is read") as caught:
        read(SETTINGS + f"{line}\n", KINDS)
    assert [p.line for p in caught.value.problems] == [10]
