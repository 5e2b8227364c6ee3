"""What is to be judged: a message as it came, or the originals that a forward mailbox's message carries.

In a forward mailbox rules of many users put mail *as attachment*. The attached message becomes the message, and its
true mailbox is the forwarder's: only when he is a user or queue with access method Forward Mailbox and his mail is
proved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from email_router.mime.forwarded import originals
from email_router.mime.parse import parse
from email_router.model.filing import IncomingEmail
from email_router.model.mailbox import MailboxKind, Receiver
from email_router.model.message import Content, ParsedEmail, RawMessage
from email_router.model.receipt import Outcome, Receipt
from email_router.model.settings import MailboxSettings
from email_router.ports.crm import Directory
from email_router.tracking import forwarder

INVALID = "InvalidForwardMailItem"
PARSE_ASIDE = 256 * 1024
"""Bytes from which a message is parsed in a thread of its own."""
_ASIDE = ThreadPoolExecutor(2, "parse")
"""Not the loop's own threads: in those wait all who ask a name server that does not answer."""
NAMED = 32
DEEPEST = 100
"""How far a chain of answers within one batch is followed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A message of the mailbox with the receipt of one deployment."""

    receipt: Receipt
    raw: RawMessage
    email: ParsedEmail


@dataclass(frozen=True, slots=True)
class Letter:
    """One message to be judged. `why` tells how it was unwrapped."""

    seen: Seen
    incoming: IncomingEmail
    raw: Content
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A forward that is not believed, or carries nothing."""

    seen: Seen
    outcome: Outcome
    reason: str
    why: tuple[str, ...]


async def parsed(content: Content) -> ParsedEmail:
    """Parsing never raises on ugly mail; large messages do not hold up the others."""
    if content.size < PARSE_ASIDE:
        return parse(content)
    return await asyncio.get_running_loop().run_in_executor(_ASIDE, parse, content)


async def letters_of(
    mailbox: MailboxSettings, directory: Directory, seen: Sequence[Seen]
) -> tuple[list[Letter], list[Refused]]:
    """The letters to judge. Raises what the directory raises."""
    if mailbox.kind is not MailboxKind.FORWARD:
        return [Letter(s, IncomingEmail(s.email, s.raw.received, mailbox.address), s.raw.content) for s in seen], []
    receivers = await directory.receivers()
    letters: list[Letter] = []
    refused: list[Refused] = []
    for one in seen:
        found = await _unwrapped(mailbox, receivers, one)
        if isinstance(found, Refused):
            refused.append(found)
        else:
            letters.extend(found)
    return letters, refused


def in_order(letters: Sequence[Letter]) -> list[Letter]:
    """Oldest first, but a message that is named by another one before that one: both may have come at once."""
    oldest = sorted(letters, key=lambda letter: letter.incoming.received)
    by_id = {letter.incoming.email.message_id: letter for letter in oldest if letter.incoming.email.message_id}
    ordered: dict[int, Letter] = {}

    def place(letter: Letter, waiting: frozenset[int]) -> None:
        if id(letter) in ordered or id(letter) in waiting:  # two that name each other: as they came
            return
        email = letter.incoming.email
        for named in (*email.references[-NAMED:], *email.in_reply_to[:NAMED]):
            parent = by_id.get(named)
            if parent is not None and len(waiting) < DEEPEST:
                place(parent, waiting | {id(letter)})
        ordered.setdefault(id(letter), letter)

    for letter in oldest:
        place(letter, frozenset())
    return list(ordered.values())


async def _unwrapped(mailbox: MailboxSettings, receivers: Sequence[Receiver], seen: Seen) -> list[Letter] | Refused:
    parts = originals(seen.email)
    if not parts:
        return _invalid(seen, "it carries no attached message; the rule must forward as attachment")
    proof = forwarder.proved(seen.email, mailbox.trusted_authserv_id, mailbox.trusted_forwarder_hosts)
    if not proof.ok:
        return _invalid(seen, proof.why)
    receiver = forwarder.forwarded_by(seen.email, receivers)
    if isinstance(receiver, str):
        return _invalid(seen, receiver)
    why = (f"Forwarded by {receiver.address} ({proof.why}); the attached message is judged in its place.",)
    return [
        Letter(seen, IncomingEmail(await parsed(p.content), seen.raw.received, receiver.address), p.content, why)
        for p in parts
    ]


def _invalid(seen: Seen, words: str) -> Refused:
    return Refused(seen, Outcome.NOT_TRACKED, INVALID, (f"Not tracked: {words}.",))
