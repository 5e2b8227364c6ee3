"""Test Access over SMTP: each step with what was tried, what the server said, and the cure. Sends no mail."""

from __future__ import annotations

from collections.abc import AsyncIterator

from email_router.mail.smtp.client import Client
from email_router.mail.smtp.settings import SmtpSettings
from email_router.model.settings import AuthMechanism
from email_router.net.probing import encrypted, encryption, probed
from email_router.ports.mail import Login, ProbeStep


class SmtpProbe:
    """Resolve, connect (with TLS), log in, what the server can."""

    def __init__(self, settings: SmtpSettings, login: Login) -> None:
        self._settings = settings
        self._login = login
        self._client = Client(settings, login)

    async def probe(self) -> AsyncIterator[ProbeStep]:
        steps = (
            ("connect", f"connect to {self._client.where} ({encrypted(self._settings.tls)})", self._connect),
            ("log in", f"log in as {self._login.username or 'nobody'}", self._log_in),
            ("abilities", "ask what the server can", self._abilities),
        )
        try:
            async for step in probed(self._settings, steps):
                yield step
        finally:
            await self._client.quit()

    async def _connect(self) -> str:
        await self._client.connect()
        return encryption(self._client.encryption)

    async def _log_in(self) -> str:
        await self._client.login()
        if self._settings.auth is AuthMechanism.NONE or not self._login.username:
            return "no login: the profile has no user name"
        return "the login was accepted"

    async def _abilities(self) -> str:
        client = self._client
        words = [f"messages up to {client.largest:,} bytes" if client.largest else "messages of any size"]
        words += [name for name in ("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN") if name in client.extensions]
        return ", ".join(words)
