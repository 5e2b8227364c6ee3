"""A person's mail program, over the wire: it sends with smtplib and reads with imaplib, and never looks inside.

What may fail: what these libraries raise when a server is away or refuses; nothing is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import smtplib
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from email_router.demo.mailsystem.accounts import Accounts, Mailbox
from email_router.demo.mailsystem.listener import HOST, Listener

SECONDS = 30.0
"""How long one answer of a server may take."""


class MailClient:
    """The mail program of everybody who has a mailbox: the address says who uses it."""

    def __init__(self, accounts: Accounts, smtp: Listener, imap: Listener, ca_file: Path) -> None:
        self._accounts = accounts
        self._smtp = smtp
        self._imap = imap
        self._tls = ssl.create_default_context(cafile=str(ca_file))

    async def send(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Send as `sender`, logged in under TLS. Raises smtplib.SMTPException, OSError."""
        await asyncio.to_thread(self._send, self._mailbox(sender), recipients, message)

    async def read(self, address: str) -> list[bytes]:
        """The messages in the inbox, oldest first, unchanged. Raises imaplib.IMAP4.error, OSError."""
        return await asyncio.to_thread(self._read, self._mailbox(address))

    async def wait_for(self, address: str, wanted: Callable[[bytes], bool], within: float = SECONDS) -> bytes:
        """The first message that is `wanted`, as soon as it is there. Raises TimeoutError after `within` seconds."""
        mailbox = self._mailbox(address)
        async with asyncio.timeout(within):
            read = 0
            while True:
                await mailbox.wait_until(partial(_more_than, mailbox, read), within)
                messages = await self.read(address)
                for message in messages[read:]:
                    if wanted(message):
                        return message
                read = len(messages)

    def _mailbox(self, address: str) -> Mailbox:
        mailbox = self._accounts.find(address)
        if mailbox is None:
            raise ValueError(f"{address} has no mailbox here")
        return mailbox

    def _send(self, mailbox: Mailbox, recipients: Sequence[str], message: bytes) -> None:
        with smtplib.SMTP(HOST, self._smtp.port, local_hostname="localhost", timeout=SECONDS) as smtp:
            smtp.starttls(context=self._tls)
            smtp.login(mailbox.address, mailbox.user.password)
            options = ["BODY=8BITMIME"] if not message.isascii() else []
            if not (mailbox.address + "".join(recipients)).isascii():
                options.append("SMTPUTF8")
            refused = smtp.sendmail(mailbox.address, list(recipients), message, mail_options=options)
            if refused:
                raise smtplib.SMTPRecipientsRefused(refused)

    def _read(self, mailbox: Mailbox) -> list[bytes]:
        imap = imaplib.IMAP4(HOST, self._imap.port, timeout=SECONDS)
        try:
            imap.starttls(ssl_context=self._tls)
            secret = f"\0{mailbox.address}\0{mailbox.user.password}".encode()
            imap.authenticate("PLAIN", lambda _: secret)  # login() takes ASCII only
            imap.select("INBOX", readonly=True)
            _, answer = imap.uid("FETCH", "1:*", "(BODY.PEEK[])")
            return [part[1] for part in answer if isinstance(part, tuple)]
        finally:
            with contextlib.suppress(OSError, imaplib.IMAP4.error):
                imap.logout()


def _more_than(mailbox: Mailbox, messages: int) -> bool:
    return len(mailbox.messages) > messages
