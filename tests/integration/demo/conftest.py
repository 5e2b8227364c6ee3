"""A running mail system, and a way to speak to it line by line."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from email_router.demo.mailsystem import MailSystem, User

DOMAINS = ["contoso.example", "fabrikam.example"]
USERS = [
    User("support@contoso.example", "support secret"),
    User("anna@contoso.example", 'anna\'s \\ "secret"'),
    User("bob@contoso.example", "bob-secret"),
    User("router@contoso.example", "router-secret", sends_as_all=True),
    User("jörg@fabrikam.example", "jörg-secret"),
    User("carla@fabrikam.example", "carla-secret"),
]


class Peer:
    """A client that says exactly what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ca_file: Path) -> None:
        self._reader = reader
        self._writer = writer
        self._ca_file = ca_file

    def send(self, *lines: bytes) -> None:
        self.send_raw(b"".join(line + b"\r\n" for line in lines))

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def line(self) -> bytes:
        line = await self._line()
        assert line.endswith(b"\r\n"), f"the connection ended: {line!r}"
        return line[:-2]

    async def closed(self) -> bool:
        return await self._line() == b""

    async def _line(self) -> bytes:
        async with asyncio.timeout(10):
            return await self._reader.readline()

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(10):
            return await self._reader.readexactly(size)

    async def until(self, start: bytes) -> list[bytes]:
        """Lines up to the first that begins so, which is the last one returned."""
        lines = [await self.line()]
        while not lines[-1].startswith(start):
            lines.append(await self.line())
        return lines

    async def ask(self, command: bytes) -> bytes:
        """One line out, one line back."""
        self.send(command)
        return await self.line()

    async def start_tls(self) -> None:
        context = ssl.create_default_context(cafile=str(self._ca_file))
        await self._writer.start_tls(context, server_hostname="localhost")

    def close(self) -> None:
        self._writer.close()


Connect = Callable[[int], Awaitable[Peer]]


@pytest.fixture
async def mail(tmp_path: Path) -> AsyncIterator[MailSystem]:
    async with MailSystem(DOMAINS, USERS, tmp_path) as system:
        yield system


@pytest.fixture
async def connect(mail: MailSystem) -> AsyncIterator[Connect]:
    peers: list[Peer] = []

    async def connected(port: int) -> Peer:
        peer = Peer(*await asyncio.open_connection(mail.host, port), mail.ca_file)
        peers.append(peer)
        return peer

    yield connected
    for peer in peers:
        peer.close()
