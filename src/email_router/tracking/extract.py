"""From a message to evidence: what it says itself, without asking anybody."""

from __future__ import annotations

from email_router.model.evidence import Evidence
from email_router.model.filing import IncomingEmail
from email_router.model.settings import TrackingSettings
from email_router.tracking import token
from email_router.tracking.classify import marks

NEWEST_REFERENCES = 32
"""References looked at besides the first: long chains made look-ups slow elsewhere."""


def extract(incoming: IncomingEmail, settings: TrackingSettings) -> Evidence:
    """Pure: the same message and settings give the same evidence."""
    email = incoming.email
    references = email.references
    if len(references) > NEWEST_REFERENCES + 1:
        references = (references[0], *references[-NEWEST_REFERENCES:])
    return Evidence(
        identity=email.identity,
        message_id=email.message_id,
        sender=email.author,
        recipients=email.recipients,
        to=email.to,
        cc=email.cc,
        bcc=email.bcc,
        subject=email.subject,
        in_reply_to=email.in_reply_to[:4],
        references=references,
        tokens=token.find(email.subject, settings) if settings.use_tokens else (),
        received=incoming.received,
        date=email.date,
        receiving=incoming.receiving,
        marks=marks(email, settings.own_lists),
        report=incoming.report,
        tied=incoming.tied,
    )
