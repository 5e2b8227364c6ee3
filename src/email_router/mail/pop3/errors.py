"""From a POP3 -ERR to what happens next: response codes (RFC 2449 section 8, RFC 3206), else what was asked for."""

from __future__ import annotations

import re

from email_router.model.errors import NeedsOperator, RouterError, Transient

_CODE = re.compile(r"^\[([A-Za-z][A-Za-z/-]*)\]\s*")
_BUSY = re.compile(r"in use|locked|lock|busy|too many|try again|tempor|unavailable|overload|rate", re.IGNORECASE)

BUSY_CODES = {"IN-USE": 30.0, "LOGIN-DELAY": 60.0, "SYS/TEMP": 60.0}
"""Codes of a server that only wants us to come back, and the seconds until then."""
OPERATOR_CODES = {
    "AUTH": "correct the user name or the password",
    "SYS/PERM": "ask the administrator of the mail server",
}


def refused(said: str, doing: str, where: str) -> RouterError:
    """`said` is the text after -ERR. A busy server must never look like a wrong password: that would pause it."""
    found = _CODE.match(said)
    code = found.group(1).upper() if found is not None else ""
    if code in BUSY_CODES or (not code and _BUSY.search(said)):
        wait = BUSY_CODES.get(code, 60.0)
        cure = "nothing; it is tried again. Another program that reads this mailbox may be holding it"
        return Transient("the mailbox is busy", where=where, said=said, cure=cure, retry_after=wait, scope="mailbox")
    if doing == "log in":
        cure = OPERATOR_CODES.get(code, "correct the user name or the password")
        what = "the server does not accept this user name and password"
        return NeedsOperator(what, where=where, said=said, cure=cure, scope="mailbox")
    if doing == "STLS":
        cure = "set TLS to implicit (port 995), or have STLS switched on at the server"
        return NeedsOperator("the server refuses STLS", where=where, said=said, cure=cure, scope="profile")
    if doing == "UIDL":
        cure = 'set uidl = false in the profile and source_action = "delete" for the mailbox, or read it by IMAP'
        return NeedsOperator("the server has no UIDL", where=where, said=said, cure=cure, scope="profile")
    if code in OPERATOR_CODES:
        return NeedsOperator(
            f"the server refuses ({doing})", where=where, said=said, cure=OPERATOR_CODES[code], scope="mailbox"
        )
    return Transient(
        f"the server refuses ({doing})",
        where=where,
        said=said,
        cure="see whether the mail server is well; it is tried again",
        scope="mailbox",
    )
