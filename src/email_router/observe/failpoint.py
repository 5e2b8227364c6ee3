"""Named points at which a test may kill or freeze the router: how the laws are proved.

Armed by `EMAIL_ROUTER_FAILPOINT` as `name:nth:action`, where action is `kill` (SIGKILL), `stop` (SIGSTOP) or
`run:COMMAND` (something outside is killed instead). Without the variable a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
import subprocess

_armed = os.environ.get("EMAIL_ROUTER_FAILPOINT", "")
_name, _nth, _action = _armed.split(":", 2) if _armed else ("", "0", "")
_seen = 0


def hit(name: str) -> None:
    """Pass the point `name`; the nth passing of the armed one does what it was armed for."""
    if name != _name:
        return
    global _seen
    _seen += 1
    if _seen != int(_nth):
        return
    if _action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif _action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        subprocess.run(_action.removeprefix("run:"), shell=True, check=True)
