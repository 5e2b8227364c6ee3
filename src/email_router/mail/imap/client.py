"""IMAP4rev1 as one connection speaks it: log in, open a folder, look, read, change, wait. Knows no CRM.

Every method raises Transient (the connection is then of no use when `usable` is false) or NeedsOperator. One task at a
time. Nothing here changes a flag but `mark_seen`, `move` and `delete`; reading is always BODY.PEEK.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from imapclient import imap_utf7

from email_router.mail.imap import answers, errors
from email_router.mail.imap.answers import Garbled, Status, Token
from email_router.mail.imap.errors import Doing
from email_router.mail.imap.settings import ImapSettings
from email_router.mail.imap.transport import Literal, Response, Spools, Transport, encoded, spooled, string
from email_router.model.errors import NeedsOperator, Transient
from email_router.model.message import Content
from email_router.model.settings import AuthMechanism, TlsMode
from email_router.net import sasl
from email_router.net.connection import awaiting_the_greeting, connect
from email_router.ports.mail import Login


@dataclass(frozen=True, slots=True)
class Folder:
    """An opened folder. `uidnext` 0 when the server does not tell."""

    name: str
    uidvalidity: int
    uidnext: int
    writable: bool


@dataclass(frozen=True, slots=True)
class Meta:
    """What is asked before a message is read: its size in bytes and when the server received it."""

    size: int
    received: datetime


@dataclass(frozen=True, slots=True)
class Quota:
    used: int
    limit: int


class Client:
    """A connection to one mailbox. `connect`, `login`, `open`, then the rest."""

    def __init__(self, settings: ImapSettings, login: Login) -> None:
        self._settings = settings
        self._login = login
        self.where = f"{settings.host}:{settings.port or settings.default_port}, {login.username}"
        self.capabilities: frozenset[str] = frozenset()
        self.folder: Folder | None = None
        self.exists = 0
        self.news = False
        """The server told of new messages since this was last set to False."""
        self._transport: Transport | None = None
        self._preauthenticated = False
        self._codes: dict[str, str] = {}
        self._heard: list[Response] = []

    @property
    def usable(self) -> bool:
        return self._transport is not None and self._transport.usable

    @property
    def _wire(self) -> Transport:
        if self._transport is None:
            raise Transient("there is no connection", where=self.where, scope="mailbox")
        return self._transport

    @property
    def encryption(self) -> str:
        """TLS version and cipher of this connection, or "" in clear."""
        return self._transport.encryption if self._transport else ""

    # -- the way in

    async def connect(self) -> None:
        """Connection, greeting and TLS. A STARTTLS that is refused fails; nothing secret was said before."""
        connection = await connect(self._settings, self._settings.default_port)
        self._transport = Transport(
            connection, self._settings.timeout, self.where, self._settings.maximum_message_bytes * 2
        )
        self._transport.on_untagged = self._hear
        with awaiting_the_greeting(self._settings):
            greeting = await self._transport.greeting()
        if greeting.word == "BYE":
            raise errors.refused(greeting, Doing.CONNECT, self.where)
        self._preauthenticated = greeting.word == "PREAUTH"
        self._learn(greeting)
        if self._settings.tls is TlsMode.STARTTLS:
            await self._start_tls()
        if not self.capabilities:
            await self._ask_capabilities()

    async def _start_tls(self) -> None:
        if self._preauthenticated:  # STARTTLS is not allowed any more: somebody in between may have said PREAUTH
            raise NeedsOperator(
                "the server skips the login, so that TLS cannot be started",
                where=self.where,
                cure="set TLS to implicit (port 993)",
                scope="profile",
            )
        await self._do(Doing.TLS, (b"STARTTLS",))
        await self._wire.start_tls()
        self.capabilities = frozenset()  # what was said in clear is not believed (RFC 3501 section 6.2.1)

    async def login(self) -> None:
        """Log in with the best mechanism offered; afterwards the capabilities are known anew."""
        if self._preauthenticated:
            return
        before = self.capabilities
        self.capabilities = frozenset()
        secret = await self._login.secret()
        if "\0" in self._login.username + secret:
            raise NeedsOperator(
                "the user name or the password contains a NUL character", where=self.where, cure="enter it again"
            )
        with sasl.never_told(self._login.username, secret):
            await self._authenticate(before, secret)
        if not self.capabilities:
            await self._ask_capabilities()
        self._wire.literal_plus = "LITERAL+" in self.capabilities
        if "ID" in self.capabilities:  # NetEase refuses to open a folder for clients without a name (RFC 2971)
            await self._wire.run((b"ID", b'("name" "Email Router")'))

    async def _authenticate(self, offered: frozenset[str], secret: str) -> None:
        mechanisms = {name[5:] for name in offered if name.startswith("AUTH=")}
        if "LOGINDISABLED" not in offered:
            mechanisms.add("LOGIN")
        if self._settings.auth is AuthMechanism.NONE:
            raise NeedsOperator(
                "IMAP needs a login", where=self.where, cure="choose a login mechanism", scope="profile"
            )
        mechanism = sasl.choose(mechanisms, self._settings.auth, self._settings.tls is not TlsMode.NONE)
        user = self._login.username
        if mechanism == "LOGIN" and "LOGINDISABLED" not in offered:
            await self._do(Doing.LOGIN, (b"LOGIN", string(user), string(secret)))
            return
        if mechanism == "LOGIN":
            replies = [encoded(user.encode()), encoded(secret.encode())]
            await self._do(Doing.LOGIN, (b"AUTHENTICATE", b"LOGIN"), replies=replies)
            return
        first = encoded(sasl.initial_response(mechanism, user, secret))
        if "SASL-IR" in offered:
            await self._do(Doing.LOGIN, (b"AUTHENTICATE", mechanism.encode(), first))
        else:
            await self._do(Doing.LOGIN, (b"AUTHENTICATE", mechanism.encode()), replies=[first])

    async def _ask_capabilities(self) -> None:
        await self._do(Doing.CONNECT, (b"CAPABILITY",))

    async def open(self, name: str, *, writable: bool) -> Folder:
        """Select a folder; read-only (EXAMINE) unless `writable`."""
        self.folder = None
        self._codes.clear()
        [status] = await self._do(Doing.OPEN, (b"SELECT" if writable else b"EXAMINE", folder_argument(name)))
        uidvalidity = self._codes.get("UIDVALIDITY", "")
        if not _is_number(uidvalidity):
            raise NeedsOperator(
                "the server has no lasting message numbers (UIDVALIDITY) for this folder",
                where=self.where,
                cure="choose another folder, or read this mailbox by POP3",
            )
        uidnext = self._codes.get("UIDNEXT", "")
        self.folder = Folder(
            name, int(uidvalidity), int(uidnext) if _is_number(uidnext) else 0, status.code != "READ-ONLY"
        )
        self.news = True
        return self.folder

    # -- looking and reading

    async def search(self, criteria: bytes) -> list[int]:
        """UIDs, ascending, after the server looked for news: a quiet session else searches what it knew before.

        NOOP and SEARCH go one after the other: in one go Dovecot searches first and looks afterwards.
        """
        self._heard.clear()
        await self._do(Doing.READ, (b"NOOP",))
        await self._do(Doing.READ, (b"UID SEARCH", criteria))
        lines = [heard.text for heard in self._heard if heard.text[:6].upper() == b"SEARCH"]
        self._heard.clear()
        return sorted({int(found[0]) for line in lines for found in _UID.finditer(line)})

    async def metas(self, uids: Sequence[int], into: dict[int, Meta]) -> str:
        """Sizes and times of these messages; returns what the server said if it would not tell all."""

        def take(uid: int, items: dict[bytes, Token]) -> None:
            if b"RFC822.SIZE" in items and b"INTERNALDATE" in items:
                received = answers.internal_date(items[b"INTERNALDATE"])
                into[uid] = Meta(answers.number(items[b"RFC822.SIZE"]), received)

        return await self._fetch(uids, b"(UID INTERNALDATE RFC822.SIZE)", take, 200 * len(uids), None)

    async def bodies(self, uids: Sequence[int], into: dict[int, Content], expect: int, spools: Spools) -> str:
        """These messages whole, into `into` as they arrive; `expect` bytes in all. Returns as `metas`."""

        def take(uid: int, items: dict[bytes, Token]) -> None:
            body = items.get(b"BODY[]")
            if isinstance(body, bytes):  # a short message may come as a quoted string
                into[uid] = spooled(body, spools)
            elif body is not None and not isinstance(body, list):
                into[uid] = body

        return await self._fetch(uids, b"(UID BODY.PEEK[])", take, expect, spools)

    async def _fetch(
        self,
        uids: Sequence[int],
        items: bytes,
        take: Callable[[int, dict[bytes, Token]], None],
        expect: int,
        spools: Spools | None,
    ) -> str:
        wanted = frozenset(uids)
        said: list[str] = []

        def hear(response: Response) -> None:
            if not _is_fetch(response.text):
                self._hear(response)
                return
            try:
                answer = answers.tokens(response.parts)
                found = answers.pairs(answer[2] if len(answer) == 3 else None)
                uid = answers.number(found[b"UID"]) if b"UID" in found else 0
                if uid in wanted:
                    take(uid, found)
            except Garbled as error:
                said.append(f"an answer that is no IMAP: {error}")

        wire = self._wire
        wire.on_untagged = hear
        try:
            commands = [(b"UID FETCH", uid_set, items) for uid_set in answers.uid_sets(uids)]
            statuses = await wire.run(*commands, expect=expect, spools=spools)
        finally:
            wire.on_untagged = self._hear
        for status in statuses:
            if status.word != "OK":
                if not errors.is_about_messages(status):
                    raise errors.refused(status, Doing.READ, self.where)
                said.append(status.said)
        return said[0] if said else ""

    async def idle(self, within: float, started: Callable[[asyncio.Timeout], None]) -> None:
        """Wait for `news` or `within` seconds by IDLE; ends early when the timer given to `started` does."""
        self._heard.clear()
        status = await self._wire.idle(within, lambda: self.news, started)
        self._check(status, Doing.READ)

    async def noop(self) -> None:
        await self._do(Doing.READ, (b"NOOP",))

    async def quota(self) -> Quota | None:
        """The account's storage in bytes (RFC 2087, units of 1,024), or None when the server has none for it."""
        if "QUOTA" not in self.capabilities or self.folder is None:
            return None
        self._heard.clear()
        [status] = await self._wire.run((b"GETQUOTAROOT", folder_argument(self.folder.name)))
        if status.word != "OK":
            return None
        for response in self._heard:
            try:
                answer = answers.tokens(response.parts)
                if answer[0] != b"QUOTA" or len(answer) != 3 or not isinstance(answer[2], list):
                    continue
                resources = [r.upper() if isinstance(r, bytes) else r for r in answer[2]]
                at = resources.index(b"STORAGE")
                return Quota(answers.number(resources[at + 1]) * 1024, answers.number(resources[at + 2]) * 1024)
            except (Garbled, ValueError, IndexError):
                continue
        return None

    async def folder_bytes(self) -> int:
        """Bytes of the opened folder: by STATUS (RFC 8438) where offered, else by adding up."""
        if self.folder is None or not self.exists:
            return 0
        if "STATUS=SIZE" in self.capabilities:
            self._heard.clear()
            await self._do(Doing.READ, (b"STATUS", folder_argument(self.folder.name), b"(SIZE)"))
            for response in self._heard:
                try:
                    return answers.number(answers.pairs(answers.tokens(response.parts)[2])[b"SIZE"])
                except (Garbled, KeyError, IndexError):
                    continue
        uids = await self.search(b"ALL")
        metas: dict[int, Meta] = {}
        await self.metas(uids, metas)
        return sum(meta.size for meta in metas.values())

    # -- changing

    async def mark_seen(self, uids: Sequence[int]) -> None:
        for uid_set in answers.uid_sets(uids):
            await self._store(uid_set, b"(\\Seen)")

    async def delete(self, uids: Sequence[int]) -> None:
        """Mark deleted and expunge exactly these. Without UIDPLUS (RFC 4315) they stay marked: a plain EXPUNGE would
        take away what somebody else marked.
        """
        for uid_set in answers.uid_sets(uids):
            await self._delete(uid_set)

    async def _delete(self, uid_set: bytes) -> None:
        await self._store(uid_set, b"(\\Deleted)")
        if "UIDPLUS" in self.capabilities:
            await self._do(Doing.CHANGE, (b"UID EXPUNGE", uid_set))

    async def move(self, uids: Sequence[int], target: str) -> None:
        """Move to a folder, which is made when it does not exist: MOVE (RFC 6851), else copy, then delete.

        What is marked deleted already was copied before the connection was lost: it is not copied twice.
        """
        verb = b"UID MOVE" if "MOVE" in self.capabilities else b"UID COPY"
        for uid_set in answers.uid_sets(uids):
            there = set(uids).intersection(await self.search(b"UID " + uid_set + b" UNDELETED"))
            for left in answers.uid_sets(sorted(there)):  # never more than was asked for, whatever the answer
                await self._into(verb, left, target)
            if verb == b"UID COPY":
                await self._delete(uid_set)

    async def _into(self, verb: bytes, uid_set: bytes, target: str) -> None:
        command = (verb, uid_set, folder_argument(target))
        [status] = await self._wire.run(command)
        if status.code in ("TRYCREATE", "NONEXISTENT"):
            await self._do(Doing.CHANGE, (b"CREATE", folder_argument(target)))
            [status] = await self._wire.run(command)
        self._check(status, Doing.CHANGE)

    async def _store(self, uid_set: bytes, flags: bytes) -> None:
        await self._do(Doing.CHANGE, (b"UID STORE", uid_set, b"+FLAGS.SILENT", flags))

    async def close(self) -> None:
        """Close without ceremony; LOGOUT only when the server is listening."""
        wire, self._transport = self._transport, None
        if wire is None:
            return
        try:
            if wire.usable:
                async with asyncio.timeout(2):
                    await wire.run((b"LOGOUT",))
        except (Transient, TimeoutError):
            pass
        finally:
            await wire.close()

    # -- hearing

    async def _do(
        self, doing: Doing, *commands: Sequence[bytes | Literal], replies: Sequence[bytes] = ()
    ) -> list[Status]:
        statuses = await self._wire.run(*commands, replies=replies)
        for status in statuses:
            self._check(status, doing)
        return statuses

    def _check(self, status: Status, doing: Doing) -> None:
        self._learn(status)
        if status.word != "OK":
            raise errors.refused(status, doing, self.where)

    def _hear(self, response: Response) -> None:
        """What the server says at any time (RFC 3501 section 7)."""
        text = response.text
        status = answers.status(text)
        if status is not None:
            self._learn(status)
            return
        first, _, rest = text.partition(b" ")
        if first.isdigit() and len(first) < 12:
            count = int(first)
            if rest.upper() == b"EXISTS":
                self.news = self.news or count > self.exists
                self.exists = count
            elif rest.upper() == b"EXPUNGE":
                self.exists = max(self.exists - 1, 0)
        elif first.upper() == b"CAPABILITY":
            self._know(rest.decode("ascii", "replace"))
        elif first.upper() in _KEPT:
            self._heard.append(response)

    def _learn(self, status: Status) -> None:
        if status.code == "CAPABILITY":
            self._know(status.argument)
        elif status.code:
            self._codes[status.code] = status.argument

    def _know(self, capabilities: str) -> None:
        self.capabilities = frozenset(capabilities.upper().split())


_UID = re.compile(rb"(?<![^ ])[0-9]{1,11}(?![^ ])")
"""One by one: a list of all words of an answer of 64 MB would need gigabytes."""
_KEPT = frozenset({b"SEARCH", b"QUOTA", b"STATUS"})


def _is_number(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) < 20


def _is_fetch(text: bytes) -> bool:
    number, _, rest = text.partition(b" ")
    return number.isdigit() and rest[:6].upper() == b"FETCH "


def folder_argument(name: str) -> bytes | Literal:
    """A folder name in modified UTF-7 (RFC 3501 section 5.1.3), quoted; INBOX in any case is INBOX."""
    encoded_name = "INBOX" if name.upper() == "INBOX" else imap_utf7.encode(name).decode("ascii")
    return string(encoded_name)
