"""Test Access over POP3: each step with what was tried, what the server said, and the cure. Changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

from email_router.mail.pop3.client import Client
from email_router.mail.pop3.settings import Pop3Settings
from email_router.model.errors import RouterError
from email_router.net.probing import encrypted, encryption, probed
from email_router.ports.mail import ProbeStep, SourceContext


class Pop3Probe:
    """Resolve, connect (with TLS), log in, count, unique ids."""

    def __init__(self, settings: Pop3Settings, context: SourceContext) -> None:
        self._settings = settings
        self._context = context
        self._client = Client(settings, context.login)

    async def probe(self) -> AsyncIterator[ProbeStep]:
        settings = self._settings
        address = f"{settings.host}:{settings.port or settings.default_port}"
        steps = (
            ("connect", f"connect to {address} ({encrypted(settings.tls)})", self._connect),
            ("log in", f"log in as {self._context.login.username}", self._log_in),
            ("count", "count the messages", self._count),
            ("unique ids", "ask for the messages' unique ids (UIDL)", self._unique),
        )
        try:
            async for step in probed(settings, steps):
                yield step
            if self._client.usable:
                await self._client.quit()
        except RouterError:
            pass  # it said goodbye before we did
        finally:
            await self._client.close()

    async def _connect(self) -> str:
        await self._client.connect()
        return encryption(self._client.encryption)

    async def _log_in(self) -> str:
        await self._client.login()
        return "the login was accepted"

    async def _count(self) -> str:
        messages, size = await self._client.stat()
        return f"{messages} messages, {size:,} bytes"

    async def _unique(self) -> str:
        if not self._settings.uidl:
            return "switched off: messages are told apart by their content and deleted once dealt with"
        return f"{len(await self._client.uidls())} unique ids"
