"""Judging several messages in order, each seeing the verdicts before it: a parent and its reply may come together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

from email_router.model.evidence import Evidence, Facts, KnownActivity
from email_router.model.settings import TrackingSettings
from email_router.model.verdict import Verdict
from email_router.tracking.decide import decide


def decide_batch(
    evidences: Sequence[Evidence], facts: Sequence[Facts], settings: TrackingSettings, new_id: Callable[[], UUID]
) -> list[Verdict]:
    """One verdict per evidence, in order. Pure but for `new_id`.

    Anybody may write an id that is known already: who had it first keeps its replies.
    """
    verdicts: list[Verdict] = []
    by_identity: dict[bytes, KnownActivity] = {}
    by_message_id: dict[str, KnownActivity] = {}
    for evidence, known in zip(evidences, facts, strict=True):
        seen = replace(
            known,
            duplicate=known.duplicate or by_identity.get(evidence.identity),
            by_message_id={**_named(evidence, by_message_id), **known.by_message_id},
        )
        verdict = decide(evidence, seen, settings, new_id)
        verdicts.append(verdict)
        if verdict.accept:
            activity = KnownActivity(
                verdict.activity, evidence.message_id, "incoming", evidence.received, verdict.regarding, verdict.owner
            )
            by_identity[evidence.identity] = activity
            if evidence.message_id:
                by_message_id.setdefault(evidence.message_id, activity)
    return verdicts


def _named(evidence: Evidence, earlier: dict[str, KnownActivity]) -> dict[str, KnownActivity]:
    return {named: earlier[named] for named in evidence.named_ids if named in earlier}
