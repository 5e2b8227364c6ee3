"""The whole mail system: certificate, mailboxes and three servers, started in milliseconds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from email_router.demo.mailsystem import certificates, imap, pop3, smtp
from email_router.demo.mailsystem.accounts import Accounts, Mailbox, User
from email_router.demo.mailsystem.client import MailClient
from email_router.demo.mailsystem.folder import StoredMessage
from email_router.demo.mailsystem.listener import HOST, Listener
from email_router.demo.mailsystem.wire import Wire

IMAP_PORTS, POP3_PORTS, SMTP_PORTS = 11430, 11100, 10250
"""Where the search for free ports begins."""


class MailSystem:
    """IMAP, POP3 and SMTP for `domains`, all with STARTTLS and without passwords in clear.

        users = [User("anna@contoso.example", "secret")]
        async with MailSystem(["contoso.example"], users, directory) as mail:
            print(mail.imap_port, mail.ca_file)

    Certificates go into `directory`, everything else lives in memory. Raises OSError when no port is free, and
    ValueError for users that fit none of the domains.
    """

    host = HOST

    def __init__(self, domains: Sequence[str], users: Iterable[User], directory: Path) -> None:
        self._accounts = Accounts(domains, users)
        names = [f"mail.{domain}" for domain in self._accounts.domains]
        self.ca_file, self._tls = certificates.make(directory, names)
        self._name = names[0]
        self._transactions = itertools.count(int(datetime.now(UTC).timestamp()))
        self._imap = Listener("IMAP", IMAP_PORTS, self._serve_imap)
        self._pop3 = Listener("POP3", POP3_PORTS, self._serve_pop3)
        self._smtp = Listener("SMTP", SMTP_PORTS, self._serve_smtp)
        self.client = MailClient(self._accounts, self._smtp, self._imap, self.ca_file)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for listener in (self._imap, self._pop3, self._smtp):
                await listener.start()
                stack.push_async_callback(listener.stop)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _serve_imap(self, wire: Wire) -> None:
        await imap.Session(wire, self._accounts, self._tls).run()

    async def _serve_pop3(self, wire: Wire) -> None:
        await pop3.Session(wire, self._accounts, self._tls).run()

    async def _serve_smtp(self, wire: Wire) -> None:
        await smtp.Session(wire, self._accounts, self._tls, self._name, self._transactions).run()

    # -- ports: known from the first start on, and kept

    @property
    def imap_port(self) -> int:
        return self._imap.port

    @property
    def pop3_port(self) -> int:
        return self._pop3.port

    @property
    def smtp_port(self) -> int:
        return self._smtp.port

    # -- mailboxes

    def mailbox(self, address: str) -> Mailbox:
        """Raises KeyError when nobody has this address."""
        mailbox = self._accounts.find(address)
        if mailbox is None:
            raise KeyError(address)
        return mailbox

    def deliver(self, address: str, message: bytes, received: datetime | None = None) -> StoredMessage:
        """Put a message into an inbox without SMTP: nothing is stamped. `received` is now unless given."""
        return self.mailbox(address).inbox.add(message, received or datetime.now(UTC))

    # -- a server that is down: connections are cut and refused until it is started again on the same port

    async def stop_imap(self) -> None:
        await self._imap.stop()

    async def start_imap(self) -> None:
        await self._imap.start()

    async def stop_pop3(self) -> None:
        await self._pop3.stop()

    async def start_pop3(self) -> None:
        await self._pop3.start()

    async def stop_smtp(self) -> None:
        await self._smtp.stop()

    async def start_smtp(self) -> None:
        await self._smtp.start()
