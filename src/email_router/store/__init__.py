"""PostgreSQL: the embedded server, the router's own tables in schema `router`, backup."""

from __future__ import annotations

from pathlib import Path

MIGRATIONS = Path(__file__).parent / "migrations"
SCHEMA = "router"
