"""Failpoints: the kill tests kill at each that the sources name, and an armed one strikes when it should."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

import email_router
from email_router.observe import failpoint
from tests.kill.seams import BOUNCED, PUSHED, RECEIVING, SENDING


def test_the_router_is_killed_at_every_point() -> None:
    sources = Path(email_router.__file__).parent.rglob("*.py")
    named = {name for source in sources for name in re.findall(r'\bhit\("([^"]+)"\)', source.read_text())}
    assert named == {*RECEIVING, *SENDING, *PUSHED, *BOUNCED}


def test_the_nth_passing_of_the_armed_point_sends_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    file = tmp_path / "failpoints"
    monkeypatch.setattr(failpoint, "_file", str(file))
    monkeypatch.setattr(failpoint.os, "kill", lambda _, number: sent.append(number))
    file.write_text("")
    failpoint.hit("a")
    file.write_text("a:2:stop")
    for name in ("a", "ab", "b", "a", "a"):
        failpoint.hit(name)
    assert sent == [signal.SIGSTOP]
    file.write_text("b:1:kill")
    failpoint.hit("b")
    assert sent == [signal.SIGSTOP, signal.SIGKILL]
