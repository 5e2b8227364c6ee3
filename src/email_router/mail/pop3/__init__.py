"""POP3: receiving from the one folder that it knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from email_router.mail.pop3.probe import Pop3Probe
from email_router.mail.pop3.settings import Pop3Settings, check
from email_router.mail.pop3.source import Pop3Source
from email_router.ports.mail import Connector, SourceContext

__all__ = ["CONNECTOR"]


@asynccontextmanager
async def _source(settings: Pop3Settings, context: SourceContext) -> AsyncIterator[Pop3Source]:
    source = Pop3Source(settings, context)
    try:
        yield source
    finally:
        await source.close()


CONNECTOR = Connector(
    name="pop3",
    title="POP3",
    settings=Pop3Settings,
    source=_source,
    probe_source=Pop3Probe,
    capabilities=frozenset({"delete", "usage"}),
    check=check,
)
