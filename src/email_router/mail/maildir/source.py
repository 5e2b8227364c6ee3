"""A Maildir, or a directory of `*.eml` files, as a `Source`: for backfill of old mail with its original times.

What may fail: files come, go and are renamed while we read (flags change the name): a message is named by the part of
its name that stays. Links are not followed, so that nobody can make us read other files. What cannot be read is
unreadable, and the next run goes on where this one ended, because messages that have receipts are not read again.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from email_router.mail.maildir.settings import MaildirSettings
from email_router.mime.received import received_in
from email_router.model.errors import NeedsOperator, said_by
from email_router.model.mailbox import SourceAction
from email_router.model.message import Content, DeliveryKey, RawMessage
from email_router.net.spool import Spool
from email_router.ports.mail import Batch, Cursor, Limit, SourceContext, Usage

HEADER = 64 * 1024
COPY = 256 * 1024


class MaildirSource:
    """One folder. Reading changes nothing."""

    def __init__(self, settings: MaildirSettings, context: SourceContext) -> None:
        self._settings = settings
        self._context = context
        self._directory = Path(settings.path.replace("{address}", context.mailbox))
        self._queue: deque[tuple[datetime, str, Path]] = deque()
        self._listed = False

    async def receive(self, cursor: Cursor, limit: Limit) -> Batch:
        """See the port. The cursor is always ""."""
        if not self._listed:
            await self._list()
        self._listed = False  # what breaks off is listed again
        batch = await asyncio.to_thread(self._next, limit)
        self._listed = batch.more
        return batch

    async def fetch(self, keys: Sequence[DeliveryKey]) -> Sequence[RawMessage]:
        files = dict(await asyncio.to_thread(self._files))
        found = []
        for key in keys:
            if key.item in files:
                content = await asyncio.to_thread(self._content, files[key.item])
                if content is not None:
                    found.append(RawMessage(key, content, _time(files[key.item])))
        return found

    async def acknowledge(self, keys: Sequence[DeliveryKey], action: SourceAction, move_to: str = "") -> None:
        if action is SourceAction.LEAVE or not keys:
            return
        if action is not SourceAction.DELETE:
            raise NeedsOperator(
                "Messages of a Maildir can be left or deleted",
                where=str(self._directory),
                cure='set source_action to "leave" or "delete"',
            )
        files = dict(await asyncio.to_thread(self._files))
        for key in keys:
            if key.item in files:
                files[key.item].unlink(missing_ok=True)

    async def usage(self) -> Usage:
        sizes = [path.lstat().st_size for _, path in await asyncio.to_thread(self._files)]
        return Usage(len(sizes), sum(sizes))

    async def _list(self) -> None:
        """Files without a receipt, oldest first."""
        files = await asyncio.to_thread(self._files)
        known: set[str] = set()
        if self._context.known is not None:
            items = [item for item, _ in files]
            for start in range(0, len(items), 10_000):
                known.update(await self._context.known(items[start : start + 10_000]))
        new = [(item, path) for item, path in files if item not in known]
        self._queue = deque(sorted(await asyncio.to_thread(_timed, new)))

    def _next(self, limit: Limit) -> Batch:
        items: list[RawMessage] = []
        unreadable: list[tuple[DeliveryKey, str]] = []
        passed: list[DeliveryKey] = []
        size = 0
        while self._queue and len(items) + len(unreadable) + len(passed) < limit.count:
            received, item, path = self._queue[0]
            key = DeliveryKey(self._context.mailbox, self._context.folder, item)
            size += _size(path)
            if items and size > limit.bytes:
                break
            self._queue.popleft()
            if self._context.since is not None and received < self._context.since:
                passed.append(key)
                continue
            if _size(path) > self._settings.maximum_message_bytes:
                most = self._settings.maximum_message_bytes
                unreadable.append(
                    (key, f"it has {_size(path):,} bytes, and maximum_message_bytes of the profile is {most:,}")
                )
                continue
            try:
                content = self._content(path)
            except OSError as error:
                unreadable.append((key, said_by(error)))
                continue
            if content is not None:
                items.append(RawMessage(key, content, received))
        return Batch(tuple(items), "", bool(self._queue), len(passed), tuple(unreadable), tuple(passed))

    def _files(self) -> list[tuple[str, Path]]:
        """Item id and path of each message. Raises NeedsOperator when the directory cannot be read."""
        try:
            return sorted(self._walk())
        except OSError as error:
            raise NeedsOperator(
                "The Maildir cannot be read",
                where=str(self._directory),
                said=str(error.strerror),
                cure="correct the path, or give the user of the router the right to read it",
                scope="mailbox",
            ) from error

    def _walk(self) -> Iterator[tuple[str, Path]]:
        folders = [self._directory / name for name in ("cur", "new") if (self._directory / name).is_dir()]
        for folder in folders or [self._directory]:
            with os.scandir(folder) as entries:
                for entry in entries:
                    wanted = folders or entry.name.lower().endswith(".eml")
                    if wanted and not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                        yield _item(entry.name), Path(entry.path)

    def _content(self, path: Path) -> Content | None:
        """The message in memory or in the spool; None when it is gone."""
        spool: Spool = self._context.spool()
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with os.fdopen(handle, "rb") as stream:
            while data := stream.read(COPY):
                spool.write(data)
        return spool.finish()


def _item(name: str) -> str:
    """The part of a file's name that stays, in letters that a database holds whatever system wrote it."""
    return os.fsencode(name.partition(":2,")[0]).decode("utf-8", "backslashreplace")


def _timed(files: Sequence[tuple[str, Path]]) -> list[tuple[datetime, str, Path]]:
    return [(_time(path), item, path) for item, path in files]


def _time(path: Path) -> datetime:
    """When the message was received: the topmost Received field, else the Maildir name's time, else the file's."""
    try:
        with path.open("rb") as stream:
            when = received_in(stream.read(HEADER))
        if when is not None:
            return when
        seconds = path.name.partition(".")[0]
        if seconds.isdigit() and 8 < len(seconds) < 12:
            return datetime.fromtimestamp(int(seconds), UTC)
        return datetime.fromtimestamp(path.lstat().st_mtime, UTC)
    except OSError:
        return datetime.now(UTC)


def _size(path: Path) -> int:
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
