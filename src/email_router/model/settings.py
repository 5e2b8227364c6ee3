"""The published settings: what a revision says, validated, as frozen values.

Help texts live on the fields (`metadata["help"]`); docs/settings.md is made from them (`make generate`), and later the
pages. `router.toml`'s own bootstrap values (data directory or DSN, key) are in `settings/bootstrap.py`, not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from email_router.model.mailbox import MailboxKind, SourceAction


def help_field(text: str, default: Any) -> Any:
    """A dataclass field with its help text beside it."""
    return field(default=default, metadata={"help": text})


class TlsMode(StrEnum):
    NONE = "none"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


class AuthMechanism(StrEnum):
    """How to log in. AUTO takes the strongest that the server offers and the credentials allow."""

    AUTO = "auto"
    PLAIN = "plain"
    LOGIN = "login"
    XOAUTH2 = "xoauth2"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where a mail server is and how far it is trusted. Every network connector's settings begin with these."""

    host: str = help_field("Host name or address of the mail server.", "")
    port: int = help_field("TCP port; 0 takes the protocol's standard port for the TLS mode.", 0)
    tls: TlsMode = help_field(
        "`starttls`, `implicit` or `none`. A failed STARTTLS fails; it never goes on in clear.", TlsMode.STARTTLS
    )
    ca_file: str = help_field("PEM file with the authorities to trust instead of the system's.", "")
    pinned_sha256: str = help_field("SHA-256 (hex) of the server's certificate (DER): only that one is accepted.", "")
    minimum_tls: str = help_field(
        "`1.2` or `1.3`; `1.0` and `1.1` are possible for old servers and warned about.", "1.2"
    )
    proxy: str = help_field(
        "`http://host:port` or `socks5://host:port` to go through; empty for a direct connection.", ""
    )
    connect_timeout: float = help_field("Seconds to wait for a connection and its TLS handshake.", 20.0)
    timeout: float = help_field("Seconds to wait for each answer of the server.", 60.0)
    auth: AuthMechanism = help_field("Login mechanism.", AuthMechanism.AUTO)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and where its secret is: `env:NAME`, `file:/path`, `secret:name` (stored, encrypted), or "" for none.

    The secret itself is never part of the settings.
    """

    username: str = ""
    secret: str = ""


@dataclass(frozen=True, slots=True)
class IncomingProfile:
    """An email system that mail is received from. `server` is the connector's own settings dataclass.

    `credentials` are profile-wide (*Other specified*); a mailbox's own take precedence (*User specified*).
    """

    name: str
    kind: str
    server: Any
    credentials: Credentials = Credentials()
    poll_seconds: float = help_field(
        "Seconds between two looks at a mailbox, 1 to 86400; where the server tells of new mail, only a safety net.",
        60.0,
    )
    jitter: float = help_field(
        "Share of `poll_seconds` by which each period varies, 0 to 0.5, so that mailboxes do not knock together.", 0.1
    )
    connections: int = help_field("How many mailboxes of this profile may be read at the same time.", 20)


class UncertainPolicy(StrEnum):
    ASK = "ask"
    SENT = "sent"
    AGAIN = "again"


@dataclass(frozen=True, slots=True)
class OutgoingProfile:
    """An email system that mail is sent through."""

    name: str
    kind: str
    server: Any
    credentials: Credentials = Credentials()
    connections: int = help_field("How many connections are used at the same time.", 5)
    messages_per_minute: float = help_field("At most so many messages a minute, evenly; 0 means no limit.", 0.0)
    retry_seconds: float = help_field("Seconds until recipients that the server deferred are tried again.", 300.0)
    attempts: int = help_field(
        "So often is an email tried that the server defers; a server that cannot be reached does not count.", 10
    )
    give_up_hours: float = help_field("Hours that mail waits for a server that cannot be reached.", 72.0)
    uncertain_policy: UncertainPolicy = help_field(
        "What becomes of an email that was handed over and never answered for: `ask` leaves it to a person, `sent` "
        "takes it for sent, `again` sends it once more, which its recipients may get twice.",
        UncertainPolicy.ASK,
    )
    uncertain_hours: float = help_field(
        "Hours that are waited for a reply or a bounce, which settle it, before `sent` or `again` does.", 24.0
    )


@dataclass(frozen=True, slots=True)
class TrackingSettings:
    """Organization settings of tracking; the names that the original gave them are in the comments."""

    use_tokens: bool = help_field("Put tracking tokens into subjects, and find conversations by them.", True)
    # TrackingPrefix
    token_prefix: str = help_field("What tokens begin with, 1 to 20 characters.", "CRM:")
    token_prefix_history: tuple[str, ...] = help_field("Prefixes of the past, still read.", ())
    token_base: int = help_field("Added to the user's number in tokens (deployment base tracking number).", 0)
    token_user_digits: int = help_field("Digits of the user's number in tokens.", 3)
    token_counter_digits: int = help_field("Digits of the counter in tokens; afterwards it begins anew.", 3)
    use_headers: bool = help_field("Find conversations by In-Reply-To and References.", True)
    # MaximumSubjectLengthOnMailServer
    maximum_subject: int = help_field("Longer subjects are cut before the token is added.", 255)
    approved_users_only: bool = help_field("Only users whose address is approved are tracked and may send.", True)
    approved_queues_only: bool = help_field("Only queues whose address is approved are tracked and may send.", True)
    # UseFilteringMethodOfSyncingMailboxOnlyForCorrelation
    only_receiving_filter: bool = help_field(
        "Only the filter of the mailbox that was read counts, not those of other recipients.", False
    )
    # ignoreinternalemail, inverted
    track_internal_as_two: bool = help_field(
        "Track email between users of the CRM twice, as sent and as received; false tracks it only as sent.", True
    )
    # UnresolveSenderInCaseOfMultipleMatch
    unresolved_if_ambiguous: bool = help_field(
        "A sender's address that several active records have resolves to none of them; false takes the best one.", False
    )
    own_lists: tuple[str, ...] = help_field(
        "List-Ids of groups and lists that pass mail on to your mailboxes: what comes through them counts as written "
        "by its sender, not as list mail.",
        (),
    )
    token_wrap_days: int = help_field(
        "A token issued longer ago is last year's counter come round again, and not matched.", 365
    )


@dataclass(frozen=True, slots=True)
class Deployment:
    """One CRM organization the router serves. `crm` names the CRM connector."""

    name: str
    organization: str = field(
        metadata={"help": "Name of the organization in the CRM; by default the deployment's name."}
    )
    crm: str = help_field("The CRM: only `embedded` so far.", "embedded")
    incoming_profile: str = help_field("Profile of mailboxes that name none.", "")
    outgoing_profile: str = help_field("Profile of mailboxes that name none.", "")
    tracking: TrackingSettings = TrackingSettings()
    keep_raw_days: int = help_field("Days for which tracked messages are kept as they came; 0 for not at all.", 30)
    keep_untracked_days: int = help_field(
        "Days for which sender, recipients and subject of mail that is not tracked are kept; then only their hashes, "
        "by which a full address is still found, or nothing where no key is configured.",
        14,
    )


@dataclass(frozen=True, slots=True)
class MailboxSettings:
    """A mailbox the router watches or sends for, and by which profiles. Its address is its key everywhere."""

    address: str
    kind: MailboxKind = field(
        metadata={"help": "`user`, `queue`, or `forward`: a mailbox into which rules forward mail as attachment."}
    )
    deployments: tuple[str, ...] = field(
        metadata={"help": "Which deployments it serves; may be left out when there is only one."}
    )
    incoming_profile: str = help_field("How it is read; by default the profile of its first deployment.", "")
    outgoing_profile: str = help_field("How it sends; by default the profile of its first deployment.", "")
    credentials: Credentials = Credentials()
    folder: str = help_field("Folder to read, where the system has folders; by default the profile's.", "")
    source_action: SourceAction = help_field(
        "What is done to a message in its mailbox once it is tracked: `leave`, `seen`, `move` or `delete`. Mail that "
        "is not tracked is never touched, except in forward mailboxes.",
        SourceAction.LEAVE,
    )
    move_to: str = help_field("Folder to move to, for `move`.", "")
    threshold: datetime | None = help_field(
        "Mail received earlier is left alone, such as 2026-11-01T00:00:00Z; by default the moment at which the "
        "mailbox was first published.",
        None,
    )
    enabled: bool = help_field("False leaves the mailbox alone: nothing is read, nothing is sent.", True)
    trusted_authserv_id: str = help_field(
        "Forward mailboxes: the authserv-id (RFC 8601) whose verdict on a forwarder is believed.", ""
    )
    trusted_forwarder_hosts: tuple[str, ...] = help_field(
        "Forward mailboxes: networks (CIDR) whose forwards are believed, read from the topmost Received field.", ()
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """One whole revision. Maps are by name (profiles, deployments) and by address (mailboxes)."""

    revision: int
    deployments: Mapping[str, Deployment]
    incoming: Mapping[str, IncomingProfile]
    outgoing: Mapping[str, OutgoingProfile]
    mailboxes: Mapping[str, MailboxSettings]
