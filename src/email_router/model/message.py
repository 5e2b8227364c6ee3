"""A message on its way in: as bytes (`RawMessage`) and as understood (`ParsedEmail`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO, NamedTuple, Protocol


class Content(Protocol):
    """Bytes that may lie in memory or in a spool file. `open` may be called often, from any thread."""

    @property
    def size(self) -> int: ...

    def open(self) -> BinaryIO:
        """A fresh readable stream at the first byte. The caller closes it."""
        ...

    def discard(self) -> None:
        """Free the memory or the file. Afterwards `open` fails. Safe to call twice."""
        ...


class DeliveryKey(NamedTuple):
    """Where a message was found: names its receipt.

    `item` is the provider's id: `UIDVALIDITY:UID` for IMAP, the UIDL for POP3, an immutable id elsewhere.
    """

    mailbox: str
    folder: str
    item: str


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as received: a handle, not yet read. `received` is the server's time (INTERNALDATE), never Date."""

    key: DeliveryKey
    content: Content
    received: datetime


class Address(NamedTuple):
    """A mailbox address. `address` is `local@domain` with a lower-case A-label domain, or "" when there was none."""

    name: str
    address: str

    @property
    def key(self) -> str:
        """What two spellings of one address have in common: what records are found by."""
        return self.address.casefold()


class Header(NamedTuple):
    """One header field, decoded and without line folds."""

    name: str
    value: str


class Defect(NamedTuple):
    """Something wrong with a message that did not stop us. `code` is stable and short, `detail` is for people."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part that is not the body: an attachment, an inline image, or an attached message kept whole.

    `name` is safe as a file name on any system. `sha256` is of the decoded bytes. `inline` is true where the HTML
    body shows the part by `cid:`.
    """

    name: str
    content_type: str
    content: Content
    sha256: bytes
    content_id: str = ""
    inline: bool = False

    @property
    def size(self) -> int:
        return self.content.size


@dataclass(frozen=True, slots=True)
class ParsedEmail:
    """What a message says. Every field has a value whatever the bytes were; `defects` says what was repaired.

    Ids (`message_id`, `in_reply_to`, `references`) stand without angle brackets, "" for none; the right side of `@`
    is lower case. `from_` usually has one address. `identity` is `mime.identity` of the raw bytes.
    """

    identity: bytes
    message_id: str
    subject: str
    from_: tuple[Address, ...]
    sender: tuple[Address, ...]
    reply_to: tuple[Address, ...]
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    bcc: tuple[Address, ...]
    date: datetime | None
    in_reply_to: tuple[str, ...]
    references: tuple[str, ...]
    headers: tuple[Header, ...]
    text: str
    html: str
    attachments: tuple[Attachment, ...]
    size: int
    defects: tuple[Defect, ...] = field(default=())

    def header(self, name: str) -> str:
        """The first field of that name (any case), or ""."""
        wanted = name.casefold()
        return next((h.value for h in self.headers if h.name.casefold() == wanted), "")

    def all_headers(self, name: str) -> tuple[str, ...]:
        wanted = name.casefold()
        return tuple(h.value for h in self.headers if h.name.casefold() == wanted)

    @property
    def recipients(self) -> tuple[Address, ...]:
        return self.to + self.cc + self.bcc

    @property
    def author(self) -> Address | None:
        """Whom the message is from: the first of From that has an address."""
        return next((person for person in self.from_ if person.address), None)
