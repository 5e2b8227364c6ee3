"""SASL PLAIN (RFC 4616), as all three protocols carry it."""

from __future__ import annotations

import base64
import binascii

from email_router.demo.mailsystem.accounts import Accounts, Mailbox


class BadResponse(Exception):
    """The client's answer is not what SASL allows."""


def decode(response: bytes) -> bytes:
    """Base64 of a response; `=` is an empty one (RFC 4959). Raises BadResponse, also when the client gave up."""
    if response == b"*":
        raise BadResponse("authentication cancelled")
    if response == b"=":
        return b""
    try:
        return base64.b64decode(response, validate=True)
    except binascii.Error:
        raise BadResponse("not base64") from None


def plain(accounts: Accounts, response: bytes) -> Mailbox | None:
    """The mailbox of a PLAIN response, or None. Raises BadResponse. Nobody may log in for somebody else."""
    parts = decode(response).split(b"\0")
    if len(parts) != 3 or not parts[1] or not parts[2]:
        raise BadResponse("a PLAIN response has three parts")
    try:
        behalf, name, password = (part.decode() for part in parts)
    except UnicodeDecodeError:
        raise BadResponse("a PLAIN response is UTF-8") from None
    if behalf and behalf.casefold() != name.casefold():
        return None
    return accounts.login(name, password)
