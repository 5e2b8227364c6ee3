"""Named points at which a test may kill or freeze the router: how the laws are proved.

The file that `EMAIL_ROUTER_FAILPOINTS` names arms one of them, also while the router runs: `name:nth:action`, where
action is `kill` (SIGKILL) or `stop` (SIGSTOP), at the nth passing. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_file = os.environ.get("EMAIL_ROUTER_FAILPOINTS", "")
_armed = ""
_passed = 0

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def hit(name: str) -> None:
    """Pass the point `name`; the nth passing of the armed one sends us its signal."""
    if _file:
        _pass(name)


def _pass(name: str) -> None:
    global _armed, _passed
    armed = Path(_file).read_text()
    if armed != _armed:
        _armed, _passed = armed, 0
    if not armed.startswith(f"{name}:"):
        return
    _passed += 1
    _, nth, action = armed.split(":")
    if _passed == int(nth):
        os.kill(os.getpid(), SIGNALS[action])
