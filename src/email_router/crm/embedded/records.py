"""Judging for the embedded CRM: `Records` looks facts up in five queries per batch, `Judge` decides by `tracking`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.evidence import Evidence, Facts, KnownActivity, RecordRef
from email_router.model.filing import IncomingEmail
from email_router.model.ids import new_id
from email_router.model.mailbox import AccessMethod, Approval, FilterOption, MailboxKind, Receiver
from email_router.model.settings import TrackingSettings
from email_router.model.verdict import Verdict
from email_router.net.postgres import clean, transaction
from email_router.tracking.batch import decide_batch
from email_router.tracking.extract import extract

T = TypeVar("T")

_KNOWN = """
a.id, a.identity, a.message_id, a.direction, a.created, a.owner, a.token, a.sent,
    r.id AS regarding, r.type, r.name, r.owner AS regarding_owner, r.active
FROM crm.activity a LEFT JOIN crm.record r ON r.id = a.regarding
WHERE a.organization = :organization AND
"""
BY_IDENTITY = text(f"SELECT {_KNOWN} a.direction = 'incoming' AND a.identity = ANY(:values)")
# Anybody may write an id that is known already: what we sent comes first, then what came first.
BY_MESSAGE_ID = text(
    f"SELECT DISTINCT ON (a.message_id) {_KNOWN} a.message_id = ANY(:values) AND a.message_id <> '' "
    "ORDER BY a.message_id, a.direction DESC, a.created, a.id"
)
# Tokens are ours, and begin anew when their counter is at its end: the newest is meant.
BY_TOKEN = text(
    f"SELECT DISTINCT ON (a.token) {_KNOWN} a.token = ANY(:values) AND a.token <> '' ORDER BY a.token, a.created DESC"
)
BY_ADDRESS = text("""
SELECT a.key, r.id, r.type, r.name, r.owner, r.active FROM crm.address a JOIN crm.record r ON r.id = a.record
WHERE a.organization = :organization AND a.key = ANY(:values) ORDER BY r.created, r.id
""")
RECEIVERS = """
SELECT v.*, r.type, r.name, r.owner, r.active FROM crm.receiver v JOIN crm.record r ON r.id = v.id
WHERE v.organization = :organization
"""


class Records:
    """`ports.crm.Records` and `ports.crm.Judge` for one organization."""

    def __init__(self, engine: AsyncEngine, organization: UUID, settings: TrackingSettings) -> None:
        self._engine = engine
        self._organization = organization
        self._settings = settings

    async def judge(self, items: Sequence[IncomingEmail]) -> Sequence[Verdict]:
        evidences = [extract(item, self._settings) for item in items]
        return decide_batch(evidences, await self.lookup(evidences), self._settings, new_id)

    async def lookup(self, evidence: Sequence[Evidence]) -> Sequence[Facts]:
        ids = {clean(i) for e in evidence for i in e.looked_up_ids}
        tokens = {clean(t) for e in evidence for t in e.tokens}
        keys = {clean(k) for e in evidence for k in e.addresses}
        async with transaction(self._engine) as db:

            async def ask(query: Any, values: Any) -> Sequence[Any]:
                if not values:
                    return ()
                return (await db.execute(query, {"organization": self._organization, "values": list(values)})).all()

            identities = {
                row.identity: _activity(row) for row in await ask(BY_IDENTITY, {e.identity for e in evidence})
            }
            by_id = {row.message_id: _activity(row) for row in await ask(BY_MESSAGE_ID, ids)}
            by_token = {row.token: _activity(row) for row in await ask(BY_TOKEN, tokens)}
            records = _grouped((row.key, _record(row)) for row in await ask(BY_ADDRESS, keys))
            found = await ask(text(RECEIVERS + " AND v.key = ANY(:values)"), keys)
            receivers = _grouped((row.key, receiver(row)) for row in found)
        return [
            Facts(
                duplicate=identities.get(e.identity),
                by_message_id={i: by_id[c] for i in e.looked_up_ids if (c := clean(i)) in by_id},
                by_token={t: by_token[t] for t in e.tokens if t in by_token},
                records={k: records[k] for k in e.addresses if k in records},
                receivers={k: receivers[k] for k in e.addresses if k in receivers},
            )
            for e in evidence
        ]


def receiver(row: Any) -> Receiver:
    """A row of `RECEIVERS` as the model's value."""
    return Receiver(
        id=row.id,
        kind=MailboxKind.QUEUE if row.type == "queue" else MailboxKind.USER,
        name=row.name,
        address=row.address,
        incoming=AccessMethod(row.incoming),
        outgoing=AccessMethod(row.outgoing),
        approval=Approval(row.approval),
        filter_option=FilterOption(row.filter_option),
        owner=row.owner,
        enabled=row.active,
        makes_cases=row.makes_cases,
        machines_make_cases=row.machines_make_cases,
        case_title=row.case_title,
        case_priority=row.case_priority,
    )


def _activity(row: Any) -> KnownActivity:
    regarding = None
    if row.regarding is not None:
        regarding = RecordRef(row.type, row.regarding, row.name, row.regarding_owner, row.active)
    made = row.sent or row.created
    return KnownActivity(row.id, row.message_id, row.direction, made, regarding, row.owner, row.token)


def _record(row: Any) -> RecordRef:
    return RecordRef(row.type, row.id, row.name, row.owner, row.active)


def _grouped(pairs: Iterable[tuple[str, T]]) -> Mapping[str, tuple[T, ...]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return {key: tuple(values) for key, values in groups.items()}
