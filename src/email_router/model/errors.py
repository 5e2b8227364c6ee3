"""What happens next when something fails: the only error classes that cross a port.

    RouterError
    ├── Transient       later, after `retry_after` seconds; nothing is decided
    ├── Permanent       this item: to undeliverable, or Failed in the CRM
    ├── NeedsOperator   pause this mailbox or profile, say so, probe gently, resume by itself when cured
    └── Fenced          we no longer own what we were about to write: stop at once, the new owner goes on

Anything else that is raised is our own bug: the item is set aside with its traceback and raw bytes.
Foreign failures that no adapter's table knows are `Transient` with a try limit.
"""

from __future__ import annotations

import os
import re
from typing import Literal

Scope = Literal["message", "mailbox", "profile", "deployment", "router"]


TO_CURE = " - to cure it: "
"""What parts cause and cure where both stand in one text."""
_NUMBERS = re.compile(r"\[Errno (\d+)\]")
_NOISE = re.compile(r"^\[Errno -?\d+\] | \(_ssl\.c:\d+\)$")


def said_by(error: BaseException) -> str:
    """What a foreign error says, for people: `Connection refused`, not
    `Multiple exceptions: [Errno 111] Connect call failed ('::1', 143, 0, 0), …`."""
    text = str(error) or type(error).__name__
    numbers = dict.fromkeys(map(int, _NUMBERS.findall(text)))
    return ", ".join(map(os.strerror, numbers)) if numbers else _NOISE.sub("", text)


class RouterError(Exception):
    """An error with what a tired administrator needs: `what` happened, `where`, and the `cure`.

    `said` holds the words of the server or of the system, if it said any.
    """

    def __init__(self, what: str, *, where: str = "", cure: str = "", said: str = "", scope: Scope = "message") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.cure = cure
        self.said = said
        self.scope: Scope = scope

    @property
    def cause(self) -> str:
        """What happened, where, and what was said; the cure stands apart."""
        where = f" ({self.where})" if self.where else ""
        said = f': "{self.said}"' if self.said else ""
        return self.what + where + said

    def __str__(self) -> str:
        return self.cause + TO_CURE + self.cure if self.cure else self.cause


class Transient(RouterError):
    """Try again later. `retry_after` is in seconds; None leaves the wait to the caller's back-off."""

    def __init__(
        self,
        what: str,
        *,
        retry_after: float | None = None,
        where: str = "",
        cure: str = "",
        said: str = "",
        scope: Scope = "message",
    ) -> None:
        super().__init__(what, where=where, cure=cure, said=said, scope=scope)
        self.retry_after = retry_after


class Permanent(RouterError):
    """This item will never succeed as it is."""


class NeedsOperator(RouterError):
    """Somebody must change something (a password, a certificate, a right) before this can go on.

    It is tried again ever more gently, so that no account is locked; where trying harms nothing, every `retry_after` s.
    """

    def __init__(
        self,
        what: str,
        *,
        retry_after: float | None = None,
        where: str = "",
        cure: str = "",
        said: str = "",
        scope: Scope = "message",
    ) -> None:
        super().__init__(what, where=where, cure=cure, said=said, scope=scope)
        self.retry_after = retry_after


class Fenced(RouterError):
    """Another router owns this shard now; nothing was written."""
