"""From a reference in the settings to the secret itself, each time it is needed, so that a change counts at once."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from email_router.model.errors import NeedsOperator, said_by


async def resolve(reference: str, stored: Callable[[str], Awaitable[str]], where: str) -> str:
    """`env:NAME`, `file:/path` (without its last line end), `secret:NAME` (stored, encrypted); "" for none.

    Raises NeedsOperator when it is not there.
    """
    kind, _, name = reference.partition(":")
    if not reference:
        return ""
    if kind == "env":
        value = os.environ.get(name)
        if value is None:
            cure = f"set {name} in the environment of the router and start it again"
            raise NeedsOperator(f"The environment variable {name} with the password is not set", where=where, cure=cure)
        return value
    if kind == "file":
        try:
            return Path(name).read_text().rstrip("\r\n")  # noqa: ASYNC240 - a line from a local file
        except (OSError, UnicodeDecodeError) as error:
            cure = "correct the path, or give the user of the router the right to read it"
            what = f"The file {name} with the password cannot be read"
            raise NeedsOperator(what, where=where, said=said_by(error), cure=cure) from error
    return await stored(name)
