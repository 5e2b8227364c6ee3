"""IMAP4rev1: receiving from any folder of a mailbox, told of news by IDLE."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from email_router.mail.imap.probe import ImapProbe
from email_router.mail.imap.settings import ImapSettings
from email_router.mail.imap.source import ImapSource
from email_router.ports.mail import Connector, SourceContext

__all__ = ["CONNECTOR"]


@asynccontextmanager
async def _source(settings: ImapSettings, context: SourceContext) -> AsyncIterator[ImapSource]:
    source = ImapSource(settings, context)
    try:
        yield source
    finally:
        await source.close()


CONNECTOR = Connector(
    name="imap",
    title="IMAP",
    settings=ImapSettings,
    source=_source,
    probe_source=ImapProbe,
    capabilities=frozenset({"push", "seen", "move", "delete", "usage"}),
)
