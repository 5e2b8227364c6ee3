"""Tracking tokens: `CRM:0001001`, the classic way to find a conversation by its subject.

Prefix (1 to 20 characters), a designator (0 online), the user's number on N digits, the user's message counter on M
digits (Microsoft Learn, "Email message filtering and correlation"; read in facts of 2026).
"""

from __future__ import annotations

import re
from functools import lru_cache

from email_router.model.settings import TrackingSettings

LONGEST_TOKEN_DIGITS = 21


def issue(settings: TrackingSettings, user_number: int, counter: int) -> str:
    """The token for a user's message. The counter wraps to 0 after all nines; tokens repeat then."""
    user = settings.token_base + user_number
    count = counter % 10**settings.token_counter_digits
    digits = f"0{user:0{settings.token_user_digits}d}{count:0{settings.token_counter_digits}d}"
    return settings.token_prefix + digits


def find(subject: str, settings: TrackingSettings) -> tuple[str, ...]:
    """Tokens in a subject made with this organization's current or past prefixes, in order, each once."""
    prefixes = tuple(p for p in (settings.token_prefix, *settings.token_prefix_history) if p)
    if not prefixes:
        return ()
    return tuple(dict.fromkeys(_pattern(prefixes).findall(subject)))


def append_token(subject: str, token: str, maximum: int) -> str:
    """`subject token`, cut so that the token still fits in `maximum` characters; no token when it cannot fit at all."""
    if len(token) > maximum:
        return subject[:maximum]
    if not subject:
        return token
    return f"{subject[: max(0, maximum - len(token) - 1)].rstrip()} {token}".lstrip()


@lru_cache(maxsize=64)
def _pattern(prefixes: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(prefixes, key=len, reverse=True)
    names = "|".join(re.escape(p) for p in longest_first)
    return re.compile(rf"(?<!\w)((?:{names})[0-9]{{3,{LONGEST_TOKEN_DIGITS}}})(?![0-9])")
