"""Settings of a Maildir profile: a directory on this machine, or one per mailbox."""

from __future__ import annotations

from dataclasses import dataclass

from email_router.model.mailbox import SourceAction
from email_router.model.settings import help_field


@dataclass(frozen=True, slots=True, kw_only=True)
class MaildirSettings:
    path: str = help_field(
        "Directory of the Maildir, or of *.eml files; `{address}` stands for the mailbox's address.", ""
    )
    maximum_message_bytes: int = help_field(
        "Larger messages are not read but shown as undeliverable with their size.", 150 * 1024 * 1024
    )


def check(settings: MaildirSettings, action: SourceAction) -> str:
    """Why this source action is not possible, or ""."""
    if not settings.path:
        return "the Maildir's path is missing"
    if action in (SourceAction.SEEN, SourceAction.MOVE):
        return "messages of a Maildir can be left or deleted"
    return ""
