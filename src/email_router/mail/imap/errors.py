"""From what an IMAP server says to what happens next: one table of response codes, one of phrases.

A NO without a code says little, so the command that was refused decides (`Doing`). Back-off phrases come first:
a server that is busy must never look like a wrong password (that would pause the mailbox until somebody acts).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from email_router.mail.imap.answers import Status
from email_router.model.errors import NeedsOperator, RouterError, Scope, Transient


class Doing(StrEnum):
    """What was asked when the server refused."""

    CONNECT = "greeting"
    TLS = "STARTTLS"
    LOGIN = "login"
    OPEN = "opening the folder"
    READ = "reading"
    CHANGE = "changing messages"


class Rule(NamedTuple):
    """What a response code means. `wait` in seconds, for those that are tried again."""

    operator: bool
    what: str
    cure: str = ""
    scope: Scope = "mailbox"
    wait: float | None = None


_NONE = None
"""The code informs and says nothing about why a command failed."""

_BUSY = 60.0

CODES: dict[str, Rule | None] = {
    # RFC 3501 section 7.1
    "ALERT": _NONE,
    "BADCHARSET": Rule(False, "the server does not know the character set of the search"),
    "CAPABILITY": _NONE,
    "PARSE": _NONE,
    "PERMANENTFLAGS": _NONE,
    "READ-ONLY": Rule(True, "the folder may only be read", "give this account write access, or choose 'leave'"),
    "READ-WRITE": _NONE,
    "TRYCREATE": Rule(True, "the folder to move to does not exist", "create the folder or correct its name"),
    "UIDNEXT": _NONE,
    "UIDVALIDITY": _NONE,
    "UNSEEN": _NONE,
    # RFC 5530 section 3
    "UNAVAILABLE": Rule(False, "a part of the mail system is away", wait=_BUSY),
    "AUTHENTICATIONFAILED": Rule(
        True, "the server does not accept this user name and password", "correct the user name or the password"
    ),
    "AUTHORIZATIONFAILED": Rule(
        True, "the login is right but may not open this mailbox", "grant this account access to the mailbox"
    ),
    "EXPIRED": Rule(True, "the password has expired", "set a new password"),
    "PRIVACYREQUIRED": Rule(
        True, "the server wants an encrypted connection", "set TLS to starttls or implicit", scope="profile"
    ),
    "CONTACTADMIN": Rule(True, "the server asks to contact its administrator", "ask the administrator of the server"),
    "NOPERM": Rule(True, "this account lacks the right to do that", "grant the right on the folder"),
    "INUSE": Rule(False, "somebody else is using the mailbox exclusively", wait=_BUSY),
    "EXPUNGEISSUED": Rule(False, "some of the messages were deleted meanwhile"),
    "CORRUPTION": Rule(True, "the server found the mailbox damaged", "ask the administrator to repair the mailbox"),
    "SERVERBUG": Rule(False, "the server ran into an error of its own", wait=_BUSY),
    "CLIENTBUG": _NONE,
    "CANNOT": Rule(True, "the server can never do that", "correct the folder name or choose another action"),
    "LIMIT": Rule(False, "a limit of the server is reached", wait=_BUSY),
    "OVERQUOTA": Rule(True, "the mailbox is full", "make room or raise the quota"),
    "ALREADYEXISTS": _NONE,
    "NONEXISTENT": Rule(True, "the folder does not exist", "create the folder or correct its name"),
    # RFC 9051 section 7.1 (RFC 4315 UIDPLUS, RFC 7162, RFC 3516 among it)
    "APPENDUID": _NONE,
    "COPYUID": _NONE,
    "UIDNOTSTICKY": _NONE,
    "CLOSED": _NONE,
    "HASCHILDREN": _NONE,
    "UNKNOWN-CTE": Rule(False, "the server cannot decode the message"),
    # Beyond the RFCs, seen in the wild
    "THROTTLED": Rule(False, "the server throttles us", wait=_BUSY),
    "IN-USE": Rule(False, "somebody else is using the mailbox exclusively", wait=_BUSY),
    "SYS/TEMP": Rule(False, "a part of the mail system is away", wait=_BUSY),
    "WEBALERT": Rule(True, "the provider wants somebody to sign in by browser", "sign in once and confirm"),
}

_BACK_OFF = re.compile(
    r"throttl|suggested backoff|back ?off|too many|rate limit|bandwidth|temporar|try again|try later|unavailable"
    r"|simultaneous connections|internal (?:server )?error|server (?:is )?busy|not connected|timed? ?out",
    re.IGNORECASE,
)
_WAIT = re.compile(
    r"(?:backoff(?: time)?|try again in|retry in|wait)\D{0,20}(\d{1,9})\s*(ms|milli|s|min)?", re.IGNORECASE
)
_LONGEST_WAIT = 3600.0

_DEFAULT: dict[Doing, Rule] = {
    Doing.CONNECT: Rule(False, "the server does not take the connection", scope="profile"),
    Doing.TLS: Rule(
        True, "the server refuses STARTTLS", "enable TLS on the server, or set TLS to implicit (port 993)", "profile"
    ),
    Doing.LOGIN: Rule(True, "the server refuses the login", "correct the user name, the password or the mechanism"),
    Doing.OPEN: Rule(True, "the folder cannot be opened", "create the folder, correct its name, or grant access to it"),
    Doing.READ: Rule(False, "the server would not give what was asked"),
    Doing.CHANGE: Rule(False, "the server would not change the messages"),
}


def refused(status: Status, doing: Doing, where: str) -> RouterError:
    """The error for a status that was not OK. BAD without a known code is never the administrator's fault."""
    rule = CODES.get(status.code)
    if (rule is None or status.code == "AUTHENTICATIONFAILED") and _BACK_OFF.search(status.text):
        rule = Rule(False, "the server asks to come back later", wait=_BUSY)
    if rule is None and status.word in ("BAD", "BYE") and doing is not Doing.TLS:
        rule = Rule(
            False, "the server closed the connection" if status.word == "BYE" else "the server did not understand"
        )
    if rule is None:
        rule = _DEFAULT[doing]
    what = f"{rule.what} (while {doing})" if rule is not _DEFAULT[doing] else rule.what
    if rule.operator:
        return NeedsOperator(what, where=where, cure=rule.cure, said=status.said, scope=rule.scope)
    wait = named_wait(status.text) or rule.wait
    return Transient(what, retry_after=wait, where=where, cure=rule.cure, said=status.said, scope=rule.scope)


_ABOUT_MESSAGES = frozenset({"", "ALERT", "CANNOT", "CORRUPTION", "EXPUNGEISSUED", "PARSE", "SERVERBUG", "UNKNOWN-CTE"})


def is_about_messages(status: Status) -> bool:
    """Whether a refused FETCH may be the fault of single messages, so that reading them one by one is worth a try."""
    return status.code in _ABOUT_MESSAGES and (bool(status.code) or not _BACK_OFF.search(status.text))


def named_wait(text: str) -> float | None:
    """Seconds to wait, if the text names them, as Exchange: "Suggested Backoff Time: 92415 milliseconds"."""
    match = _WAIT.search(text)
    if not match:
        return None
    unit = (match[2] or "s").lower()
    factor = 0.001 if unit in ("ms", "milli") else 60.0 if unit == "min" else 1.0
    return min(int(match[1]) * factor, _LONGEST_WAIT)
