"""A port that wants TLS from the start says nothing in clear: the cure names the setting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from email_router.mail.imap.client import Client as Imap
from email_router.mail.imap.settings import ImapSettings
from email_router.mail.pop3.client import Client as Pop3
from email_router.mail.pop3.settings import Pop3Settings
from email_router.mail.smtp.client import Client as Smtp
from email_router.mail.smtp.settings import SmtpSettings
from email_router.model.errors import Transient
from email_router.model.settings import TlsMode
from email_router.ports.mail import Login

CLIENTS: dict[str, Callable[[dict[str, Any], Login], Any]] = {
    "imap": lambda server, login: Imap(ImapSettings(**server), login),
    "pop3": lambda server, login: Pop3(Pop3Settings(**server), login),
    "smtp": lambda server, login: Smtp(SmtpSettings(**server), login),
}


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """A server that takes connections and says nothing."""
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    ended.set()
    server.close()


async def no_password() -> str:
    return ""


@pytest.mark.parametrize("tls", [TlsMode.STARTTLS, TlsMode.NONE])
@pytest.mark.parametrize("name", CLIENTS)
async def test_a_server_that_is_silent_at_first(name: str, tls: TlsMode, silent: int) -> None:
    server = {"host": "127.0.0.1", "port": silent, "tls": tls, "timeout": 0.1}
    client = CLIENTS[name](server, Login("anna", no_password))
    with pytest.raises(Transient) as told:
        await client.connect()
    await client.close()
    assert 'needs tls = "implicit"' in told.value.cure
