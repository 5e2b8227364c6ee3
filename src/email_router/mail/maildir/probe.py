"""Test Access to a Maildir: can its directory be read, and what is in it? Changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

from email_router.mail.maildir.settings import MaildirSettings
from email_router.mail.maildir.source import MaildirSource
from email_router.model.errors import RouterError
from email_router.ports.mail import ProbeStep, SourceContext


class MaildirProbe:
    def __init__(self, settings: MaildirSettings, context: SourceContext) -> None:
        self._path = settings.path.replace("{address}", context.mailbox)
        self._source = MaildirSource(settings, context)

    async def probe(self) -> AsyncIterator[ProbeStep]:
        tried = f"read {self._path}"
        try:
            usage = await self._source.usage()
        except RouterError as error:
            said = error.what + (f': "{error.said}"' if error.said else "")
            yield ProbeStep("read", False, tried, said=said, cure=error.cure)
        else:
            yield ProbeStep("read", True, tried, said=f"{usage.messages} messages, {usage.bytes:,} bytes")
