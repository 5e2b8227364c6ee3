"""Every message of the corpus and of the threaded archive, from a mailbox into the CRM: nothing breaks or is lost.

The numbers are what was measured. Nothing is undeliverable; what is not tracked names no sender that could be answered.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from email_router.mime.contents import BytesContent
from email_router.mime.parse import parse
from email_router.model.receipt import Outcome
from tests.fixtures.company import Company

SHARED = Path(__file__).resolve().parents[4] / "shared"
CORPUS = SHARED / "corpus"
ARCHIVE = SHARED / "threads" / "dev" / "usrp-users-2021"
HELP = "help@acme.test"

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.database,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpus is not beside the repository"),
]


def corpus() -> Iterator[bytes]:
    for line in (CORPUS / "manifest.jsonl").read_text().splitlines():
        yield (CORPUS / json.loads(line)["file"]).read_bytes()


def archive() -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each message with its truth, in the order of the archive."""
    data = gzip.decompress(ARCHIVE.with_suffix(".mbox.gz").read_bytes())
    truth = [json.loads(line) for line in ARCHIVE.with_suffix(".truth.jsonl").read_text().splitlines()]
    ends = [t["mbox_offset"] for t in truth[1:]] + [len(data)]
    for record, end in zip(truth, ends, strict=True):
        yield record, data[record["mbox_offset"] : end].partition(b"\n")[2]


async def rows(acme: Company, query: str) -> list[Any]:
    async with acme.engine.begin() as db:
        return list((await db.execute(text(query))).all())


def deliver(acme: Company, messages: Iterable[bytes]) -> dict[str, bytes]:
    """Put them into the queue's mailbox, a second apart; by item id."""
    started = datetime(2026, 1, 1, tzinfo=UTC)
    moments = (started + timedelta(seconds=n) for n in itertools.count())
    return {str(acme.mail.deliver(HELP, raw, moment)): raw for raw, moment in zip(messages, moments, strict=False)}


async def kept_whole(acme: Company, delivered: dict[str, bytes]) -> None:
    """What lies in the CRM is what lay in the mailbox: raw bytes, attachments by hash; no reference leads nowhere."""
    item_of = {row.activity: row.item for row in await rows(acme, FILED)}
    raw: dict[Any, bytes] = {}
    for row in await rows(acme, "SELECT activity, data FROM crm.raw_chunk ORDER BY activity, n"):
        raw[row.activity] = raw.get(row.activity, b"") + bytes(row.data)
    assert {activity: delivered[item] for activity, item in item_of.items()} == raw
    contents: dict[bytes, Any] = {}
    for row in await rows(acme, "SELECT sha256, data FROM crm.content_chunk ORDER BY sha256, n"):
        contents.setdefault(bytes(row.sha256), hashlib.sha256()).update(row.data)
    assert all(found.digest() == name for name, found in contents.items())
    attached = Counter((r.activity, bytes(r.sha256)) for r in await rows(acme, "SELECT * FROM crm.attachment"))
    parsed = {activity: parse(BytesContent(delivered[item])) for activity, item in item_of.items()}
    assert attached == Counter((activity, a.sha256) for activity, email in parsed.items() for a in email.attachments)
    assert {sha256 for _, sha256 in attached if sha256 not in contents} <= {hashlib.sha256(b"").digest()}
    assert not [r for r in await rows(acme, NOWHERE) if r.id is not None]


FILED = "SELECT item, activity FROM router.decision WHERE outcome = 'filed'"
NOWHERE = """
SELECT a.id FROM crm.activity a WHERE a.regarding IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM crm.record r WHERE r.id = a.regarding)
UNION SELECT a.id FROM crm.activity a WHERE a.correlated IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM crm.activity p WHERE p.id = a.correlated)
UNION SELECT p.activity FROM crm.party p WHERE p.record IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM crm.record r WHERE r.id = p.record)
UNION SELECT a.id FROM crm.activity a
    WHERE (SELECT count(*) FROM crm.received_by b WHERE b.activity = a.id) <> 1
"""


async def test_every_message_of_the_corpus_is_filed_or_decided(acme: Company) -> None:
    await acme.queue(HELP, makes_cases=True)
    delivered = deliver(acme, corpus())
    report = await acme.run(HELP)
    assert report.outcomes == {Outcome.FILED: 1059, Outcome.DUPLICATE: 55, Outcome.NOT_TRACKED: 100}
    decisions = await rows(acme, "SELECT item, outcome, reason, why, defects, traceback FROM router.decision")
    assert {d.item for d in decisions} == set(delivered)
    assert {d.reason for d in decisions} == {"AcceptAll", "CorrelationMatch", "Duplicate", "InvalidSender"}
    assert not [d for d in decisions if d.traceback or "unparsable" in d.defects]
    nameless = [d.item for d in decisions if d.outcome == "not-tracked"]
    assert not [i for i in nameless if any(a.address for a in parse(BytesContent(delivered[i])).from_)]
    assert await acme.undeliverable.listing() == []
    await kept_whole(acme, delivered)
    again = deliver(acme, corpus())  # new ids for old mail, as after a change of UIDVALIDITY
    report = await acme.run(HELP)
    assert report.outcomes == {Outcome.DUPLICATE: 1114, Outcome.NOT_TRACKED: 100}
    assert report.messages == len(again)
    assert await acme.scalar("SELECT count(*) FROM crm.activity") == 1059


async def test_replies_of_the_archive_find_their_parents(acme: Company) -> None:
    await acme.queue(HELP, makes_cases=True, machines_make_cases=True)  # they came through a list
    truth, messages = zip(*archive(), strict=True)
    delivered = deliver(acme, messages)
    report = await acme.run(HELP)
    assert report.outcomes == {Outcome.FILED: 2236}
    await kept_whole(acme, delivered)
    found = await rows(
        acme,
        "SELECT d.item, p.message_id, a.regarding = p.regarding AS same_case FROM router.decision d "
        "JOIN crm.activity a ON a.id = d.activity LEFT JOIN crm.activity p ON p.id = a.correlated",
    )
    parents = {row.item: row.message_id.lower() for row in found if row.message_id}
    assert all(row.same_case for row in found if row.message_id)
    claimed = zip(delivered, truth, strict=True)
    wanted = {item: record["parent"].lower() for item, record in claimed if record["parent"]}
    assert len(wanted) == 1516
    assert {item: parents.get(item) for item in wanted} == wanted  # recall 1.0
    further = {item: parent for item, parent in parents.items() if item not in wanted}
    assert len(further) == 161  # their In-Reply-To has no angle brackets, which the truth passes over
    assert all(re.search(rb"(?mi)^In-Reply-To: *" + re.escape(p.encode()), delivered[i]) for i, p in further.items())
