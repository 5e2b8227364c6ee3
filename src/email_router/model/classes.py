"""What kind of sender a message has: a person, a robot, a mail system that reports. It decides what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MessageClass(StrEnum):
    OWN = "own mail"
    """What we sent ourselves and find in a mailbox: a copy, an echo."""
    BOUNCE = "bounce"
    DELIVERY_NOTE = "delivery note"
    """A delivery report that tells no failure: delayed, relayed, delivered."""
    READ_RECEIPT = "read receipt"
    COMPLAINT = "complaint"
    AUTO_REPLY = "automatic reply"
    AUTO_GENERATED = "automatic message"
    LIST = "list or bulk mail"
    SUPPRESS = "mail that asks for no automatic answer"
    """A person, or nearly one: treated as a person, but never answered by a robot."""
    HUMAN = "mail from a person"

    @property
    def is_report(self) -> bool:
        """It is about a message of ours, which only the exact id of that message tells."""
        return self in (self.BOUNCE, self.DELIVERY_NOTE, self.READ_RECEIPT, self.COMPLAINT)

    @property
    def makes_records(self) -> bool:
        return self in (self.HUMAN, self.SUPPRESS)

    @property
    def is_machine(self) -> bool:
        """Monitors, shops, lists: they may make records where somebody wants that."""
        return self in (self.AUTO_GENERATED, self.LIST)


@dataclass(frozen=True, slots=True)
class Mark:
    """A header line that says something about the sender. One that is `supporting` decides nothing by itself."""

    rule: str
    says: MessageClass
    line: str
    supporting: bool = False


@dataclass(frozen=True, slots=True)
class Classification:
    """The class, the rule that decided, and the header line by which it did."""

    kind: MessageClass
    rule: str
    line: str = ""

    @property
    def words(self) -> str:
        return f"{self.kind.value} ({self.line})" if self.line else self.kind.value
