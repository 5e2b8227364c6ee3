"""The originals that a forwarding rule attached to a message."""

from __future__ import annotations

from email_router.model.message import Attachment, ParsedEmail

_WHOLE_MESSAGES = frozenset(("message/rfc822", "message/global"))


def originals(email: ParsedEmail) -> tuple[Attachment, ...]:
    """The attached messages of a forward, whole, in their order.

    One level only: messages inside them stay their attachments, so that nobody can wrap mail in mail to be believed.
    """
    return tuple(a for a in email.attachments if a.content_type in _WHOLE_MESSAGES)
