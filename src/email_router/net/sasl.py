"""SASL: which mechanism, and its first words (RFC 4616 PLAIN; XOAUTH2 as Google and Microsoft document it)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from email_router.model.errors import NeedsOperator, RouterError
from email_router.model.settings import AuthMechanism

SHORTEST = 2
"""Characters up to which a secret cannot be told from what happens to be said."""


def choose(offered: Iterable[str], wanted: AuthMechanism, tls: bool) -> str:
    """The mechanism to use: `wanted`, or for AUTO the first of PLAIN and LOGIN that the server offers.

    XOAUTH2 is never guessed: its secret is a token and no password. `tls` only words the cure: servers hide password
    mechanisms until the connection is encrypted. Raises NeedsOperator when nothing fits.
    """
    names = {name.upper() for name in offered}
    candidates = ("PLAIN", "LOGIN") if wanted is AuthMechanism.AUTO else (wanted.value.upper(),)
    for candidate in candidates:
        if candidate in names:
            return candidate
    cure = "choose one of the offered mechanisms in the profile (auth)"
    if not tls:
        cure += ", or set TLS to starttls or implicit: most servers take no password in clear"
    raise NeedsOperator(
        f"the server offers no login by {' or '.join(candidates)}",
        where="login",
        said=f"offered: {', '.join(sorted(names)) or 'none'}",
        cure=cure,
        scope="profile",
    )


def initial_response(mechanism: str, username: str, secret: str) -> bytes:
    """The client's first message, not yet in base64. For XOAUTH2 `secret` is the bearer token."""
    if mechanism == "XOAUTH2":
        return f"user={username}\1auth=Bearer {secret}\1\1".encode()
    return f"\0{username}\0{secret}".encode()


@contextmanager
def never_told(username: str, secret: str) -> Iterator[None]:
    """Some servers repeat what they do not understand: the secret is taken out of their words, as it was sent."""
    try:
        yield
    except RouterError as error:
        responses = [initial_response(mechanism, username, secret) for mechanism in ("PLAIN", "XOAUTH2")]
        for raw in (secret.encode(), *responses):
            for spelling in (raw.decode(errors="replace"), base64.b64encode(raw).decode()):
                if len(spelling) > SHORTEST:
                    error.said = error.said.replace(spelling, "…")
        raise
