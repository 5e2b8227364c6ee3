"""A POP3 mailbox as a `Source`.

POP3 has no order to rely on and no watermark: which messages are new is told by their unique ids, compared with those
that have receipts (`SourceContext.known`). Sessions are short, because a mailbox has one at a time: it stays open only
while `receive` has more to bring. A message's time is that of its topmost Received field, which our own server wrote.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import islice

from email_router.mail.pop3.client import Client
from email_router.mail.pop3.settings import Pop3Settings
from email_router.mime.received import received_in
from email_router.model.errors import NeedsOperator, Permanent, RouterError
from email_router.model.mailbox import SourceAction
from email_router.model.message import Content, DeliveryKey, RawMessage
from email_router.net.spool import Spool
from email_router.ports.mail import Batch, Cursor, Limit, SourceContext, Usage

HEADER = 64 * 1024
"""Bytes of a message in which its topmost Received field is looked for."""
TOP_FROM = 32 * 1024
"""Smaller messages are read at once; of larger ones the header is read first, since they may be too old to matter."""


class Pop3Source:
    """One mailbox. Calls take turns."""

    def __init__(self, settings: Pop3Settings, context: SourceContext) -> None:
        self._settings = settings
        self._context = context
        self._client: Client | None = None
        self._queue: deque[tuple[int, str]] = deque()
        self._sizes: dict[int, int] = {}

    # -- Source

    async def receive(self, cursor: Cursor, limit: Limit) -> Batch:
        """See the port. The cursor of POP3 is always ""."""
        try:
            client = await self._reading()
            batch = await self._next(client, limit)
        except BaseException:
            await self.close()
            raise
        if not batch.more:
            await self._finish()
        return batch

    async def fetch(self, keys: Sequence[DeliveryKey]) -> Sequence[RawMessage]:
        async with self._session() as client:
            numbers = await self._numbers(client, [key.item for key in keys])
            sizes = await client.sizes()
            there = [(key, numbers[key.item]) for key in keys if key.item in numbers]
            for _, number in there:
                if sizes.get(number, 0) > self._settings.maximum_message_bytes:
                    raise Permanent(_too_large(sizes[number], self._settings), where=client.where)
            found: dict[int, RawMessage] = {}
            by_number = {number: key for key, number in there}
            wanted = [(number, sizes.get(number, 0)) for number in by_number]
            async for number, box in client.retrieve(wanted, self._context.spool):
                if isinstance(box, str):
                    raise Permanent(
                        "the server does not give this message",
                        where=client.where,
                        said=box,
                        cure="read it with another mail program",
                    )
                content = box.finish()
                found[number] = RawMessage(by_number[number], content, received_at(content))
            return [found[number] for _, number in there]

    async def acknowledge(self, keys: Sequence[DeliveryKey], action: SourceAction, move_to: str = "") -> None:
        """Delete, and only the server's answer to QUIT counts: a session that is lost before has changed nothing."""
        if action is SourceAction.LEAVE or not keys:
            return
        if action is not SourceAction.DELETE:
            raise NeedsOperator(
                "POP3 cannot mark or move messages",
                where=self._context.mailbox,
                cure='set source_action to "leave" or "delete", or read the mailbox by IMAP',
            )
        await self._finish()
        async with self._session() as client:
            numbers = await self._numbers(client, [key.item for key in keys])
            await client.delete(sorted(numbers.values()))

    async def usage(self) -> Usage:
        async with self._session() as client:
            messages, size = await client.stat()
            return Usage(messages, size)

    async def close(self) -> None:
        client, self._client = self._client, None
        self._queue.clear()
        if client is not None:
            await client.close()

    # -- parts

    async def _reading(self) -> Client:
        """The session that is being read from, or a new one with its list of messages that have no receipt yet."""
        if self._client is not None and self._client.usable and self._queue:
            return self._client
        await self._finish()
        client = self._client = await self._connected()
        self._sizes = await client.sizes()
        items = await self._items(client)
        known = await self._known([item for _, item in items])
        self._queue = deque((number, item) for number, item in items if item not in known)
        return client

    async def _next(self, client: Client, limit: Limit) -> Batch:
        chosen = self._choose(limit)
        old = await self._too_old(client, chosen)
        items: list[RawMessage] = []
        unreadable = [
            (self._key(item), _too_large(self._sizes[n], self._settings))
            for n, item in chosen
            if self._sizes.get(n, 0) > self._settings.maximum_message_bytes
        ]
        refused = {key.item for key, _ in unreadable}
        names = {n: item for n, item in chosen if n not in old and item not in refused}
        wanted = [(n, self._sizes.get(n, 0)) for n in names]
        passed = [self._key(item) for n, item in chosen if n in old and item not in refused]
        async for number, box in client.retrieve(wanted, self._context.spool):
            key = self._key(names[number])
            if isinstance(box, str):
                unreadable.append((key, box or "the server does not give this message"))
                continue
            content = box.finish()
            received = received_at(content)
            if self._context.since is not None and received < self._context.since:
                passed.append(key)
                content.discard()
            else:
                items.append(RawMessage(key, content, received))
        return Batch(tuple(items), "", bool(self._queue), len(passed), tuple(unreadable), tuple(passed))

    def _choose(self, limit: Limit) -> list[tuple[int, str]]:
        """The next messages within the limit, at least one."""
        chosen: list[tuple[int, str]] = []
        size = 0
        while self._queue and len(chosen) < limit.count:
            size += self._sizes.get(self._queue[0][0], 0)
            if chosen and size > limit.bytes:
                break
            chosen.append(self._queue.popleft())
        return chosen

    async def _too_old(self, client: Client, chosen: Sequence[tuple[int, str]]) -> set[int]:
        since = self._context.since
        if since is None or "TOP" not in client.capabilities:
            return set()
        large = [n for n, _ in chosen if self._sizes.get(n, 0) >= TOP_FROM]
        headers = await client.tops(large)
        return {n for n, header in headers.items() if (when := received_in(header)) is not None and when < since}

    async def _items(self, client: Client) -> list[tuple[int, str]]:
        """Number and item id of each message: UIDLs, or hashes of the content where the server has none."""
        if not self._settings.uidl:
            return await self._hashes(client)
        seen: Counter[str] = Counter()
        items = []
        for number, uid in await client.uidls():
            seen[uid] += 1
            items.append((number, uid if seen[uid] == 1 else f"{uid}#{seen[uid]}"))  # broken servers repeat ids
        return items

    async def _hashes(self, client: Client) -> list[tuple[int, str]]:
        """Read everything to tell messages apart; they are deleted once dealt with, so that there are few."""
        sizes = self._sizes or await client.sizes()
        found: list[tuple[int, str]] = []
        boxes: list[_Hash] = []

        def make() -> _Hash:
            boxes.append(_Hash())
            return boxes[-1]

        seen: Counter[str] = Counter()
        async for number, box in client.retrieve(sorted(sizes.items()), make):
            if not isinstance(box, str):
                item = boxes.pop().name
                seen[item] += 1
                found.append((number, item if seen[item] == 1 else f"{item}#{seen[item]}"))
        return found

    async def _numbers(self, client: Client, items: Sequence[str]) -> dict[str, int]:
        self._sizes = {}
        there = {item: number for number, item in await self._items(client)}
        return {item: there[item] for item in items if item in there}

    async def _known(self, items: Sequence[str]) -> frozenset[str]:
        if self._context.known is None or not items:
            return frozenset()
        known: set[str] = set()
        waiting = iter(items)
        while group := list(islice(waiting, 10_000)):
            known.update(await self._context.known(group))
        return frozenset(known)

    def _key(self, item: str) -> DeliveryKey:
        return DeliveryKey(self._context.mailbox, self._context.folder, item)

    async def _connected(self) -> Client:
        client = Client(self._settings, self._context.login)
        try:
            await client.connect()
            await client.login()
        except BaseException:
            await client.close()
            raise
        return client

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Client]:
        """A session of its own that ends with QUIT. A mailbox has one session at a time: ours ends before."""
        await self._finish()
        client = await self._connected()
        try:
            yield client
            await client.quit()
        finally:
            await client.close()

    async def _finish(self) -> None:
        """End the session that was read from. It has changed nothing, so that no answer is worth an error."""
        client, self._client = self._client, None
        self._queue.clear()
        if client is not None and client.usable:
            try:
                await client.quit()
            except RouterError:
                await client.close()


class _Hash(Spool):
    """A spool that keeps nothing but the hash."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)

    def abandon(self) -> None:
        pass

    @property
    def name(self) -> str:
        return self._sha256.hexdigest()


def received_at(content: Content) -> datetime:
    """The time of the topmost Received field, else now: never Date, which the sender writes."""
    with content.open() as stream:
        return received_in(stream.read(HEADER)) or datetime.now(UTC)


def _too_large(size: int, settings: Pop3Settings) -> str:
    return f"it has {size:,} bytes, and the profile takes at most {settings.maximum_message_bytes:,}"
