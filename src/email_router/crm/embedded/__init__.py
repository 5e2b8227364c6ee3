"""The embedded CRM: organizations, people, cases and their email in schema `crm` of the router's PostgreSQL.

It is one CRM among others: the flows reach it only through `ports.crm`, and what makes a repeat harmless is the
identity of a message, never a transaction shared with the router's own tables.
"""

from __future__ import annotations

from pathlib import Path

MIGRATIONS = Path(__file__).parent / "migrations"
SCHEMA = "crm"
