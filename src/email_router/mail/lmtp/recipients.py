"""Whom mail is taken for: the published mailboxes, in any case of letters, with or without a detail behind `+`."""

from __future__ import annotations

from collections.abc import Collection

from email_router.mime.addresses import normalise


class Recipients:
    def __init__(self, mailboxes: Collection[str]) -> None:
        self._by_key = {address.casefold(): address for address in mailboxes}

    def find(self, address: str) -> str:
        """The mailbox of this recipient, or "". `help+detail@` is `help@` unless there is a mailbox of that name."""
        key = normalise(address).casefold()
        local, _, domain = key.rpartition("@")
        user, plus, _ = local.partition("+")
        return self._by_key.get(key) or (self._by_key.get(f"{user}@{domain}", "") if plus else "")
