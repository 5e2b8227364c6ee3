"""From an SMTP reply to what happens next (RFC 5321 section 4.2, RFC 3463, RFC 4954 section 6)."""

from __future__ import annotations

import re
from typing import NamedTuple

from email_router.model.errors import NeedsOperator, RouterError, Transient
from email_router.model.outgoing import RecipientResult, RecipientState

_ENHANCED = re.compile(r"^([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
_GREYLIST = re.compile(r"gr[ea]y.?list", re.IGNORECASE)

LOGIN_CODES = frozenset((454, 530, 534, 535, 538))
"""Replies that speak of the login, whatever they answer."""


class Reply(NamedTuple):
    """A whole reply. `text` is all lines joined, without codes; `status` the enhanced code of the last line or ""."""

    code: int
    status: str
    text: str

    @property
    def ok(self) -> bool:
        return 200 <= self.code < 300

    @property
    def said(self) -> str:
        """The server's own words, as it wrote them."""
        return " ".join(part for part in (str(self.code), self.status, self.text) if part)


def reply_of(code: int, lines: list[str]) -> Reply:
    """Put a reply's lines together; the enhanced code stands in front of each line (RFC 2034)."""
    status = ""
    words: list[str] = []
    for line in lines:
        found = _ENHANCED.match(line)
        if found is not None:
            status, line = found.group(1), line[found.end() :]
        if line.strip():
            words.append(line.strip())
    return Reply(code, status, " ".join(words))


def result(address: str, reply: Reply) -> RecipientResult:
    """What a reply to RCPT, or to the whole message, means for one recipient."""
    if reply.ok:
        state = RecipientState.ACCEPTED
    elif 400 <= reply.code < 500:
        state = RecipientState.DEFERRED
    else:
        state = RecipientState.REFUSED
    said = reply.said
    if state is RecipientState.DEFERRED and _GREYLIST.search(reply.text):
        said += " (greylisted: the server wants a second attempt)"
    return RecipientResult(address, state, reply.code, reply.status, said)


def refused(reply: Reply, doing: str, where: str) -> RouterError:
    """A refusal that is about the connection or the login, not about a message: nothing was handed over."""
    if reply.code == 454 and doing == "STARTTLS":
        return Transient("the server cannot start TLS now", where=where, said=reply.said, scope="profile")
    if reply.code == 454:
        return Transient("the server cannot check logins now", where=where, said=reply.said, scope="profile")
    if reply.code in (530, 538):
        return NeedsOperator(
            "the server wants a login or an encrypted connection first",
            where=where,
            said=reply.said,
            cure="give the profile user name and password, and set TLS to starttls or implicit",
            scope="profile",
        )
    if reply.code in (534, 535) or doing == "log in":
        if 400 <= reply.code < 500:
            return Transient("the server cannot check logins now", where=where, said=reply.said, scope="profile")
        return NeedsOperator(
            "the server does not accept this user name and password",
            where=where,
            said=reply.said,
            cure="correct the user name or the password of the outgoing profile",
            scope="profile",
        )
    if 400 <= reply.code < 500:
        return Transient(
            f"the server is busy ({doing})",
            where=where,
            said=reply.said,
            cure="nothing; it is tried again",
            scope="profile",
        )
    return NeedsOperator(
        f"the server refuses us ({doing})",
        where=where,
        said=reply.said,
        cure="allow this machine to send through the server, or correct host, port and TLS mode",
        scope="profile",
    )
