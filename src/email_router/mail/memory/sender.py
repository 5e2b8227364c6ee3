"""Sending into a memory server's list."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from email_router.mail.memory.server import Server
from email_router.model.message import Content
from email_router.model.outgoing import Envelope, RecipientResult, RecipientState


class MemorySender:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def send(
        self, content: Content, envelope: Envelope, handing_over: Callable[[], Awaitable[None]]
    ) -> Sequence[RecipientResult]:
        self._server.trip("send")
        with content.open() as stream:
            raw = stream.read()
        await handing_over()
        self._server.trip("dot")
        self._server.sent.append((envelope, raw))
        self._server.trip("answer")
        return [RecipientResult(a, RecipientState.ACCEPTED, 250, "2.0.0", "queued") for a in envelope.recipients]
