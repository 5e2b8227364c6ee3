"""A small, strict mail system in one process: IMAP, POP3 and SMTP on loopback ports, mailboxes in memory.

It is an independent peer of the router: it shares no code with `email_router.mail`, so that what passes between the two
is the protocols and nothing else.
"""

from email_router.demo.mailsystem.accounts import Mailbox, User
from email_router.demo.mailsystem.client import MailClient
from email_router.demo.mailsystem.folder import Folder, StoredMessage
from email_router.demo.mailsystem.system import MailSystem

__all__ = ["Folder", "MailClient", "MailSystem", "Mailbox", "StoredMessage", "User"]
