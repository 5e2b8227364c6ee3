"""An IMAP folder as a `Source` and a `Notifier`.

The connection is made by the first call that needs it and made anew by the next call after it was lost; nothing is
retried here. Reading never changes the mailbox: the folder is opened read-only until something has to be changed. The
cursor `UIDVALIDITY:UID` names the last message handed out; when the server numbers its messages anew, everything since
the threshold is listed again, which filing by identity makes harmless.

A message that the server will not give, or whose transfer ends the connection time and again, is set aside as
unreadable so that those behind it arrive. If nothing at all can be read, the server is to blame: Transient.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

from email_router.mail.imap.answers import search_date, uid_sets
from email_router.mail.imap.client import Client, Folder, Meta
from email_router.mail.imap.settings import ImapSettings
from email_router.model.errors import NeedsOperator, Permanent, Transient
from email_router.model.mailbox import SourceAction
from email_router.model.message import Content, DeliveryKey, RawMessage
from email_router.ports.mail import Batch, Cursor, Limit, SourceContext, Usage

LISTED_AT_ONCE = 1000
"""Messages whose sizes and times are asked for in one go."""
STRIKES = 3
"""So often a message may end the connection, or be refused while nothing else can be read, before it is set aside."""
LONGEST_IDLE = 1500.0
"""Seconds; servers may hang up after 30 minutes (RFC 2177)."""


class ImapSource:
    """One folder of one mailbox over one connection. Calls may overlap: they take turns, and IDLE gives way."""

    def __init__(self, settings: ImapSettings, context: SourceContext) -> None:
        self._settings = settings
        self._context = context
        self._folder = context.folder or settings.folder
        self._client: Client | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._idle: asyncio.Timeout | None = None
        self._expected: Cursor | None = None
        """The cursor that `_queue` continues."""
        self._queue: deque[int] = deque()
        self._metas: dict[int, Meta] = {}
        self._refused: dict[int, str] = {}
        self._strikes: Counter[int] = Counter()
        self._older = 0
        self._newest = 0
        self._opened_as: Folder | None = None
        """The opening of the folder in which was received last."""

    # -- Source

    async def receive(self, cursor: Cursor, limit: Limit) -> Batch:
        async with self._connected(writable=False) as (client, folder):
            validity, last = read_cursor(cursor)
            expected, self._expected = self._expected, None
            if validity != folder.uidvalidity or self._is_beyond(folder, last):
                last = await self._list(client, 0)
            elif cursor != expected or not self._queue:
                last = await self._list(client, last)
            choice = await self._choose(client, last, limit)
            batch = await self._read(client, folder, choice)
            if not choice.broke_at:
                self._expected = batch.cursor
            return batch

    async def fetch(self, keys: Sequence[DeliveryKey]) -> Sequence[RawMessage]:
        """See the port. Raises when a message is there but does not come: leaving it out would mean it is gone."""
        async with self._connected(writable=False) as (client, folder):
            uids = uids_of(keys, folder)
            wanted = sorted(set(uids))
            if not wanted:
                return []
            self._give_up(client, wanted)
            metas, refused = await self._described(client, wanted)
            contents: dict[int, Content] = {}
            if metas:
                size = sum(meta.size for meta in metas.values())
                try:
                    refused |= await self._contents(client, sorted(metas), size, contents)
                except Transient as error:
                    self._strike(client, next((uid for uid in sorted(metas) if uid not in contents), 0), error)
                    raise
            for uid, why in refused.items():
                self._strikes[uid] += 1
                raise Transient("the server does not give a message", where=f"{client.where}, message {uid}", said=why)
            for uid in contents:
                self._strikes.pop(uid, None)
            return [self._raw(folder, uid, contents[uid], metas[uid]) for uid in uids if uid in contents]

    async def _described(self, client: Client, uids: Sequence[int]) -> tuple[dict[int, Meta], dict[int, str]]:
        """Sizes and times, and why those that exist have none. Raises Permanent for a message that is too large."""
        metas: dict[int, Meta] = {}
        said = await client.metas(uids, metas)
        missing = [uid for uid in uids if uid not in metas]
        refused = await self._salvage(client, missing, said, metas, lambda uid: client.metas([uid], metas))
        for uid, meta in metas.items():
            if meta.size > self._settings.maximum_message_bytes:
                raise Permanent(
                    _too_large(meta.size, self._settings.maximum_message_bytes),
                    where=f"{client.where}, folder {self._folder}, message {uid}",
                    cure="raise maximum_message_bytes of the profile, then retry it",
                )
        return metas, refused

    async def acknowledge(self, keys: Sequence[DeliveryKey], action: SourceAction, move_to: str = "") -> None:
        if action is SourceAction.LEAVE or not keys:
            return
        if action is SourceAction.MOVE and not move_to:
            raise NeedsOperator(
                "mail is to be moved, but no folder is named",
                where=self._context.mailbox,
                cure="name the folder to move to",
                scope="mailbox",
            )
        async with self._connected(writable=True) as (client, folder):
            uids = sorted(set(uids_of(keys, folder)))
            if not uids:
                return
            if action is SourceAction.SEEN:
                await client.mark_seen(uids)
            elif action is SourceAction.DELETE:
                await client.delete(uids)
            else:
                await client.move(uids, move_to)

    async def usage(self) -> Usage:
        async with self._connected(writable=False) as (client, _):
            await client.noop()
            quota = await client.quota()
            if quota is not None:
                return Usage(messages=client.exists, bytes=quota.used, quota=quota.limit)
            return Usage(messages=client.exists, bytes=await client.folder_bytes())

    # -- Notifier

    async def changed(self, within: float) -> bool:
        """True as soon as the server tells of new mail. A connection that died quietly raises Transient at the end.

        Without IDLE the wait is slept through and the server is asked once, at its end.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while True:
            async with self._connected(writable=False) as (client, _):
                left = end - loop.time()
                if client.news or left <= 0:
                    return client.news
                idle = self._settings.idle and "IDLE" in client.capabilities
                if idle:
                    try:
                        await client.idle(min(left, self._settings.idle_seconds, LONGEST_IDLE), self._idling)
                    finally:
                        self._idle = None
            if not idle:
                await asyncio.sleep(left)
                async with self._connected(writable=False) as (client, _):
                    await client.noop()
                    return client.news

    def _idling(self, timer: asyncio.Timeout) -> None:
        self._idle = timer
        if self._waiting:
            self._end_idle()

    def _end_idle(self) -> None:
        if self._idle is not None and not self._idle.expired():
            with suppress(RuntimeError):  # it ended this moment
                self._idle.reschedule(0.0)

    # -- the connection

    @asynccontextmanager
    async def _connected(self, *, writable: bool) -> AsyncIterator[tuple[Client, Folder]]:
        """The open folder, for one caller at a time; a waiting IDLE is ended first."""
        self._waiting += 1
        self._end_idle()
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            client = self._client
            if client is None or not client.usable:
                await self._drop()
                client = self._client = Client(self._settings, self._context.login)
            try:
                yield client, await self._opened(client, writable)
            finally:
                if not client.usable:
                    await self._drop()
        finally:
            self._turn.release()

    async def _opened(self, client: Client, writable: bool) -> Folder:
        if not client.usable:
            try:
                await client.connect()
                await client.login()
            except BaseException:
                await self._drop()
                raise
        folder = client.folder
        if folder is None or (writable and not folder.writable):
            folder = await client.open(self._folder, writable=writable)
            if writable and not folder.writable:
                raise NeedsOperator(
                    f"the folder {self._folder} may only be read",
                    where=client.where,
                    cure="give this account write access, or choose the source action 'leave'",
                    scope="mailbox",
                )
        return folder

    async def _drop(self) -> None:
        client, self._client = self._client, None
        self._expected = None
        if client is not None:
            await client.close()

    async def close(self) -> None:
        async with self._turn:
            await self._drop()

    # -- receiving

    def _is_beyond(self, folder: Folder, last: int) -> bool:
        """Whether the cursor lies where no message was when the folder was opened: a wrong answer of long ago, or a
        mailbox put back from a backup. Nothing behind it would ever be seen; so all is listed again, once."""
        seen, self._opened_as = self._opened_as is folder, folder
        return not seen and bool(folder.uidnext) and last >= folder.uidnext

    async def _list(self, client: Client, last: int) -> int:
        """Queue what came after `last`; returns the UID that the cursor may name even if the queue stays empty.

        SEARCH SINCE knows only days and the server's own zone: it spares us the bulk of old mail, and INTERNALDATE
        decides. `n:*` answers the newest message even if it lies before n (RFC 3501 section 6.4.8).
        """
        client.news = False
        self._metas.clear()
        self._refused.clear()
        self._older = self._newest = 0
        if last or self._context.since is None:
            uids = await client.search(b"UID %d:*" % (last + 1))
            self._queue = deque(uid for uid in uids if uid > last)
            return last
        # First the newest: what arrives between the two searches is then found by the next listing.
        self._newest = max(await client.search(b"UID *"), default=0)
        uids = await client.search(b"SINCE " + search_date(self._context.since - timedelta(days=1)))
        self._queue = deque(uids)
        self._older = max(client.exists - len(uids), 0)
        return 0

    async def _choose(self, client: Client, last: int, limit: Limit) -> _Choice:
        """Messages from the head of the queue, as many as the limit allows and at least one."""
        choice = _Choice(last, self._older)
        self._older = 0
        while self._queue and len(choice.uids) + len(choice.unreadable) < limit.count:
            uid = self._queue[0]
            if uid not in self._metas and uid not in self._refused:
                await self._describe(client)
                if not self._queue or self._queue[0] != uid:
                    continue  # it is gone
            meta = self._metas.get(uid)
            reason = self._refused.get(uid) or self._too_much(uid, meta)
            if choice.uids and meta and (choice.size + meta.size > limit.bytes or self._strikes[uid]):
                break
            choice.last = self._queue.popleft()
            self._metas.pop(uid, None)
            if meta and self._context.since is not None and meta.received < self._context.since:
                choice.older.append(uid)
            elif reason or meta is None:
                choice.unreadable[uid] = reason
            else:
                choice.uids.append(uid)
                choice.metas[uid] = meta
                choice.size += meta.size
                if self._strikes[uid]:
                    break  # alone, so that it cannot take others with it
        if not self._queue:
            choice.last = max(choice.last, self._newest)
        return choice

    async def _describe(self, client: Client) -> None:
        """Sizes and times for the head of the queue. What is gone leaves the queue."""
        uids = list(islice(self._queue, LISTED_AT_ONCE))
        said = await client.metas(uids, self._metas)
        missing = [uid for uid in uids if uid not in self._metas]
        if missing:
            refused = await self._salvage(client, missing, said, self._metas, lambda u: client.metas([u], self._metas))
            if len(refused) == len(uids):
                self._blame(client, uids[0], refused[uids[0]])
            self._refused |= refused
            gone = set(missing) - self._metas.keys() - refused.keys()
            self._queue = deque(uid for uid in self._queue if uid not in gone)

    async def _read(self, client: Client, folder: Folder, choice: _Choice) -> Batch:
        """The chosen messages. When the connection ends half-way, those that came in order are still a batch."""
        contents: dict[int, Content] = {}
        try:
            refused = await self._contents(client, choice.uids, choice.size, contents) if choice.uids else {}
            if choice.uids and len(refused) == len(choice.uids):
                self._blame(client, choice.uids[0], refused[choice.uids[0]])
        except Transient as error:
            choice.cut(contents)
            self._strike(client, choice.broke_at, error)
            if not choice.uids:
                raise
            refused = {}
        unreadable = choice.unreadable | refused
        for uid in (*choice.uids, *unreadable):
            self._strikes.pop(uid, None)
        return Batch(
            items=tuple(
                self._raw(folder, uid, contents[uid], choice.metas[uid]) for uid in choice.uids if uid in contents
            ),
            cursor=f"{folder.uidvalidity}:{choice.last}",
            more=bool(self._queue) or choice.broke_at != 0,
            older=choice.older_listed + len(choice.older),
            unreadable=tuple((self._key(folder, uid), unreadable[uid]) for uid in sorted(unreadable)),
        )

    async def _contents(
        self, client: Client, uids: Sequence[int], size: int, contents: dict[int, Content]
    ) -> dict[int, str]:
        """Bodies into `contents`; returns why those that exist did not come."""

        async def again(uid: int) -> str:
            return await client.bodies([uid], contents, size, self._context.spool)

        said = await client.bodies(uids, contents, size, self._context.spool)
        missing = [uid for uid in uids if uid not in contents]
        return await self._salvage(client, missing, said, contents, again) if missing else {}

    async def _salvage(
        self,
        client: Client,
        missing: Sequence[int],
        said: str,
        into: Mapping[int, object],
        again: Callable[[int], Awaitable[str]],
    ) -> dict[int, str]:
        """Ask one by one for what did not come with the others; returns what exists and does not come, and why."""
        refused: dict[int, str] = {}
        for uid_set in uid_sets(missing):
            for uid in set(missing).intersection(await client.search(b"UID " + uid_set)):
                if uid not in into:
                    why = await again(uid)
                    if uid not in into:
                        refused[uid] = why or said or "the server sent nothing for this message"
        return refused

    def _strike(self, client: Client, uid: int, error: Transient) -> None:
        """The connection was lost while this message was read."""
        if uid and not client.usable and error.scope == "mailbox":  # not our own full disk
            self._strikes[uid] += 1

    def _give_up(self, client: Client, uids: Sequence[int]) -> None:
        """Raise Permanent for a message that could not be read time and again: it must not hold up the others.

        The caller then asks for each alone.
        """
        for uid in uids:
            if self._strikes[uid] >= STRIKES:
                if len(uids) == 1:  # the answer is taken; when somebody has it tried again, it is
                    self._strikes.pop(uid)
                raise Permanent(
                    f"the server did not give this message at {STRIKES} attempts",
                    where=f"{client.where}, folder {self._folder}, message {uid}",
                    cure="read it with another mail program; retry it when the server gives it",
                )

    def _blame(self, client: Client, uid: int, said: str) -> None:
        """Nothing at all could be read: the server's fault, until that happened too often."""
        self._strikes[uid] += 1
        if self._strikes[uid] < STRIKES:
            raise Transient("the server gives no message", where=client.where, said=said, scope="mailbox")

    def _too_much(self, uid: int, meta: Meta | None) -> str:
        if self._strikes[uid] >= STRIKES:
            return f"the connection was lost {STRIKES} times while this message was read"
        limit = self._settings.maximum_message_bytes
        return _too_large(meta.size, limit) if meta is not None and meta.size > limit else ""

    def _key(self, folder: Folder, uid: int) -> DeliveryKey:
        return DeliveryKey(self._context.mailbox, self._folder, f"{folder.uidvalidity}:{uid}")

    def _raw(self, folder: Folder, uid: int, content: Content, meta: Meta) -> RawMessage:
        return RawMessage(self._key(folder, uid), content, meta.received)


