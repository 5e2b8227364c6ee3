"""Who an address is: the sender as exactly one record or none, recipients as all that match."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from email_router.model.evidence import Evidence, Facts, RecordRef
from email_router.model.message import Address
from email_router.model.settings import TrackingSettings
from email_router.model.verdict import Party, PartyRole

ORDER = ("systemuser", "contact", "account", "lead", "equipment", "team", "businessunit")
"""The sender's record is looked for in this order; other email-enabled records come last."""
CUSTOMERS = frozenset({"lead", "contact", "account"})
MOST_MATCHES = 100
"""More records than this with one address leave it unresolved."""
MOST_PARTIES = 500


def rank(record: RecordRef) -> int:
    return ORDER.index(record.type) if record.type in ORDER else len(ORDER)


def sender(
    evidence: Evidence, facts: Facts, settings: TrackingSettings, owner: UUID | None
) -> tuple[RecordRef | None, tuple[str, ...]]:
    """The sender's record and, in words, the candidates that lost."""
    if evidence.sender is None:
        return None, ()
    found = facts.records.get(evidence.sender.key, ())
    if len(found) > MOST_MATCHES:
        return None, (f"{len(found)} records carry the address {evidence.sender.address}: too many to choose from",)
    if len(found) == 1:
        return found[0], ()
    active = [r for r in found if r.active] or list(found)
    if len(active) > 1 and settings.unresolved_if_ambiguous:
        return None, tuple(f"{_words(r)} also has the sender's address" for r in active)
    best = sorted(active, key=lambda r: (r.owner is None or r.owner != owner, rank(r)))
    if not best:
        return None, ()
    return best[0], tuple(f"{_words(r)} also has the sender's address" for r in best[1:])


def parties(evidence: Evidence, facts: Facts, resolved: RecordRef | None) -> tuple[tuple[Party, ...], tuple[str, ...]]:
    """All participants, and in words who is left out of a crowd.

    One address may give several parties; Bcc of received mail is never shown.
    """
    out: list[Party] = []
    if evidence.sender is not None:
        out.append(Party(PartyRole.FROM, evidence.sender.address, evidence.sender.name, resolved))
    for role, people in ((PartyRole.TO, evidence.to), (PartyRole.CC, evidence.cc)):
        for person in people:
            out.extend(_parties(role, person, facts.records.get(person.key, ())))
    left_out = (f"only the first {MOST_PARTIES} of {len(out)} participants are kept",) if out[MOST_PARTIES:] else ()
    return tuple(out[:MOST_PARTIES]), left_out


def _parties(role: PartyRole, person: Address, records: Sequence[RecordRef]) -> list[Party]:
    if not records or len(records) > MOST_MATCHES:
        return [Party(role, person.address, person.name)]
    return [Party(role, person.address, person.name, record) for record in records]


def _words(record: RecordRef) -> str:
    return record.called
