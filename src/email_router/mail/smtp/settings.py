"""Settings of an SMTP profile."""

from __future__ import annotations

from dataclasses import dataclass

from email_router.model.settings import ServerSettings, TlsMode, help_field

SUBMISSION = 587
SUBMISSIONS = 465


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpSettings(ServerSettings):
    helo: str = help_field("Name to greet with (EHLO); empty takes this machine's name.", "")
    dsn: bool = help_field("Ask for delivery reports with our envelope id, where the server can (RFC 3461).", True)
    data_timeout: float = help_field("Seconds to wait for the answer to a whole message.", 300.0)

    @property
    def default_port(self) -> int:
        return SUBMISSIONS if self.tls is TlsMode.IMPLICIT else SUBMISSION
