"""Test Access over POP3: each step with what was tried, what the server said, and the cure. Changes nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from email_router.mail.pop3.client import Client
from email_router.mail.pop3.settings import Pop3Settings
from email_router.model.errors import RouterError
from email_router.ports.mail import ProbeStep, SourceContext


class Pop3Probe:
    """Resolve, connect (with TLS), log in, count, unique ids."""

    def __init__(self, settings: Pop3Settings, context: SourceContext) -> None:
        self._settings = settings
        self._context = context

    async def probe(self) -> AsyncIterator[ProbeStep]:
        client = Client(self._settings, self._context.login)
        address = f"{self._settings.host}:{self._settings.port or self._settings.default_port}"
        name = tried = ""
        try:
            for name, tried, step in (
                ("resolve", f"look up {self._settings.host}", self._resolve),
                ("connect", f"connect to {address} (TLS: {self._settings.tls.value})", self._connect),
                ("log in", f"log in as {self._context.login.username}", self._login),
                ("count", "count the messages", self._count),
                ("unique ids", "ask for the messages' unique ids (UIDL)", self._unique),
            ):
                yield ProbeStep(name, True, tried, said=await step(client))
            await client.quit()
        except RouterError as error:
            said = error.what + (f': "{error.said}"' if error.said else "")
            yield ProbeStep(name, False, tried, said=said, cure=error.cure or "see what the server said")
        except (OSError, UnicodeError) as error:
            cure = "correct the host name, or the name server of this machine"
            yield ProbeStep(name, False, tried, said=str(error), cure=cure)
        finally:
            await client.close()

    async def _resolve(self, client: Client) -> str:
        if self._settings.proxy:
            return "left to the proxy"
        found = await asyncio.get_running_loop().getaddrinfo(self._settings.host, None, type=socket.SOCK_STREAM)
        return ", ".join(dict.fromkeys(str(address[4][0]) for address in found))

    async def _connect(self, client: Client) -> str:
        await client.connect()
        return client.encryption or "no TLS: passwords and mail cross the network in clear"

    async def _login(self, client: Client) -> str:
        await client.login()
        return "the login was accepted"

    async def _count(self, client: Client) -> str:
        messages, size = await client.stat()
        return f"{messages} messages, {size:,} bytes"

    async def _unique(self, client: Client) -> str:
        if not self._settings.uidl:
            return "switched off: messages are told apart by their content and deleted once dealt with"
        return f"{len(await client.uidls())} unique ids"
