"""Settings of an IMAP profile."""

from __future__ import annotations

from dataclasses import dataclass

from email_router.model.settings import ServerSettings, TlsMode, help_field

PORT = 143
PORT_TLS = 993


@dataclass(frozen=True, slots=True, kw_only=True)
class ImapSettings(ServerSettings):
    folder: str = help_field("Folder to read when the mailbox names none; levels as the server writes them.", "INBOX")
    idle: bool = help_field("Let the server tell of new mail at once (IDLE). Without it the folder is polled.", True)
    idle_seconds: float = help_field(
        "Seconds after which IDLE is asked for again, at most 1500: this is how a dead connection is noticed.", 600.0
    )
    maximum_message_bytes: int = help_field(
        "Larger messages are not read but shown as undeliverable with their size.", 150 * 1024 * 1024
    )

    @property
    def default_port(self) -> int:
        return PORT_TLS if self.tls is TlsMode.IMPLICIT else PORT
