"""Who has a mailbox here, and who may send as whom."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from email_router.demo.mailsystem.folder import Folder, StoredMessage

INBOX = "INBOX"


@dataclass(frozen=True, slots=True)
class User:
    """A person or a shared mailbox. The address is the login name.

    `sends_as_all`: may send with any sender address of this system, as a service account of a router does.
    """

    address: str
    password: str
    sends_as_all: bool = False


class Mailbox:
    """The folders of one address. `pop3_lock` is held by the one POP3 session that a mailbox may have (RFC 1939 §3)."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.pop3_lock = False
        self._validity = itertools.count(int(time.time()))
        self.folders: dict[str, Folder] = {}
        self.inbox = self.create(INBOX)

    @property
    def address(self) -> str:
        return self.user.address

    @property
    def messages(self) -> Sequence[StoredMessage]:
        """What lies in the inbox, oldest first."""
        return tuple(self.inbox.messages)

    def create(self, name: str) -> Folder:
        folder = self.folders[name] = Folder(name, next(self._validity))
        return folder

    def delete(self, name: str) -> None:
        folder = self.folders.pop(name)
        folder.remove(folder.messages)

    async def wait_until(self, true: Callable[[], bool], within: float) -> None:
        """Return as soon as `true()` after a change of the inbox. Raises TimeoutError after `within` seconds."""
        changed = asyncio.Event()
        self.inbox.watchers.add(changed.set)
        try:
            async with asyncio.timeout(within):
                while not true():
                    await changed.wait()
                    changed.clear()
        finally:
            self.inbox.watchers.discard(changed.set)


class Accounts:
    """All mailboxes of the domains served here. Raises ValueError for a user outside of them or named twice."""

    def __init__(self, domains: Iterable[str], users: Iterable[User]) -> None:
        self.domains = tuple(dict.fromkeys(domain.casefold() for domain in domains))
        self._mailboxes: dict[str, Mailbox] = {}
        for user in users:
            if not self.serves(user.address):
                raise ValueError(f"{user.address} is in none of the domains {', '.join(self.domains)}")
            if self.find(user.address):
                raise ValueError(f"{user.address} is named twice")
            self._mailboxes[user.address.casefold()] = Mailbox(user)

    def serves(self, address: str) -> bool:
        return address.casefold().rpartition("@")[2] in self.domains

    def find(self, address: str) -> Mailbox | None:
        return self._mailboxes.get(address.casefold())

    def login(self, username: str, password: str) -> Mailbox | None:
        """The mailbox, or None when name or password is wrong: which of both, nobody is told."""
        mailbox = self.find(username)
        expected = mailbox.user.password if mailbox else ""
        right = hmac.compare_digest(expected.encode(), password.encode())
        return mailbox if mailbox and right else None
