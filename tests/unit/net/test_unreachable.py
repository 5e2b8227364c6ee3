"""A server that cannot be reached: what is said, and the cure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from email_router.model.errors import Transient
from email_router.model.settings import ServerSettings, TlsMode
from email_router.net.connection import connect


@pytest.mark.parametrize(
    ("error", "what", "said"),
    [
        (
            "Multiple exceptions: [Errno 111] Connect call failed ('x', 1), [Errno 111] Connect call failed ('y', 1)",
            "nobody listens there",
            "Connection refused",
        ),
        (
            "Multiple exceptions: [Errno 101] Network is unreachable, [Errno 111] Connect call failed ('x', 1)",
            "the server cannot be reached",
            "Network is unreachable, Connection refused",
        ),
    ],
)
async def test_a_host_of_several_addresses(monkeypatch: pytest.MonkeyPatch, error: str, what: str, said: str) -> None:
    """asyncio tells their failures in one text when they differ."""

    async def refused(*arguments: Any, **options: Any) -> None:
        raise OSError(error)

    monkeypatch.setattr(asyncio, "open_connection", refused)
    with pytest.raises(Transient) as caught:
        await connect(ServerSettings(host="both.test", tls=TlsMode.NONE), 143)
    assert (caught.value.what, caught.value.where, caught.value.said) == (what, "both.test:143", said)
