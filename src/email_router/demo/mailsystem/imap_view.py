"""A selected folder as one IMAP session sees it, and the commands of the selected state."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping

from email_router.demo.mailsystem import imap_fetch
from email_router.demo.mailsystem.folder import DELETED, SEEN, Folder, StoredMessage
from email_router.demo.mailsystem.imap_search import criteria
from email_router.demo.mailsystem.imap_syntax import Arguments, Bad, No, Range, settable
from email_router.demo.mailsystem.wire import Wire


class View:
    """Sequence numbers stay until the session is told otherwise. Commands return what follows their tag, or ""."""

    def __init__(self, wire: Wire, folders: Mapping[str, Folder], folder: Folder, read_only: bool) -> None:
        self._wire = wire
        self._folders = folders
        self.folder = folder
        self.read_only = read_only
        self.messages: list[StoredMessage] = list(folder.messages)
        self.told = {message.uid: message.flags for message in self.messages}
        self.recent = {message.uid for message in self.messages if message.uid >= folder.first_recent}
        self.version = folder.version
        self._keep_recent()

    def _keep_recent(self) -> None:
        if not self.read_only:
            self.folder.first_recent = self.folder.uid_next

    @property
    def highest_uid(self) -> int:
        return self.messages[-1].uid if self.messages else 0

    def chosen(self, ranges: Iterable[Range], by_uid: bool) -> list[tuple[int, StoredMessage]]:
        """Messages of a set with their sequence numbers, each once. Raises Bad for a number that is not there."""
        uids = [message.uid for message in self.messages] if by_uid else range(1, len(self.messages) + 1)
        highest = uids[-1] if uids else 0
        places: set[int] = set()
        for first, last in ranges:
            low, high = sorted((highest if first is None else first, highest if last is None else last))
            if not by_uid and (low < 1 or high > highest):
                raise Bad(f"there are {highest} messages")
            places.update(range(bisect_left(uids, low), bisect_right(uids, high)))
        return [(place + 1, self.messages[place]) for place in sorted(places)]

    def flags(self, message: StoredMessage) -> bytes:
        recent = ["\\Recent"] if message.uid in self.recent else []
        return ("(" + " ".join(sorted(message.flags) + recent) + ")").encode()

    def changes(self, *, may_shrink: bool) -> list[bytes]:
        """Untagged responses that bring the session up to date."""
        if self.version == self.folder.version:
            return []
        lines = self._gone() if may_shrink else []
        fresh = self.folder.messages[bisect_right([m.uid for m in self.folder.messages], self.highest_uid) :]
        if fresh:
            self.messages += fresh
            self.told |= {message.uid: message.flags for message in fresh}
            self.recent |= {message.uid for message in fresh if message.uid >= self.folder.first_recent}
            self._keep_recent()
            lines += [b"* %d EXISTS" % len(self.messages), b"* %d RECENT" % len(self.recent)]
        for number, message in enumerate(self.messages, 1):
            if self.told[message.uid] is not message.flags and self.told[message.uid] != message.flags:
                self.told[message.uid] = message.flags
                lines.append(b"* %d FETCH (UID %d FLAGS %b)" % (number, message.uid, self.flags(message)))
        if may_shrink:
            self.version = self.folder.version
        return lines

    def _gone(self) -> list[bytes]:
        lines: list[bytes] = []
        left: list[StoredMessage] = []
        for message in self.messages:
            if message.expunged:
                lines.append(b"* %d EXPUNGE" % (len(left) + 1))
                del self.told[message.uid]
                self.recent.discard(message.uid)
            else:
                left.append(message)
        self.messages = left
        return lines

    # -- commands

    async def search(self, arguments: Arguments, by_uid: bool) -> str:
        arguments.space()
        highest = (len(self.messages), self.highest_uid)
        criterion = criteria(arguments, highest, lambda message: message.uid in self.recent)
        found = [(n, message) for n, message in enumerate(self.messages, 1) if criterion(n, message)]
        self._say(b"* SEARCH" + b"".join(b" %d" % (message.uid if by_uid else n) for n, message in found))
        return ""

    async def fetch(self, arguments: Arguments, by_uid: bool) -> str:
        arguments.space()
        chosen = self.chosen(arguments.set(), by_uid)
        arguments.space()
        items = imap_fetch.items(arguments)
        arguments.end()
        if by_uid and all(item.name != b"UID" for item in items):
            items.insert(0, imap_fetch.UID)
        marks = not self.read_only and any(item.marks_seen for item in items)
        for number, message in chosen:
            wanted = list(items)
            if marks and SEEN not in message.flags:
                self.folder.set_flags(message, message.flags | {SEEN})
                if imap_fetch.FLAGS not in wanted:
                    wanted.append(imap_fetch.FLAGS)
            if imap_fetch.FLAGS in wanted:
                self.told[message.uid] = message.flags
            values = (
                item.name + b" " + (self.flags(message) if item is imap_fetch.FLAGS else item.value(message))
                for item in wanted
            )
            self._say(b"* %d FETCH (" % number + b" ".join(values) + b")")
            await self._wire.drain()
        return ""

    async def store(self, arguments: Arguments, by_uid: bool) -> str:
        self._must_be_writable()
        arguments.space()
        chosen = self.chosen(arguments.set(), by_uid)
        arguments.space()
        sign = "+" if arguments.skip(b"+") else "-" if arguments.skip(b"-") else ""
        word = arguments.atom()
        if word not in ("FLAGS", "FLAGS.SILENT"):
            raise Bad(f"unknown STORE item {word}")
        arguments.space()
        flags = settable(arguments.flags())
        arguments.end()
        for number, message in chosen:
            new = message.flags | flags if sign == "+" else message.flags - flags if sign == "-" else flags
            self.folder.set_flags(message, new)
            self.told[message.uid] = message.flags
            if word == "FLAGS":
                uid = b"UID %d " % message.uid if by_uid else b""
                self._say(b"* %d FETCH (%bFLAGS %b)" % (number, uid, self.flags(message)))
        return ""

    async def expunge(self, arguments: Arguments, by_uid: bool) -> str:
        self._must_be_writable()
        going: Iterable[StoredMessage] = self.folder.messages
        if by_uid:  # UIDPLUS, RFC 4315 section 2.1
            arguments.space()
            going = [message for _, message in self.chosen(arguments.set(), by_uid=True)]
        arguments.end()
        self.folder.remove([message for message in going if DELETED in message.flags])
        return ""

    async def copy(self, arguments: Arguments, by_uid: bool) -> str:
        code, _ = self._copied(arguments, by_uid)
        return f"OK {code}COPY completed"

    async def move(self, arguments: Arguments, by_uid: bool) -> str:
        """RFC 6851: COPYUID comes untagged, before the messages are told to be gone."""
        self._must_be_writable()
        code, originals = self._copied(arguments, by_uid)
        if originals:
            self._say(f"* OK {code}moved".encode())
            self.folder.remove(originals)
        return ""

    def _copied(self, arguments: Arguments, by_uid: bool) -> tuple[str, list[StoredMessage]]:
        """Copies a set into a folder; the COPYUID code (RFC 4315 section 3) and the originals."""
        arguments.space()
        ranges = arguments.set()
        arguments.space()
        name = arguments.mailbox()
        arguments.end()
        originals = [message for _, message in self.chosen(ranges, by_uid) if not message.expunged]
        target = self._folders.get(name)
        if target is None:
            raise No("[TRYCREATE] there is no such folder")
        copies = [target.add(message.raw, message.received, message.flags) for message in originals]
        if not copies:
            return "", []
        old, new = (",".join(str(message.uid) for message in group) for group in (originals, copies))
        return f"[COPYUID {target.uidvalidity} {old} {new}] ", originals

    def _must_be_writable(self) -> None:
        if self.read_only:
            raise No("[READ-ONLY] the folder was opened by EXAMINE")

    def _say(self, line: bytes) -> None:
        self._wire.write(line + b"\r\n")


SELECTED: dict[str, Callable[[View, Arguments, bool], Awaitable[str]]] = {
    "SEARCH": View.search,
    "FETCH": View.fetch,
    "STORE": View.store,
    "COPY": View.copy,
    "MOVE": View.move,
    "EXPUNGE": View.expunge,
}
"""Commands of an open folder; each of them may also be asked for by UID."""
