"""Maildir: backfill of old mail with its original times, resumable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from email_router.mail.maildir.probe import MaildirProbe
from email_router.mail.maildir.settings import MaildirSettings, check
from email_router.mail.maildir.source import MaildirSource
from email_router.ports.mail import Connector, SourceContext

__all__ = ["CONNECTOR"]


@asynccontextmanager
async def _source(settings: MaildirSettings, context: SourceContext) -> AsyncIterator[MaildirSource]:
    yield MaildirSource(settings, context)


CONNECTOR = Connector(
    name="maildir",
    title="Maildir",
    settings=MaildirSettings,
    source=_source,
    probe_source=MaildirProbe,
    capabilities=frozenset({"delete", "usage"}),
    check=check,
)
