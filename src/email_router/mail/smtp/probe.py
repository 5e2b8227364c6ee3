"""Test Access over SMTP: each step with what was tried, what the server said, and the cure. Sends no mail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from email_router.mail.smtp.client import Client
from email_router.mail.smtp.settings import SmtpSettings
from email_router.model.errors import RouterError
from email_router.model.settings import AuthMechanism
from email_router.ports.mail import Login, ProbeStep


class SmtpProbe:
    """Resolve, connect (with TLS), log in, what the server can."""

    def __init__(self, settings: SmtpSettings, login: Login) -> None:
        self._settings = settings
        self._login = login

    async def probe(self) -> AsyncIterator[ProbeStep]:
        client = Client(self._settings, self._login)
        name = tried = ""
        try:
            for name, tried, step in (
                ("resolve", f"look up {self._settings.host}", self._resolve),
                ("connect", f"connect to {client.where} (TLS: {self._settings.tls.value})", self._connect),
                ("log in", f"log in as {self._login.username or 'nobody'}", self._log_in),
                ("abilities", "ask what the server can", self._abilities),
            ):
                yield ProbeStep(name, True, tried, said=await step(client))
        except RouterError as error:
            said = error.what + (f': "{error.said}"' if error.said else "")
            yield ProbeStep(name, False, tried, said=said, cure=error.cure or "see what the server said")
        except (OSError, UnicodeError) as error:
            cure = "correct the host name, or the name server of this machine"
            yield ProbeStep(name, False, tried, said=str(error), cure=cure)
        finally:
            await client.quit()

    async def _resolve(self, client: Client) -> str:
        if self._settings.proxy:
            return "left to the proxy"
        found = await asyncio.get_running_loop().getaddrinfo(self._settings.host, None, type=socket.SOCK_STREAM)
        return ", ".join(dict.fromkeys(str(address[4][0]) for address in found))

    async def _connect(self, client: Client) -> str:
        await client.connect()
        return client.encryption or "no TLS: passwords and mail cross the network in clear"

    async def _log_in(self, client: Client) -> str:
        await client.login()
        if self._settings.auth is AuthMechanism.NONE or not self._login.username:
            return "no login: the profile has no user name"
        return "the login was accepted"

    async def _abilities(self, client: Client) -> str:
        words = [f"messages up to {client.largest:,} bytes" if client.largest else "messages of any size"]
        words += [name for name in ("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN") if name in client.extensions]
        return ", ".join(words)
