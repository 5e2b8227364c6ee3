"""Test Access of a mailbox that mail is pushed to: is it listened, by us, and would this mailbox's mail be taken.

Nothing is delivered. A router that does not run is no fault as long as it could listen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from email_router.mail.lmtp.errors import cannot_listen
from email_router.mail.lmtp.settings import LmtpSettings, wide_open
from email_router.model.errors import NeedsOperator
from email_router.ports.mail import ProbeStep, SourceContext

OURS = "LMTP Email Router"
SECONDS = 10.0
"""How long we wait for an answer of whoever listens."""
_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class LmtpProbe:
    """Peers, listening, recipient."""

    def __init__(self, settings: LmtpSettings, context: SourceContext) -> None:
        self._settings = settings
        self._mailbox = context.mailbox

    async def probe(self) -> AsyncIterator[ProbeStep]:
        yield self._peers()
        tried = f"see who listens on {self._settings.where}"
        try:
            async with asyncio.timeout(SECONDS):
                said = await self._said()
        except (OSError, UnicodeError) as error:
            if isinstance(error, TimeoutError):
                cure = "end the program that listens there, or choose another port"
                yield ProbeStep("listen", False, tried, said="somebody who does not answer", cure=cure)
            else:
                yield await self._could_listen(tried)
            return
        if OURS not in said[0] and not said[0].startswith(("554 5.7.1", "421 4.3.2")):
            cure = "end the program that listens there, or choose another port"
            yield ProbeStep("listen", False, tried, said=said[0], cure=cure)
            return
        yield ProbeStep("listen", True, tried, said=f"a router: {said[0]}")
        if len(said) > 1:
            yield self._recipient(said[1])

    def _peers(self) -> ProbeStep:
        tried = "see who may hand mail over"
        if self._settings.socket:
            return ProbeStep("peers", True, tried, said=f"whoever may open {self._settings.socket}")
        said = ", ".join(self._settings.allowed_peers)
        wide = wide_open(self._settings)
        cure = "name only your own mail servers in allowed_peers" if wide else ""
        return ProbeStep("peers", not wide, tried, said=said, cure=cure)

    async def _said(self) -> list[str]:
        """The greeting, and the reply to RCPT if we are let in. Raises OSError."""
        settings = self._settings
        if settings.socket:
            reader, writer = await asyncio.open_unix_connection(settings.socket)
        else:
            reader, writer = await asyncio.open_connection(_ALL.get(settings.host, settings.host), settings.port)
        try:
            found = [await _reply(reader)]
            for command in ("LHLO test-access", "MAIL FROM:<> SMTPUTF8", f"RCPT TO:<{self._mailbox}>"):
                if not found[-1].startswith("2"):
                    return found[:1]
                writer.write(f"{command}\r\n".encode())
                found.append(await _reply(reader))
            writer.write(b"QUIT\r\n")
            return [found[0], found[-1]]
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _could_listen(self, tried: str) -> ProbeStep:
        """Nobody listens: could we? (The port is closed again at once; a socket's path is only looked at.)"""
        settings = self._settings
        if not settings.socket:
            try:
                server = await asyncio.start_server(lambda _r, w: w.close(), settings.host, settings.port)
            except (OSError, UnicodeError) as error:
                refused: NeedsOperator = cannot_listen(error, settings.where)
                return ProbeStep("listen", False, tried, said=f"{refused.what}: {refused.said}", cure=refused.cure)
            server.close()
            await server.wait_closed()
        return ProbeStep("listen", True, tried, said="nobody now; the router will when it runs")

    def _recipient(self, said: str) -> ProbeStep:
        tried = f"name {self._mailbox} as recipient, and hand nothing over"
        cure = "publish the settings that name it, and see `email-router mailboxes`" if said[0] != "2" else ""
        return ProbeStep("recipient", said.startswith("2"), tried, said=said, cure=cure)


async def _reply(reader: asyncio.StreamReader) -> str:
    """The last line of a reply. Raises OSError when it is none."""
    while line := (await reader.readline()).decode(errors="replace").rstrip("\r\n"):
        if line[3:4] != "-":
            return line
    raise ConnectionResetError("the connection was closed")
