"""Something to be done now and then beside the mail. One that fails is told once, and does not knock without pause."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from email_router.model.errors import RouterError
from email_router.observe import maillog


class Chore:
    """`do`, again at the earliest `pause` seconds after it failed: a dump that fills the disk must not fill it anew."""

    def __init__(
        self,
        name: str,
        do: Callable[[], Awaitable[object]],
        pause: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._do = do
        self._pause = pause
        self._clock = clock
        self._not_before = 0.0
        self._told = ""

    async def attend(self) -> None:
        """Do it, unless it failed a moment ago. Never raises what it raises."""
        if self._clock() < self._not_before:
            return
        try:
            await self._do()
        except Exception as error:
            self._not_before = self._clock() + self._pause
            if self._told != repr(error):
                self._told = repr(error)
                self._tell(error)
        else:
            if self._told:
                maillog.mailbox_state(f"housekeeping: {self._name}", "ok")
            self._told = ""

    def _tell(self, error: Exception) -> None:
        if isinstance(error, RouterError):
            maillog.mailbox_state(f"housekeeping: {self._name}", "away", str(error))
        else:
            maillog.bug(f"housekeeping: {self._name}", error)
