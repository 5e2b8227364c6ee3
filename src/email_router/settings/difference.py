"""What a publication changes, in words. Secrets are references, so that nothing secret can show."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from email_router.model.settings import Settings

_PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]*@")
_SECTIONS = (
    ("deployments", "deployment"),
    ("incoming", "incoming profile"),
    ("outgoing", "outgoing profile"),
    ("mailboxes", "mailbox"),
)


def difference(old: Settings | None, new: Settings) -> tuple[str, ...]:
    """One line per change; none when nothing changes."""
    lines: list[str] = []
    for attribute, word in _SECTIONS:
        before: Mapping[str, Any] = getattr(old, attribute) if old is not None else {}
        after: Mapping[str, Any] = getattr(new, attribute)
        lines += [f"new {word} {name}" for name in after if name not in before]
        lines += [f"{word} {name} is removed" for name in before if name not in after]
        for name in after:
            if name in before:
                lines += [f"{word} {name}: {change}" for change in _changes(before[name], after[name])]
    return tuple(lines)


def _changes(old: Any, new: Any) -> Iterator[str]:
    if type(old) is not type(new):
        yield f"{type(old).__name__} becomes {type(new).__name__}"
        return
    for field in dataclasses.fields(new):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        if dataclasses.is_dataclass(after) and dataclasses.is_dataclass(before):
            yield from _changes(before, after)
        else:
            yield f"{field.name}: {_shown(before, field)} → {_shown(after, field)}"


def _shown(value: Any, field: dataclasses.Field[Any]) -> str:
    if value == 0 and field.name == "port":
        return "the standard port"
    if isinstance(value, bool):
        return str(value).lower()  # as it stands in the file
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and "://" in value:
        return _PASSWORD.sub(r"\1…@", value)  # of a proxy
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value) or "none"
    return str(value) if value not in ("", None) else "none"
