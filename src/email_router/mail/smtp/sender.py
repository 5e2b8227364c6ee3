"""A server to send through, as a `Sender`: one connection, kept for the next message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from email_router.mail.smtp import errors
from email_router.mail.smtp.client import Client, Lost
from email_router.mail.smtp.settings import SmtpSettings
from email_router.model.errors import RouterError
from email_router.model.message import Content
from email_router.model.outgoing import Envelope, RecipientResult
from email_router.ports.mail import Login, Uncertain

IDLE = 30.0
"""Seconds after which a connection is asked whether it still lives before a message is trusted to it."""


class SmtpSender:
    """Connects when it is needed and again after the connection was lost. One message at a time."""

    def __init__(self, settings: SmtpSettings, login: Login) -> None:
        self._settings = settings
        self._login = login
        self._client: Client | None = None
        self._used = 0.0

    async def send(
        self, content: Content, envelope: Envelope, handing_over: Callable[[], Awaitable[None]]
    ) -> Sequence[RecipientResult]:
        client = await self._connected()
        utf8 = not all(address.isascii() for address in (envelope.sender, *envelope.recipients))
        try:
            whole, replies = await client.transact(content, envelope, utf8, handing_over)
        except Lost as error:
            await client.close()
            raise Uncertain(str(error)) from error
        except BaseException:
            await client.close()
            raise
        self._used = asyncio.get_running_loop().time()
        words = [whole if whole is not None and reply.ok else reply for reply in replies]
        return [errors.result(address, reply) for address, reply in zip(envelope.recipients, words, strict=True)]

    async def close(self) -> None:
        if self._client is not None:
            await self._client.quit()

    async def _connected(self) -> Client:
        """A live connection. One that the server closed while it idled is replaced without a word."""
        client = self._client
        if client is not None and client.usable:
            if asyncio.get_running_loop().time() - self._used < IDLE:
                return client
            try:
                await client.noop()
                return client
            except RouterError:
                pass
        if client is not None:
            await client.close()
        client = self._client = Client(self._settings, self._login)
        try:
            await client.connect()
            await client.login()
        except BaseException:
            await client.close()
            raise
        return client


@asynccontextmanager
async def sender(settings: SmtpSettings, login: Login) -> AsyncIterator[SmtpSender]:
    made = SmtpSender(settings, login)
    try:
        yield made
    finally:
        await made.close()
