"""What the router asks all the time costs by new mail, not by what is stored: no large table is read whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.crm.embedded import actions, filing, outbox, records
from email_router.store import ledger, receipts, retention, undeliverable
from email_router.store.decisions import COUNTS as DECISIONS
from email_router.store.ledger import COUNTS as LEDGER

pytestmark = pytest.mark.database

ORGANIZATION = UUID(int=1)
MANY = 60_000
LARGE = {"activity", "decision", "receipt", "named_id", "ledger", "party", "attachment", "address", "record"}

STORED = f"""
INSERT INTO crm.organization (id, name) VALUES ('{ORGANIZATION}', 'Acme');
INSERT INTO crm.record (id, organization, type, name)
    SELECT md5('r' || g)::uuid, '{ORGANIZATION}', 'contact', 'name' FROM generate_series(1, {MANY}) g;
INSERT INTO crm.address (record, organization, n, key, address)
    SELECT md5('r' || g)::uuid, '{ORGANIZATION}', 0, 'c' || g, 'c' || g FROM generate_series(1, {MANY}) g;
INSERT INTO crm.activity (id, organization, direction, identity, status, subject, body_text, body_html, sender,
        message_id, in_reply_to, refs, token, pending_since)
    SELECT md5('a' || g)::uuid, '{ORGANIZATION}', CASE g %% 2 WHEN 0 THEN 'outgoing' ELSE 'incoming' END,
        CASE g %% 2 WHEN 0 THEN NULL ELSE sha256(('i' || g)::bytea) END, CASE g %% 2 WHEN 0 THEN 3 ELSE 4 END,
        'subject', 'text', '', 'c' || g, 'm' || g || '@x.test', '', '{{}}',
        CASE g %% 2 WHEN 0 THEN 'CRM:' || g ELSE '' END, now() FROM generate_series(1, {MANY}) g;
INSERT INTO crm.party (activity, n, role, address, name)
    SELECT md5('a' || g)::uuid, 0, 'to', '', '' FROM generate_series(1, {MANY}) g;
INSERT INTO crm.attachment (activity, n, name, content_type, size, sha256, content_id, inline)
    SELECT md5('a' || g)::uuid, 0, '', '', 1, '', '', false FROM generate_series(1, {MANY}) g;
INSERT INTO router.receipt (id, deployment, mailbox, folder, item, outcome, closed)
    SELECT md5('c' || g)::uuid, 'sales', 'q' || g %% 50, 'INBOX', '7:' || g, 'filed', now()
    FROM generate_series(1, {MANY}) g;
INSERT INTO router.decision (receipt, deployment, mailbox, folder, item, created, outcome, reason, why, losing,
        message_id, identity, sender, recipients, subject, defects, traceback)
    SELECT md5('c' || g)::uuid, 'sales', 'q', 'INBOX', '7', now() - ({MANY} - g) * interval '10 minutes', 'filed', '',
        repeat('why', 100), '', 'm' || g || '@x.test', '', '', '', '', '', '' FROM generate_series(1, {MANY}) g;
INSERT INTO router.named_id (deployment, message_id, receipt)
    SELECT 'sales', 'n' || g || '@x.test', md5('c' || g)::uuid FROM generate_series(1, {MANY}) g;
INSERT INTO router.ledger (id, email, deployment, profile, sender, subject, message_id, date, envelope_id, state,
        shard)
    SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(g), 12, '0'))::uuid, md5('a' || g)::uuid, 'sales', 'relay', '',
        '', '', now(), '', 'sent', 3 FROM generate_series(1, {MANY}) g
"""

TWO_WEEKS_AGO = datetime.now(UTC) - timedelta(days=14)
IDS = [f"m{n}@x.test" for n in range(100)]
ASKED: dict[str, tuple[TextClause, dict[str, Any]]] = {
    "duplicates": (records.BY_IDENTITY, {"organization": ORGANIZATION, "values": [bytes(32)]}),
    "parents": (records.BY_MESSAGE_ID, {"organization": ORGANIZATION, "values": IDS}),
    "tokens": (records.BY_TOKEN, {"organization": ORGANIZATION, "values": ["CRM:2", "CRM:4"]}),
    "people": (records.BY_ADDRESS, {"organization": ORGANIZATION, "values": ["c1", "c2"]}),
    "timeline": (actions.TIMELINE, {"o": ORGANIZATION, "limit": 50}),
    "timeline of a record": (actions.TIMELINE_OF_RECORD, {"o": ORGANIZATION, "record": UUID(int=5), "limit": 50}),
    "filing": (filing.EXISTING, {"organization": ORGANIZATION, "identities": [bytes(32)]}),
    "claim": (outbox.CLAIM, {"organization": ORGANIZATION, "senders": ["c1"], "limit": 500, "shard": 3, "epoch": 2}),
    "open receipts": (receipts.OPEN, {"mailbox": "q1", "folder": "INBOX", "items": ["7:1", "7:2"]}),
    "waiting receipts": (receipts.WAITING, {"mailbox": "q1", "folder": "INBOX", "limit": 25}),
    "waiting replies": (receipts.REOPEN, {"deployment": "sales", "ids": IDS}),
    "missed replies": (receipts.REOPEN_MISSED, {"seconds": 615.0}),
    "due": (ledger.DUE, {"profile": "relay", "limit": 500}),
    "unsettled": (ledger.UNSETTLED, {"profile": "relay", "deployments": ["sales"], "limit": 500}),
    "handed over": (ledger.SETTLE_ORPHANS, {"profile": "relay"}),
    "decisions of the day": (DECISIONS, {}),
    "emails of the day": (LEDGER, {"since": UUID(int=1 << 120)}),
    "to be forgotten": (
        retention.READABLE,
        {"deployment": "sales", "since": TWO_WEEKS_AGO - timedelta(hours=1), "before": TWO_WEEKS_AGO},
    ),
    "forgotten": (
        retention.FORGET,
        {"hashed": True, "id": [1]} | {c: [""] for c in ("sender", "recipients", "subject", "why", "class_line")},
    ),
    "raw messages": (actions.FORGET_RAW, {"organization": ORGANIZATION, "before": UUID(int=1 << 120)}),
    "undeliverable": (text(f"{undeliverable.LIST} WHERE state = 'open' ORDER BY created DESC LIMIT 20"), {}),
}


async def test_no_large_table_is_read_whole(engine: AsyncEngine) -> None:
    for rows in STORED.split(";\n"):
        async with engine.begin() as db:
            await db.exec_driver_sql(rows)
    async with engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.exec_driver_sql("VACUUM ANALYZE")
    read: dict[str, list[str]] = {}
    for name, (statement, values) in ASKED.items():
        async with engine.connect() as db:
            plan = (await db.execute(text(f"EXPLAIN (FORMAT JSON) {statement.text}"), values)).scalar_one()
        [found] = json.loads(plan) if isinstance(plan, str) else plan
        read[name] = sorted(set(_read_whole(found["Plan"])) & LARGE)
    assert {name: tables for name, tables in read.items() if tables} == {}


def _read_whole(plan: dict[str, Any]) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan":
        yield plan["Relation Name"]
    for below in plan.get("Plans", ()):
        yield from _read_whole(below)
