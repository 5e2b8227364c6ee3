"""A POP3 mailbox as a `Source`.

POP3 has no order to rely on and no watermark: which messages are new is told by their unique ids, compared with those
that have receipts (`SourceContext.known`). Sessions are short, because a mailbox has one at a time: it stays open only
while `receive` has more to bring. A message's time is that of its topmost Received field, which our own server wrote.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import islice

from email_router.mail.pop3.client import Client
from email_router.mail.pop3.settings import Pop3Settings
from email_router.mime.received import received_in
from email_router.model.errors import NeedsOperator, Permanent, RouterError, Transient
from email_router.model.mailbox import SourceAction
from email_router.model.message import Content, DeliveryKey, RawMessage
from email_router.net.spool import Spool
from email_router.ports.mail import Batch, Cursor, Limit, SourceContext, Usage

HEADER = 64 * 1024
"""Bytes of a message in which its topmost Received field is looked for."""
TOP_FROM = 32 * 1024
"""Smaller messages are read at once; of larger ones the header is read first, since they may be too old to matter."""
STRIKES = 3
"""So often a message may end the session before it is set aside."""
LOST = f"the session was lost {STRIKES} times while this message was read"
READ_ELSEWHERE = "read it with another mail program; retry it when the server gives it"


class Pop3Source:
    """One mailbox. Calls take turns."""

    def __init__(self, settings: Pop3Settings, context: SourceContext) -> None:
        self._settings = settings
        self._context = context
        self._client: Client | None = None
        self._queue: deque[tuple[int, str]] = deque()
        self._sizes: dict[int, int] = {}
        self._strikes: Counter[str] = Counter()

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
            self._sizes = await client.sizes()
            there = [key for key in keys if key.item in numbers]
            for key in there:
                if why := self._why_not(numbers[key.item], key.item):
                    if len(there) == 1:  # the answer is taken; when somebody has it tried again, it is
                        self._strikes.pop(key.item, None)
                    raise Permanent(why, where=client.where, cure=READ_ELSEWHERE)
            found = await self._fetched(client, {numbers[key.item]: key for key in there})
            return [found[key] for key in there]

    async def _fetched(self, client: Client, wanted: Mapping[int, DeliveryKey]) -> dict[DeliveryKey, RawMessage]:
        found: dict[DeliveryKey, RawMessage] = {}
        try:
            async for number, box in client.retrieve([(n, self._sizes.get(n, 0)) for n in wanted], self._context.spool):
                if isinstance(box, str):
                    what = "the server does not give this message"
                    raise Permanent(what, where=client.where, said=box, cure=READ_ELSEWHERE)
                content = box.finish()
                found[wanted[number]] = RawMessage(wanted[number], content, received_at(content))
        except Transient as error:
            self._strike(next((key.item for key in wanted.values() if key not in found), ""), error)
            raise
        return found

    def _strike(self, item: str, error: Transient) -> None:
        """The session was lost while this message was read."""
        if error.scope == "mailbox":  # not our own full disk
            self._strikes[item] += 1

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
            refused = await client.delete(sorted(numbers.values()))
        if refused:
            raise Transient("the server would not delete a message", where=client.where, said=refused, scope="mailbox")

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
        unreadable = [(self._key(item), why) for n, item in chosen if (why := self._why_not(n, item))]
        refused = {key.item for key, _ in unreadable}
        passed = [self._key(item) for n, item in chosen if n in old and item not in refused]
        waiting = {n: item for n, item in chosen if n not in old and item not in refused}
        items: list[RawMessage] = []
        wanted = [(n, self._sizes.get(n, 0)) for n in waiting]
        try:
            async for number, box in client.retrieve(wanted, self._context.spool):
                key = self._key(waiting.pop(number))
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
        except Transient as error:
            # What arrived before the session was lost is a batch; the message at which it was lost may be to blame.
            self._strike(next(iter(waiting.values()), ""), error)
            if error.scope != "mailbox" or not (items or unreadable or passed):
                raise
            self._queue.clear()
        for key in (*(item.key for item in items), *(key for key, _ in unreadable)):
            self._strikes.pop(key.item, None)
        more = bool(self._queue or waiting)
        return Batch(tuple(items), "", more, len(passed), tuple(unreadable), tuple(passed))

    def _why_not(self, number: int, item: str) -> str:
        """Why this message is not even asked for, or ""."""
        if self._sizes.get(number, 0) > self._settings.maximum_message_bytes:
            return _too_large(self._sizes[number], self._settings)
        return LOST if self._strikes[item] >= STRIKES else ""

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
        """Number and item id of each message: UIDLs, or hashes of the content where the server has none.

        An id that a broken server gives to several messages gets the hash too: which of them is meant must not depend
        on their order, or the wrong one is deleted.
        """
        if not self._settings.uidl:
            sizes = self._sizes or await client.sizes()
            return _told_apart(sorted((await self._hashes(client, sizes)).items()))
        uids = await client.uidls()
        uses = Counter(uid for _, uid in uids)
        repeated = {n: self._sizes.get(n, 0) for n, uid in uids if uses[uid] > 1}
        hashes = await self._hashes(client, repeated) if repeated else {}
        return _told_apart([(n, f"{uid}#{hashes.get(n, '')}" if n in repeated else uid) for n, uid in uids])

    async def _hashes(self, client: Client, sizes: Mapping[int, int]) -> dict[int, str]:
        """Read these messages to tell them apart."""
        found: dict[int, str] = {}
        boxes: list[_Hash] = []

        def make() -> _Hash:
            boxes.append(_Hash())
            return boxes[-1]

        async for number, box in client.retrieve(sorted(sizes.items()), make):
            if not isinstance(box, str):
                found[number] = boxes.pop().name
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


def _told_apart(items: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Messages with the same content are the same: any of them may be meant."""
    seen: Counter[str] = Counter()
    found = []
    for number, item in items:
        seen[item] += 1
        found.append((number, item if seen[item] == 1 else f"{item}#{seen[item]}"))
    return found


def _too_large(size: int, settings: Pop3Settings) -> str:
    return f"it has {size:,} bytes, and maximum_message_bytes of the profile is {settings.maximum_message_bytes:,}"
