"""Around an LMTP listener under test: a box that mail is pushed into, and a peer that says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from email_router.mail.lmtp import CONNECTOR
from email_router.mail.lmtp.settings import LmtpSettings
from email_router.model.errors import RouterError
from email_router.net.spool import FileContent, Spool
from email_router.ports.mail import ListenerContext, Pushed
from tests.fixtures.dovecot import free_ports

HELP, ANN, OFF = "help@router.test", "Ann.Lee@router.test", "off@router.test"


class Box:
    """`ports.mail.Push`: keeps what comes, and answers as `answers` says (`filed` when it says nothing)."""

    def __init__(self) -> None:
        self.messages: list[tuple[tuple[str, ...], bytes]] = []
        self.items: list[str] = []
        self.spooled: list[bool] = []
        self.answers: dict[str, str | RouterError] = {}
        self.open = asyncio.Event()
        """Answers wait for it."""
        self.open.set()
        self.waiting = asyncio.Event()

    async def push(self, message: Pushed, mailboxes: Sequence[str]) -> AsyncGenerator[str | RouterError, None]:
        with message.content.open() as stream:
            self.messages.append((tuple(mailboxes), stream.read()))
        self.items.append(message.item)
        self.spooled.append(isinstance(message.content, FileContent))
        self.waiting.set()
        await self.open.wait()
        for mailbox in mailboxes:
            yield self.answers.get(mailbox, "filed")

    @property
    def bodies(self) -> list[bytes]:
        """What came, without the line that we put on top."""
        return [raw.partition(b"\r\n")[2] for _, raw in self.messages]


@asynccontextmanager
async def listening(
    directory: Path, box: Box, domain: str = "router.test", **changes: Any
) -> AsyncIterator[LmtpSettings]:
    """A listener for `HELP` and `ANN`, in that domain; `OFF` is switched off."""
    settings = LmtpSettings(**({"port": free_ports(1)[0], "timeout": 5.0} | changes))
    known, off = [[a.replace("router.test", domain) for a in group] for group in ((HELP, ANN), (OFF,))]
    context = ListenerContext(known, off, box.push, lambda: Spool(directory))
    assert CONNECTOR.listener is not None
    async with CONNECTOR.listener(settings, context):
        yield settings


class Peer:
    """A connection on which each wait has a limit."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(20):
            await self.writer.drain()

    async def reply(self) -> str:
        """The next reply, its lines joined by LF; "" when the connection was closed."""
        lines = []
        async with asyncio.timeout(20):
            while line := (await self.reader.readline()).decode().rstrip("\r\n"):
                lines.append(line)
                if line[3:4] != "-":
                    break
        return "\n".join(lines)

    async def codes(self, count: int) -> list[str]:
        """Code and enhanced code of the next replies."""
        return [" ".join((await self.reply()).split(" ")[:2]) for _ in range(count)]

    async def asked(self, *commands: str) -> list[str]:
        """The codes of the replies to these commands, sent all at once."""
        await self.send("".join(f"{c}\r\n" for c in commands).encode())
        return await self.codes(len(commands))

    async def rest(self) -> list[str]:
        """Everything until the connection is closed, which it must be."""
        async with asyncio.timeout(20):
            return (await self.reader.read()).decode().splitlines()


@asynccontextmanager
async def connected(settings: LmtpSettings, *commands: str) -> AsyncIterator[Peer]:
    """A peer that was greeted and has said these commands, all of them to the listener's liking."""
    if settings.socket:
        reader, writer = await asyncio.open_unix_connection(settings.socket)
    else:
        reader, writer = await asyncio.open_connection(settings.host, settings.port)
    peer = Peer(reader, writer)
    try:
        if commands:
            assert (await peer.reply()).startswith("220 ")
            for command in commands:
                await peer.send(f"{command}\r\n".encode())
                assert (await peer.reply())[0] in "23", command
        yield peer
    finally:
        writer.close()
