"""Test Access over IMAP: each step with what was tried, what the server said, and the cure. Changes nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import timedelta

from email_router.mail.imap.answers import search_date
from email_router.mail.imap.client import Client
from email_router.mail.imap.settings import ImapSettings
from email_router.model.errors import RouterError
from email_router.model.settings import TlsMode
from email_router.ports.mail import ProbeStep, SourceContext


class ImapProbe:
    """Resolve, connect (with TLS), log in, open the folder, rights, count, news, moving."""

    def __init__(self, settings: ImapSettings, context: SourceContext) -> None:
        self._settings = settings
        self._context = context
        self._folder = context.folder or settings.folder

    async def probe(self) -> AsyncIterator[ProbeStep]:
        client = Client(self._settings, self._context.login)
        name = tried = ""
        try:
            for name, tried, step in (
                ("resolve", f"look up {self._settings.host}", self._resolve),
                ("connect", f"connect to {self._address} ({_TLS[self._settings.tls]})", self._connect),
                ("log in", f"log in as {self._context.login.username}", self._login),
                ("open folder", f"open {self._folder}", self._open),
                ("rights", f"open {self._folder} for changes", self._rights),
                ("count", "count the messages", self._count),
                ("news", "ask for immediate notice of new mail (IDLE)", self._news),
                ("move", "ask how messages are moved and deleted", self._move),
            ):
                yield ProbeStep(name, True, tried, said=await step(client))
        except RouterError as error:
            said = error.what + (f': "{error.said}"' if error.said else "")
            yield ProbeStep(name, False, tried, said=said, cure=error.cure or "see what the server said")
        except (OSError, UnicodeError) as error:  # UnicodeError: no host name could look like that
            cure = "correct the host name, or the name server of this machine"
            yield ProbeStep(name, False, tried, said=str(error), cure=cure)
        finally:
            await client.close()

    @property
    def _address(self) -> str:
        return f"{self._settings.host}:{self._settings.port or self._settings.default_port}"

    async def _resolve(self, client: Client) -> str:
        if self._settings.proxy:
            return "left to the proxy"
        found = await asyncio.get_running_loop().getaddrinfo(self._settings.host, None, type=socket.SOCK_STREAM)
        return ", ".join(dict.fromkeys(str(address[4][0]) for address in found))

    async def _connect(self, client: Client) -> str:
        await client.connect()
        return client.encryption or "no TLS: passwords and mail cross the network in clear"

    async def _login(self, client: Client) -> str:
        await client.login()
        return "the login was accepted"

    async def _open(self, client: Client) -> str:
        folder = await client.open(self._folder, writable=False)
        return f"UIDVALIDITY {folder.uidvalidity}"

    async def _rights(self, client: Client) -> str:
        folder = await client.open(self._folder, writable=True)
        if folder.writable:
            return "messages may be marked, moved and deleted"
        return "read only: the source action must be 'leave'"

    async def _count(self, client: Client) -> str:
        since = self._context.since
        if since is None:
            return f"{client.exists} messages"
        found = await client.search(b"SINCE " + search_date(since - timedelta(days=1)))
        return f"{client.exists} messages, at most {len(found)} of them received since {since:%Y-%m-%d %H:%M}"

    async def _news(self, client: Client) -> str:
        if "IDLE" in client.capabilities and self._settings.idle:
            return "the server tells of new mail at once"
        return "not offered or switched off: the folder is polled"

    async def _move(self, client: Client) -> str:
        if "MOVE" in client.capabilities:
            return "by MOVE"
        if "UIDPLUS" in client.capabilities:
            return "by copying and deleting exactly the copied messages (UIDPLUS)"
        return "without UIDPLUS: moved and deleted messages stay marked as deleted until another program expunges them"


_TLS = {
    TlsMode.NONE: "no TLS",
    TlsMode.STARTTLS: "STARTTLS",
    TlsMode.IMPLICIT: "TLS from the start",
}
