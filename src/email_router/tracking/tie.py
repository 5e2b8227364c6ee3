"""A report is believed only when it is tied to an email that was sent from here; else it changes nothing.

Verified: it brings the envelope id that we gave (RFC 3461 section 4.4), or the Message-ID of an email of ours, and
names a recipient of that email, within 15 days. Whoever got the email knows its Message-ID too, and could write a
report about those who got it with him, but about nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from email_router.model.report import RecipientReport, Report, ReportKind, SentEmail, Tied

LATEST = timedelta(days=15)
"""After so long a report is not about what we sent."""


def tie(report: Report, sent: Sequence[SentEmail], received: datetime) -> Tied:
    """The email that a report is about, among those that the ledger found for its ids."""
    by_id: Mapping[str, SentEmail] = {email.message_id: email for email in sent}
    by_envelope = {email.envelope_id: email for email in sent if email.envelope_id}
    about = by_envelope.get(report.envelope_id) if report.envelope_id else None
    proof = f"it carries the envelope id {report.envelope_id}"
    if about is None:
        named = next((i for i in report.returned if i in by_id), "")
        about, proof = by_id.get(named), f"it brings back <{named}>"
    if about is None:
        return Tied(None, (), "it brings back no email that was sent from here")
    if received - about.handed_over > LATEST:
        return Tied(None, (), f"the email that it brings back was sent more than {LATEST.days} days before")
    ours = {address.casefold(): address for address in about.recipients}
    recipients = tuple(found for r in report.recipients if (found := _ours(r, ours)) is not None)
    if report.kind is ReportKind.DELIVERY and report.recipients and not recipients:
        named = report.recipients[0].address
        return Tied(about, (), f"{proof}, but {named} is no recipient of that email: nobody is marked")
    return Tied(about, recipients, proof)


def _ours(reported: RecipientReport, ours: Mapping[str, str]) -> RecipientReport | None:
    """The recipient as we addressed it: the original one first, since mail is forwarded on."""
    address = ours.get(reported.original.casefold()) or ours.get(reported.address.casefold())
    if address is None:
        return None
    return RecipientReport(address, reported.action, reported.original, reported.status, reported.said, reported.remote)
