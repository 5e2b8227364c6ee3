"""The listening side: who may connect, how many at once, and how it ends.

What may fail: the address cannot be listened on, the certificate cannot be read (NeedsOperator with the cure). Leaving
waits a while for messages that are being handed over: whoever is cut off then delivers again.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from email_router.mail.lmtp.errors import cannot_listen, no_certificate
from email_router.mail.lmtp.recipients import Recipients
from email_router.mail.lmtp.session import Session, Shared
from email_router.mail.lmtp.settings import LmtpSettings, networks, wide_open
from email_router.mail.lmtp.wire import READ, Wire
from email_router.observe import maillog
from email_router.ports.mail import ListenerContext

PATIENCE = 12.0
"""Seconds that a message which is being handed over may take when we are to stop."""
ACCEPTED = 3
"""Turns of the loop after which a connection that was accepted is known here."""
SOCKET = "the socket"
SOCKET_MODE = 0o660


class LmtpListener:
    """`ports.mail.Listener`."""

    def __init__(self, settings: LmtpSettings, context: ListenerContext) -> None:
        self._settings = settings
        self._allowed = networks(settings)
        recipients = Recipients([*context.mailboxes, *context.paused])
        self._shared = Shared(settings, recipients, context, _tls(settings), socket.gethostname())
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def where(self) -> str:
        return self._settings.where

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[LmtpListener]:
        """See the port."""
        server = await self._listen()
        for network in wide_open(self._settings):
            maillog.peer(network, "allowed", "anybody there may file mail; name only your own mail servers")
        try:
            yield self
        finally:
            server.close()
            _remove(self._settings.socket)
            await self._drain()
            await server.wait_closed()

    async def _listen(self) -> asyncio.Server:
        settings = self._settings
        try:
            if settings.socket:
                return await asyncio.start_unix_server(self._connected, sock=_unix_socket(settings.socket), limit=READ)
            return await asyncio.start_server(self._connected, settings.host, settings.port, limit=READ)
        except (OSError, UnicodeError) as error:
            raise cannot_listen(error, self.where) from error

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer, self._settings.timeout)
        task = asyncio.get_running_loop().create_task(self._serve(wire, _address(writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, wire: Wire, peer: str) -> None:
        if not self._lets_in(peer):
            maillog.peer(peer, "refused", "it is not in allowed_peers")
            await wire.bye(f"554 5.7.1 {peer} may not hand mail over here")
            return
        if len(self._sessions) >= self._settings.maximum_connections:
            maillog.peer(peer or SOCKET, "put off", f"{len(self._sessions)} connections are open")
            await wire.bye("421 4.3.2 too many connections; come again")
            return
        session = Session(wire, self._shared, peer or SOCKET)
        if self._closing:
            session.drain()
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    def _lets_in(self, peer: str) -> bool:
        if self._settings.socket:  # whoever may open it may hand mail over
            return True
        return bool(peer) and any(ipaddress.ip_address(peer) in network for network in self._allowed)

    async def _drain(self) -> None:
        self._closing = True
        for _ in range(ACCEPTED):
            await asyncio.sleep(0)
        for session in self._sessions:
            session.drain()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=PATIENCE)
        cut = list(self._tasks)
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, return_exceptions=True)


def _address(writer: asyncio.StreamWriter) -> str:
    """The peer's address, or "" over a Unix socket and when the peer is gone already."""
    name = writer.get_extra_info("peername")
    return str(name[0]).partition("%")[0] if isinstance(name, tuple) else ""


def _tls(settings: LmtpSettings) -> ssl.SSLContext | None:
    if not settings.certificate_file:
        return None
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(settings.certificate_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        raise no_certificate(error, settings.where) from error
    return context


def _unix_socket(path: str) -> socket.socket:
    """A socket at `path`; one that a killed router left behind makes way. Raises OSError (served by somebody else)."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            found = other.connect_ex(path)
        if found == 0:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        if found == errno.ECONNREFUSED and Path(path).is_socket():
            _remove(path)
        made.bind(path)
        Path(path).chmod(SOCKET_MODE)
    except BaseException:
        made.close()
        raise
    return made


def _remove(path: str) -> None:
    if path:
        Path(path).unlink(missing_ok=True)
