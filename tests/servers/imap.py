"""An IMAP server that does as it is told: polite by default, and each verb's answer may be replaced by a test.

    async with FakeImap({1: b"..."}) as server:
        server.on["UID FETCH"] = garbage

A replacement gets the session, the tag and the arguments; it writes what it likes, or closes the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

Answer = Callable[["Session", bytes, bytes], Awaitable[None]]

CAPABILITIES = "IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2 IDLE MOVE UIDPLUS LITERAL+ QUOTA"


class Session:
    """One connection."""

    def __init__(self, server: FakeImap, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.tls = False

    async def say(self, *lines: bytes) -> None:
        for line in lines:
            self.writer.write(line + b"\r\n")
        await self.writer.drain()

    async def ok(self, tag: bytes, text: bytes = b"done") -> None:
        await self.say(tag + b" OK " + text)

    async def line(self) -> bytes:
        """The next line from the client; b"" at the end."""
        line = await self.reader.readline()
        if line:
            self.server.heard.append(line.rstrip(b"\r\n"))
        return line.rstrip(b"\r\n")

    def close(self) -> None:
        self.writer.close()

    async def silence(self) -> None:
        """Say nothing until the client goes."""
        while await self.reader.read(4096):
            pass


class FakeImap:
    """A server on a free port. `heard` holds every line it was sent, `deleted` and `seen` what was marked."""

    host = "127.0.0.1"

    def __init__(
        self,
        messages: dict[int, bytes] | None = None,
        *,
        capabilities: str = CAPABILITIES,
        greeting: bytes = b"* OK ready",
        uidvalidity: int = 7,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.messages = dict(messages or {})
        self.capabilities = capabilities.encode()
        self.greeting = greeting
        self.uidvalidity = uidvalidity
        self.tls = tls
        self.heard: list[bytes] = []
        self.deleted: set[int] = set()
        self.copied: dict[bytes, list[int]] = {}
        self.connections = 0
        self.port = 0
        self.on: dict[str, Answer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self.host, 0, limit=1024 * 1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        session = Session(self, reader, writer)
        try:
            with contextlib.suppress(OSError):
                await self._serve(session)
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, session: Session) -> None:
        await session.say(self.greeting)
        while line := await session.line():
            tag, _, rest = line.partition(b" ")
            verb, _, arguments = rest.partition(b" ")
            name = verb.decode("ascii", "replace").upper()
            if name == "UID":
                second, _, arguments = arguments.partition(b" ")
                name = f"UID {second.decode('ascii', 'replace').upper()}"
            answer = self.on.get(name) or _POLITE.get(name)
            if answer is None:
                await session.say(tag + b" BAD unknown command")
            else:
                await answer(session, tag, arguments)
            if session.writer.is_closing() or name == "LOGOUT":
                return

    def uids(self, uid_set: bytes) -> list[int]:
        """The messages that a set names, as RFC 3501 says: `*` is the newest, and ranges go both ways."""
        newest = max(self.messages, default=0)
        found: set[int] = set()
        for word in uid_set.split(b","):
            first, _, last = word.partition(b":")
            ends = [newest if end == b"*" else int(end) for end in (first, last or first)]
            found |= {uid for uid in self.messages if min(ends) <= uid <= max(ends)}
        return sorted(found)


def fetch_line(n: int, uid: int, message: bytes) -> bytes:
    return b'* %d FETCH (UID %d INTERNALDATE " 1-May-2024 12:00:00 +0000" RFC822.SIZE %d)' % (n, uid, len(message))


def body_line(n: int, uid: int, message: bytes) -> bytes:
    return b"* %d FETCH (UID %d BODY[] {%d}\r\n%b)" % (n, uid, len(message), message)


async def _capability(session: Session, tag: bytes, arguments: bytes) -> None:
    await session.say(b"* CAPABILITY " + session.server.capabilities)
    await session.ok(tag)


async def _ok(session: Session, tag: bytes, arguments: bytes) -> None:
    await session.ok(tag)


async def _start_tls(session: Session, tag: bytes, arguments: bytes) -> None:
    assert session.server.tls is not None
    await session.ok(tag)
    await session.writer.start_tls(session.server.tls)
    session.tls = True


async def _select(session: Session, tag: bytes, arguments: bytes) -> None:
    server = session.server
    newest = max(server.messages, default=0)
    await session.say(
        b"* FLAGS (\\Seen \\Deleted)",
        b"* %d EXISTS" % len(server.messages),
        b"* OK [UIDVALIDITY %d] valid" % server.uidvalidity,
        b"* OK [UIDNEXT %d] next" % (newest + 1),
    )
    await session.ok(tag, b"[READ-WRITE] open")


async def _examine(session: Session, tag: bytes, arguments: bytes) -> None:
    server = session.server
    await session.say(
        b"* %d EXISTS" % len(server.messages),
        b"* OK [UIDVALIDITY %d] valid" % server.uidvalidity,
        b"* OK [UIDNEXT %d] next" % (max(server.messages, default=0) + 1),
    )
    await session.ok(tag, b"[READ-ONLY] open")


async def _search(session: Session, tag: bytes, arguments: bytes) -> None:
    server = session.server
    uids: Iterable[int] = sorted(server.messages)
    words = arguments.split(b" ")
    if words[0] == b"UID":
        uids = server.uids(words[1])
    if b"UNDELETED" in words:
        uids = [uid for uid in uids if uid not in server.deleted]
    await session.say(b" ".join([b"* SEARCH", *(b"%d" % uid for uid in uids)]))
    await session.ok(tag)


async def _fetch(session: Session, tag: bytes, arguments: bytes) -> None:
    server = session.server
    uid_set, _, items = arguments.partition(b" ")
    numbers = {uid: n for n, uid in enumerate(sorted(server.messages), 1)}
    for uid in server.uids(uid_set):
        line = body_line if b"BODY" in items else fetch_line
        await session.say(line(numbers[uid], uid, server.messages[uid]))
    await session.ok(tag)


async def _store(session: Session, tag: bytes, arguments: bytes) -> None:
    uid_set, _, rest = arguments.partition(b" ")
    if b"Deleted" in rest:
        session.server.deleted |= set(session.server.uids(uid_set))
    await session.ok(tag)


async def _copy(session: Session, tag: bytes, arguments: bytes) -> None:
    uid_set, _, target = arguments.partition(b" ")
    session.server.copied.setdefault(target, []).extend(session.server.uids(uid_set))
    await session.ok(tag)


async def _uid_expunge(session: Session, tag: bytes, arguments: bytes) -> None:
    server = session.server
    for uid in server.uids(arguments):
        if uid in server.deleted:
            del server.messages[uid]
    await session.ok(tag)


async def _idle(session: Session, tag: bytes, arguments: bytes) -> None:
    await session.say(b"+ idling")
    if await session.line():
        await session.ok(tag)


async def _logout(session: Session, tag: bytes, arguments: bytes) -> None:
    await session.say(b"* BYE see you")
    await session.ok(tag)


_POLITE: dict[str, Answer] = {
    "CAPABILITY": _capability,
    "NOOP": _ok,
    "LOGIN": _ok,
    "AUTHENTICATE": _ok,
    "STARTTLS": _start_tls,
    "SELECT": _select,
    "EXAMINE": _examine,
    "UID SEARCH": _search,
    "UID FETCH": _fetch,
    "UID STORE": _store,
    "UID COPY": _copy,
    "UID EXPUNGE": _uid_expunge,
    "CREATE": _ok,
    "IDLE": _idle,
    "LOGOUT": _logout,
}
