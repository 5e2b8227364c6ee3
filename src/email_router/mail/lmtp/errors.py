"""The two tables of LMTP: from what became of a message to the reply, and from why we cannot listen to our errors.

A peer is told to come again (4xx) for whatever is not decided: it keeps the message then, and nothing is lost. The
words of the other side (a database, a CRM) stay in our own log.
"""

from __future__ import annotations

import errno
import ssl

from email_router.model.errors import Fenced, NeedsOperator, RouterError, said_by

LONGEST = 200
LOOK_AGAIN = 30.0
"""Seconds until it is tried again to listen: that locks no account."""

_LATER = {NeedsOperator: "4.3.5", Fenced: "4.3.2"}
"""Enhanced codes (RFC 3463): not correctly configured; not accepting messages. Everything else is 4.3.0."""
_CURES = {
    errno.EADDRINUSE: ("the address is taken", "end the program that listens there, or choose another port"),
    errno.EACCES: ("listening there is not permitted", "choose a port above 1023, or give this user the right"),
    errno.EADDRNOTAVAIL: (
        "this machine has no such address",
        'choose one that every machine with a router has ("127.0.0.1", "0.0.0.0"), or correct it',
    ),
}


def reply(answer: str | RouterError) -> str:
    """The reply for one recipient after the final dot."""
    if isinstance(answer, str):
        return f"250 2.0.0 {_plain(answer)}"
    return f"451 {_LATER.get(type(answer), '4.3.0')} {_plain(answer.what)}"


def cannot_listen(error: Exception, where: str) -> NeedsOperator:
    """Why it cannot be listened at `where`, and the cure."""
    number = error.errno if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
    what, cure = _CURES.get(number or 0, ("it cannot be listened there", "correct host, port or socket of the profile"))
    return _needs(what, error, where, cure)


def no_certificate(error: Exception, where: str) -> NeedsOperator:
    cure = "both must be readable by the router, in PEM form, and belong together"
    return _needs("the certificate and its key cannot be used", error, where, cure)


def _needs(what: str, error: Exception, where: str, cure: str) -> NeedsOperator:
    return NeedsOperator(what, where=where, said=said_by(error), cure=cure, scope="profile", retry_after=LOOK_AGAIN)


def _plain(words: str) -> str:
    """One line of ASCII for the peer."""
    return " ".join(words.encode("ascii", "replace").decode().split())[:LONGEST]
