"""Sending by SMTP through the company's own server."""

from __future__ import annotations

from email_router.mail.smtp.probe import SmtpProbe
from email_router.mail.smtp.sender import sender
from email_router.mail.smtp.settings import SmtpSettings
from email_router.ports.mail import Connector

CONNECTOR = Connector(
    name="smtp",
    title="SMTP",
    settings=SmtpSettings,
    sender=sender,
    probe_sender=SmtpProbe,
)
