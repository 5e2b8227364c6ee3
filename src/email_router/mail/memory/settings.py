"""Settings of a memory profile."""

from __future__ import annotations

from dataclasses import dataclass

from email_router.model.settings import help_field


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    server: str = help_field("Name of the server in this process.", "default")
