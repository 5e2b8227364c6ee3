"""LMTP: the router as a listener, for mail that is pushed to it instead of being polled for (RFC 2033)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from email_router.mail.lmtp.probe import LmtpProbe
from email_router.mail.lmtp.server import LmtpListener
from email_router.mail.lmtp.settings import LmtpSettings, check, objections
from email_router.ports.mail import Connector, ListenerContext

__all__ = ["CONNECTOR"]


@asynccontextmanager
async def _listener(settings: LmtpSettings, context: ListenerContext) -> AsyncIterator[LmtpListener]:
    async with LmtpListener(settings, context).listening() as listener:
        yield listener


CONNECTOR = Connector(
    name="lmtp",
    title="LMTP",
    settings=LmtpSettings,
    listener=_listener,
    probe_source=LmtpProbe,
    check=check,
    objections=objections,
)
