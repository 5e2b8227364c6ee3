"""Settings of a POP3 profile."""

from __future__ import annotations

from dataclasses import dataclass

from email_router.model.mailbox import SourceAction
from email_router.model.settings import ServerSettings, TlsMode, help_field

PORT = 110
PORT_TLS = 995


@dataclass(frozen=True, slots=True, kw_only=True)
class Pop3Settings(ServerSettings):
    uidl: bool = help_field(
        "Recognise messages by UIDL. False for servers without it: then only the source action `delete` is possible.",
        True,
    )
    maximum_message_bytes: int = help_field(
        "Larger messages are not read but shown as undeliverable with their size.", 150 * 1024 * 1024
    )

    @property
    def default_port(self) -> int:
        return PORT_TLS if self.tls is TlsMode.IMPLICIT else PORT


def check(settings: Pop3Settings, action: SourceAction) -> str:
    """Why this source action is not possible over POP3, or ""."""
    if action in (SourceAction.SEEN, SourceAction.MOVE):
        return f"POP3 cannot {'mark' if action is SourceAction.SEEN else 'move'} messages; only leave or delete"
    if not settings.uidl and action is not SourceAction.DELETE:
        return "without UIDL messages cannot be told apart, so that they must be deleted once their outcome is durable"
    return ""
