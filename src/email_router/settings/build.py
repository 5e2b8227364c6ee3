"""A TOML table to a frozen dataclass: unknown keys, wrong types and values are problems, never exceptions."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from email_router.settings.problems import suggestion

Complain = Callable[[str, str, str], None]
"""`(key, what, cure)`."""

_WORDS = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false"}


def build(cls: type[Any], table: Mapping[str, Any], complain: Complain, also: frozenset[str] = frozenset()) -> Any:
    """An instance of `cls` from the keys that are its fields; keys in `also` belong to somebody else."""
    return cls(**values(cls, table, complain, also))


def values(
    cls: type[Any], table: Mapping[str, Any], complain: Complain, also: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The values of `table` for the fields of `cls`, converted; what cannot be is complained about and left out."""
    hints = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)} - also
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key in also:
            continue
        if key not in names:
            complain(key, "there is no such setting", suggestion(key, names | also))
            continue
        made = convert(hints[key], value, key, complain)
        if made is not None:
            found[key] = made
    return found


def convert(hint: Any, value: Any, key: str, complain: Complain) -> Any:
    """`value` as `hint` wants it, or None after a complaint."""
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        return _wrong(value, "a list of texts", key, complain)
    if hint == datetime | None:
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        return _wrong(value, "a date and time such as 2026-11-01T00:00:00Z", key, complain)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if value in [member.value for member in hint]:
            return hint(value)
        complain(key, f"{value!r} is not possible", suggestion(str(value), [m.value for m in hint]))
        return None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e15 else _wrong(value, "a number that anybody would mean", key, complain)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        return _wrong(value, "a number", key, complain)
    if hint in _WORDS and type(value) is hint:
        return value
    return _wrong(value, _WORDS.get(hint, str(hint)), key, complain)


def _wrong(value: Any, wanted: str, key: str, complain: Complain) -> None:
    complain(key, f"{value!r} is not {wanted}", f"write {wanted}")
