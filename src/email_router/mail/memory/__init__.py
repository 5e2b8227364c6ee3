"""A mail system in memory: for tests, and the template of a connector folder.

A `Server` is named by the profile's `server`; mailboxes appear when something is delivered to them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from email_router.mail.memory.sender import MemorySender
from email_router.mail.memory.server import Server, server
from email_router.mail.memory.settings import MemorySettings
from email_router.mail.memory.source import MemorySource
from email_router.ports.mail import Connector, Login, SourceContext

__all__ = ["CONNECTOR", "Server", "server"]


@asynccontextmanager
async def _source(settings: MemorySettings, context: SourceContext) -> AsyncIterator[MemorySource]:
    yield MemorySource(server(settings.server), context)


@asynccontextmanager
async def _sender(settings: MemorySettings, login: Login) -> AsyncIterator[MemorySender]:
    yield MemorySender(server(settings.server))


CONNECTOR = Connector(
    name="memory",
    title="Memory",
    settings=MemorySettings,
    source=_source,
    sender=_sender,
    capabilities=frozenset({"push", "seen", "move", "delete", "usage"}),
)
