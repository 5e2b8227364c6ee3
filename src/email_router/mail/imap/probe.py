"""Test Access over IMAP: each step with what was tried, what the server said, and the cure. Changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

from email_router.mail.imap.answers import search_date
from email_router.mail.imap.client import Client
from email_router.mail.imap.settings import ImapSettings
from email_router.net.probing import encrypted, encryption, probed
from email_router.ports.mail import ProbeStep, SourceContext


class ImapProbe:
    """Resolve, connect (with TLS), log in, open the folder, rights, count, news, moving."""

    def __init__(self, settings: ImapSettings, context: SourceContext) -> None:
        self._settings = settings
        self._context = context
        self._folder = context.folder or settings.folder
        self._client = Client(settings, context.login)

    async def probe(self) -> AsyncIterator[ProbeStep]:
        settings = self._settings
        address = f"{settings.host}:{settings.port or settings.default_port}"
        steps = (
            ("connect", f"connect to {address} ({encrypted(settings.tls)})", self._connect),
            ("log in", f"log in as {self._context.login.username}", self._log_in),
            ("open folder", f"open {self._folder}", self._open),
            ("rights", f"open {self._folder} for changes", self._rights),
            ("count", "count the messages", self._count),
            ("news", "ask for immediate notice of new mail (IDLE)", self._news),
            ("move", "ask how messages are moved and deleted", self._move),
        )
        try:
            async for step in probed(settings, steps):
                yield step
        finally:
            await self._client.close()

    async def _connect(self) -> str:
        await self._client.connect()
        return encryption(self._client.encryption)

    async def _log_in(self) -> str:
        await self._client.login()
        return "the login was accepted"

    async def _open(self) -> str:
        folder = await self._client.open(self._folder, writable=False)
        return f"UIDVALIDITY {folder.uidvalidity}"

    async def _rights(self) -> str:
        folder = await self._client.open(self._folder, writable=True)
        if folder.writable:
            return "messages may be marked, moved and deleted"
        return "read only: the source action must be 'leave'"

    async def _count(self) -> str:
        since, exists = self._context.since, self._client.exists
        if since is None:
            return f"{exists} messages"
        found = await self._client.search(b"SINCE " + search_date(since - timedelta(days=1)))
        return f"{exists} messages, at most {len(found)} of them received since {since:%Y-%m-%d %H:%M}"

    async def _news(self) -> str:
        if "IDLE" in self._client.capabilities and self._settings.idle:
            return "the server tells of new mail at once"
        return "not offered or switched off: the folder is polled"

    async def _move(self) -> str:
        if "MOVE" in self._client.capabilities:
            return "by MOVE"
        if "UIDPLUS" in self._client.capabilities:
            return "by copying and deleting exactly the copied messages (UIDPLUS)"
        return "without UIDPLUS: moved and deleted messages stay marked as deleted until another program expunges them"
