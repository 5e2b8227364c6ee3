"""The composition: the only place that names concrete adapters."""

from __future__ import annotations

from email_router.app.router import CONNECTORS, KINDS, Backfill, Crm, Router, opened

__all__ = ["CONNECTORS", "KINDS", "Backfill", "Crm", "Router", "opened"]
