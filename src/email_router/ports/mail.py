"""Email systems: receiving, sending, being told of news, being tested.

A connector folder offers exactly one public name, `CONNECTOR`, of type `Connector`. Its constructors return async
context managers: entering connects lazily (the first call that needs the server connects), leaving closes.
Every failure that crosses this port is one of `model.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from email_router.model.errors import RouterError
from email_router.model.mailbox import SourceAction
from email_router.model.message import Content, DeliveryKey, RawMessage
from email_router.model.outgoing import Envelope, RecipientResult

Cursor = str
"""Opaque, per mailbox and folder; only the source that made it can read it. "" before the first receive."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and a way to get its secret (a password, or for XOAUTH2 a bearer token) when it is needed."""

    username: str
    secret: Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds of one batch. At least one message is returned however large it is."""

    count: int = 100
    bytes: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """What one `receive` brought, oldest first.

    `cursor` covers exactly `items` and what came before them. `more` says that another `receive` would bring mail at
    once. `older` counts messages passed over because they were received before the threshold. `unreadable` are
    messages the server would not give, with what it said: they are receipts too.
    """

    items: tuple[RawMessage, ...]
    cursor: Cursor
    more: bool = False
    older: int = 0
    unreadable: tuple[tuple[DeliveryKey, str], ...] = ()
    passed: tuple[DeliveryKey, ...] = ()
    """Messages passed over as too old that a source without a watermark (POP3) must be able to recognise again."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Storage of a mailbox in bytes; `quota` 0 when the server names none."""

    messages: int
    bytes: int
    quota: int = 0


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """One step of Test Access: what was tried, whether it worked, what the server said, and the cure."""

    name: str
    ok: bool
    tried: str
    said: str = ""
    cure: str = ""


class Source(Protocol):
    """A mailbox folder to receive from."""

    async def receive(self, cursor: Cursor, limit: Limit) -> Batch:
        """The next messages after `cursor`, oldest first, without changing anything in the mailbox.

        Contents above 1 MB are spooled to disk. Raises Transient when the server is away, NeedsOperator when it
        refuses the login, the certificate or the folder.
        """
        ...

    async def fetch(self, keys: Sequence[DeliveryKey]) -> Sequence[RawMessage]:
        """These messages again, by delivery key. Those that are gone are left out; order is that of `keys`."""
        ...

    async def acknowledge(self, keys: Sequence[DeliveryKey], action: SourceAction, move_to: str = "") -> None:
        """Do `action` to these messages. Messages that are gone are fine. Idempotent. LEAVE changes nothing."""
        ...

    async def usage(self) -> Usage:
        """How full the mailbox is."""
        ...


class Notifier(Protocol):
    """Tells when it is worth calling `receive`."""

    async def changed(self, within: float) -> bool:
        """True as soon as there may be news, False after `within` seconds without any.

        Sources without push do not implement this; the clock is used.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pushed:
    """A message that a peer hands to us. `item` names its content: pushed again, the same message has the same one.

    `content` is discarded by the listener once all answers were given.
    """

    item: str
    content: Content
    received: datetime


Push = Callable[[Pushed, Sequence[str]], AsyncGenerator[str | RouterError, None]]
"""One answer for each of these mailboxes, in their order, each as soon as it is known: what became of the message, in
words for the peer, once the outcome is durable; or the error because of which nothing is decided yet, so that the peer
has to come again. Never raises.
"""


@dataclass(frozen=True, slots=True)
class ListenerContext:
    """Whom a listener takes mail for, and where it goes. Mail for `paused` mailboxes is put off, not refused."""

    mailboxes: Collection[str]
    paused: Collection[str]
    push: Push
    spool: Callable[[], Any]
    """Makes a `net.spool.Spool`: `write(bytes)` then `finish() -> Content`."""


class Listener(Protocol):
    """A server of ours that mail is pushed to.

    It listens while its context is entered; entering raises NeedsOperator when it cannot. Leaving lets the messages
    that are being handed over get their answers, tells everybody else to come again, and closes.
    """

    @property
    def where(self) -> str:
        """The address that is listened on, for people."""
        ...


class Sender(Protocol):
    """A way out. One object may be used by one task at a time; a profile opens several."""

    async def send(
        self, content: Content, envelope: Envelope, handing_over: Callable[[], Awaitable[None]]
    ) -> Sequence[RecipientResult]:
        """Send one message; one result per recipient of the envelope.

        `handing_over` is awaited once, after the server took sender, at least one recipient and all of the content,
        and before the final dot goes out. If it raises, the message is not handed over and the error passes through.
        Raises Transient or NeedsOperator when nothing was handed over (nobody got it: sending again is safe).
        Raises `Uncertain` when the connection was lost after the final dot went out and before its answer came.
        """
        ...


class Uncertain(Exception):
    """Handed over, but the answer was never seen. Not a RouterError: only the outgoing flow may settle it."""


class Probe(Protocol):
    """Test Access of one mailbox in one direction."""

    def probe(self) -> AsyncIterator[ProbeStep]:
        """Steps as they come: resolve, connect, TLS, log in, list… Stops after the first that failed. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source needs besides its settings: whose mailbox, where, since when, and a spool for large messages."""

    mailbox: str
    folder: str
    login: Login
    since: datetime | None
    spool: Callable[[], Any]
    """Makes a `net.spool.Spool`: `write(bytes)` then `finish() -> Content`."""
    known: Callable[[Sequence[str]], Awaitable[Collection[str]]] | None = None
    """Which of these item ids have receipts: the memory of sources whose cursor is no watermark (POP3, Maildir)."""


@dataclass(frozen=True, slots=True)
class Objection:
    """What is wrong with one setting of a profile, and the cure. A warning does not stop a publication."""

    key: str
    what: str
    cure: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Connector:
    """An email system. Absent constructors mean that the system cannot do that."""

    name: str
    title: str
    settings: type
    """Frozen dataclass of the profile's settings; usually a subclass of `ServerSettings`."""
    source: Callable[[Any, SourceContext], AbstractAsyncContextManager[Source]] | None = None
    sender: Callable[[Any, Login], AbstractAsyncContextManager[Sender]] | None = None
    listener: Callable[[Any, ListenerContext], AbstractAsyncContextManager[Listener]] | None = None
    probe_source: Callable[[Any, SourceContext], Probe] | None = None
    probe_sender: Callable[[Any, Login], Probe] | None = None
    capabilities: frozenset[str] = frozenset()
    """`push` (has a Notifier), `seen`, `move`, `delete`, `usage`, `whole_message`."""
    check: Callable[[Any, SourceAction], str] | None = None
    """Why these settings cannot work with that source action, or "" (run at publish)."""
    objections: Callable[[Any], Sequence[Objection]] | None = None
    """What is wrong with these settings by themselves (run at publish)."""
