"""What stands for an address or a subject that is not kept any more: it can be compared, and not read.

HMAC-SHA256 (RFC 2104) under a key derived from the installation's: addresses can be guessed, so that a plain hash of
one would be as good as the address. Whoever holds the database without the key learns only which rows are alike. With
another key what was hashed before is not found any more.
"""

from __future__ import annotations

import hashlib
import hmac

PREFIX = "hash:"
"""Says in lists what the digits are."""


class Pseudonyms:
    """Without a key there are none: what they would stand for is just forgotten."""

    def __init__(self, key: bytes | None) -> None:
        self._key = hmac.digest(key, b"email-router pseudonyms", hashlib.sha256) if key is not None else b""

    def of(self, words: str) -> str:
        """The same for the same words in any case; "" for none, and without a key."""
        if not words or not self._key:
            return ""
        return PREFIX + hmac.digest(self._key, words.casefold().encode(), hashlib.sha256)[:16].hex()

    @property
    def made(self) -> bool:
        return bool(self._key)
