"""Test Access of a mail server: named steps one after the other, up to the first that fails."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from email_router.model.errors import RouterError, said_by
from email_router.model.settings import ServerSettings, TlsMode
from email_router.ports.mail import ProbeStep

Step = tuple[str, str, Callable[[], Awaitable[str]]]
"""Name, what is tried, and the trial: what it returns is what the server said."""


async def probed(server: ServerSettings, steps: Sequence[Step]) -> AsyncIterator[ProbeStep]:
    """Look the host up, then each of `steps`. Never raises."""
    for name, tried, trial in (("resolve", f"look up {server.host}", lambda: _resolved(server)), *steps):
        step = await _tried(name, tried, trial)
        yield step
        if not step.ok:
            return


async def _tried(name: str, tried: str, trial: Callable[[], Awaitable[str]]) -> ProbeStep:
    try:
        return ProbeStep(name, True, tried, said=await trial())
    except RouterError as error:
        said = error.what + (f': "{error.said}"' if error.said else "")
        return ProbeStep(name, False, tried, said=said, cure=error.cure or "see what the server said")
    except (OSError, UnicodeError) as error:  # UnicodeError: no host name could look like that
        cure = "correct the host name, or the name server of this machine"
        return ProbeStep(name, False, tried, said=said_by(error), cure=cure)


async def _resolved(server: ServerSettings) -> str:
    if server.proxy:
        return "left to the proxy"
    found = await asyncio.get_running_loop().getaddrinfo(server.host, None, type=socket.SOCK_STREAM)
    return ", ".join(dict.fromkeys(str(address[4][0]) for address in found))


_MODES = {TlsMode.NONE: "no TLS", TlsMode.STARTTLS: "STARTTLS", TlsMode.IMPLICIT: "TLS from the start"}


def encrypted(mode: TlsMode) -> str:
    """How a connection shall be encrypted, for the step that makes it."""
    return _MODES[mode]


def encryption(in_use: str) -> str:
    """What is said of a connection's TLS: its version and cipher, or the warning that there is none."""
    return in_use or "no TLS: passwords and mail cross the network in clear"
