"""Status reasons of an email activity, with the numbers of Dynamics, and what a person may make of them.

    Draft ──submit──▶ Pending Send ──claim──▶ Sending ──settle──▶ Sent
                           ▲                     └────settle──▶ Failed
                           └───────────submit──────────────────────┘

Received is where received mail begins and ends. What waits may be canceled; what was handed over before it was canceled
is Sent all the same.
"""

from __future__ import annotations

from enum import IntEnum


class EmailStatus(IntEnum):
    """`email.statuscode`."""

    DRAFT = 1
    COMPLETED = 2
    SENT = 3
    RECEIVED = 4
    CANCELED = 5
    PENDING_SEND = 6
    SENDING = 7
    FAILED = 8

    @property
    def label(self) -> str:
        """As people read it: `Pending Send`."""
        return self.name.replace("_", " ").title()


MAY_BECOME: dict[EmailStatus, frozenset[EmailStatus]] = {
    EmailStatus.DRAFT: frozenset({EmailStatus.PENDING_SEND, EmailStatus.COMPLETED, EmailStatus.CANCELED}),
    EmailStatus.PENDING_SEND: frozenset({EmailStatus.CANCELED}),
    EmailStatus.SENDING: frozenset({EmailStatus.CANCELED}),
    EmailStatus.FAILED: frozenset({EmailStatus.PENDING_SEND, EmailStatus.CANCELED}),
}
"""What a person may do; everything else on an email's way is done by the router."""
