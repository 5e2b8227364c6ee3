"""`make demo` as a newcomer runs it: the story is verified, the system stays up and can be looked at and written to."""

from __future__ import annotations

import json
import signal
import smtplib
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.database

COMMAND = [sys.executable, "-m", "email_router"]


@pytest.fixture
def demo() -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The demo and what it printed up to where it stays up."""
    started = subprocess.Popen([*COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    late = threading.Timer(120, started.kill)
    late.start()
    assert started.stdout is not None
    said: list[str] = []
    for line in started.stdout:
        said.append(line.rstrip())
        if line.startswith("Ctrl-C"):
            break
    yield started, said
    started.kill()
    started.wait()
    started.stdout.close()
    late.cancel()


def words_of(said: list[str], what: str) -> list[str]:
    [line] = [line for line in said if line.strip().startswith(what)]
    return line.strip().removeprefix(what).split()


def decisions(data: str) -> list[str]:
    shown = subprocess.run(
        [*COMMAND, "decisions", "--data", data, "--json"], capture_output=True, text=True, check=True
    )
    return [json.loads(line)["subject"] for line in shown.stdout.splitlines()]


def test_the_story_is_verified_and_the_system_stays_up(demo: tuple[subprocess.Popen[str], list[str]]) -> None:
    process, said = demo
    assert any(line.startswith("9 of 9 steps verified") for line in said), "\n".join(said)
    [page] = words_of(said, "the status page")
    with urllib.request.urlopen(page, timeout=20) as answer:
        shown = answer.read().decode()
    assert "1 message is undeliverable" in shown and "Oven 3 stops" in shown
    data = words_of(said, "a command, in another terminal")[-1]
    assert len(decisions(data)) == 10

    curl = words_of(said, "curl")
    host, port = curl[-1].removeprefix("smtp://").split(":")
    sender, recipient = curl[curl.index("--mail-from") + 1], curl[curl.index("--mail-rcpt") + 1]
    with smtplib.SMTP(host, int(port), timeout=20) as peer:
        peer.sendmail(sender, [recipient], f"From: {sender}\r\nSubject: Hello\r\n\r\nHi.")
    deadline = time.monotonic() + 30
    while "Hello" not in decisions(data):
        assert time.monotonic() < deadline

    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert not Path(data).exists()
