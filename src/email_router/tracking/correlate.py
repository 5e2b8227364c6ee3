"""To which conversation a message belongs: In-Reply-To, References from the newest, then the tracking token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from email_router.model.evidence import Evidence, Facts, KnownActivity
from email_router.model.report import ReportKind
from email_router.model.settings import TrackingSettings
from email_router.model.verdict import Correlation

SKEW = timedelta(days=1)
"""How far the clocks of two mail systems may differ."""


@dataclass(frozen=True, slots=True)
class Match:
    """The parent that was found, how, and the words for it. `parent` is None when nothing matched."""

    parent: KnownActivity | None
    method: Correlation
    why: str
    losing: tuple[str, ...] = ()


def correlate(evidence: Evidence, facts: Facts, settings: TrackingSettings) -> Match:
    """The first method that finds a parent wins; what the later ones would have said is kept as losing candidates.

    A report belongs to the email that it is about, which only that email's id tells: tokens and words are quoted.
    """
    if evidence.report is not None and evidence.report.kind is not ReportKind.OTHER:
        return _by_what_came_back(evidence, facts)
    matches = [m for m in (_by_headers(evidence, facts, settings), _by_token(evidence, facts, settings)) if m.parent]
    if matches:
        first = matches[0]
        others = tuple(
            f"{m.why}, but {first.method.name.replace('_', '-').lower()} comes first"
            for m in matches[1:]
            if m.parent is not None and first.parent is not None and m.parent.id != first.parent.id
        )
        return Match(first.parent, first.method, first.why, others)
    return Match(None, Correlation.NONE, _nothing(evidence, settings))


def _by_what_came_back(evidence: Evidence, facts: Facts) -> Match:
    for named in evidence.named_ids:
        parent = facts.by_message_id.get(named)
        if parent is not None and parent.direction == "outgoing":
            return Match(parent, Correlation.X_HEADER, f"it is about <{named}>, which was sent from here")
    return Match(None, Correlation.NONE, "it brings back no email that was sent from here")


def _by_headers(evidence: Evidence, facts: Facts, settings: TrackingSettings) -> Match:
    if settings.use_headers:
        for named in evidence.named_ids:
            parent = facts.by_message_id.get(named)
            if parent is not None:
                field = "In-Reply-To" if named in evidence.in_reply_to else "References"
                return Match(parent, Correlation.IN_REPLY_TO, f"it answers <{named}>, named in {field}")
    return Match(None, Correlation.NONE, "")


def _by_token(evidence: Evidence, facts: Facts, settings: TrackingSettings) -> Match:
    if settings.use_tokens:
        for found in evidence.tokens:
            parent = facts.by_token.get(found)
            if parent is not None and _in_time(evidence, parent, settings):
                return Match(parent, Correlation.TRACKING_TOKEN, f"its subject carries the tracking token {found}")
    return Match(None, Correlation.NONE, "")


def _in_time(evidence: Evidence, parent: KnownActivity, settings: TrackingSettings) -> bool:
    """Tokens repeat when their counter wraps: a parent from long ago, or from after the message, is another's."""
    age = evidence.received - parent.created
    return -SKEW <= age <= timedelta(days=settings.token_wrap_days)


def _nothing(evidence: Evidence, settings: TrackingSettings) -> str:
    tried = []
    if settings.use_headers and evidence.named_ids:
        tried.append(f"<{evidence.named_ids[0]}> is not known here")
    if evidence.tokens:
        tried.append(f"the token {evidence.tokens[0]} belongs to no recent email of this organization")
    return "; ".join(tried) or "it names no earlier message"