@dataclass(slots=True)
class _Choice:
    """What one batch will hold while it is being made. `last` is the UID its cursor will name."""

    last: int
    older_listed: int
    """Older messages that the listing told of without naming them."""
    older: list[int] = field(default_factory=list)
    uids: list[int] = field(default_factory=list)
    metas: dict[int, Meta] = field(default_factory=dict)
    size: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)
    broke_at: int = 0

    def cut(self, contents: Mapping[int, Content]) -> None:
        """Keep what lies before the first message that did not arrive."""
        self.broke_at = next((uid for uid in self.uids if uid not in contents), 0)
        if self.broke_at:
            self.uids = self.uids[: self.uids.index(self.broke_at)]
            self.last = self.uids[-1] if self.uids else 0
            self.unreadable = {uid: why for uid, why in self.unreadable.items() if uid <= self.last}
            self.older = [uid for uid in self.older if uid <= self.last]


def _too_large(size: int, limit: int) -> str:
    return f"it has {size:,} bytes, and maximum_message_bytes of the profile is {limit:,}"


def read_cursor(cursor: Cursor) -> tuple[int, int]:
    """UIDVALIDITY and the last UID handed out; zeros for the first receive."""
    validity, _, last = cursor.partition(":")
    return (int(validity), int(last)) if validity.isdigit() and last.isdigit() else (0, 0)


def uids_of(keys: Sequence[DeliveryKey], folder: Folder) -> list[int]:
    """The UIDs of these keys, in their order; keys of an earlier numbering name nothing any more."""
    found = [read_cursor(key.item) for key in keys]
    return [uid for validity, uid in found if validity == folder.uidvalidity]
