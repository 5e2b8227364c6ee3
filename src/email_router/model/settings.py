"""The published settings: what a revision says, validated, as frozen values.

Help texts live on the fields (`metadata["help"]`); the docs, the CLI and later the pages are made from them.
`router.toml`'s own bootstrap values (data directory or DSN, key) are in `settings/bootstrap.py`, not here.
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
    """An email system that mail is received from. `server` is the connector's own settings dataclass."""

    name: str
    kind: str
    server: Any
    credentials: Credentials = Credentials()
    """Profile-wide credentials (*Other specified*); a mailbox's own take precedence (*User specified*)."""
    poll_seconds: float = 60.0
    jitter: float = 0.1
    """Share of `poll_seconds` by which each period varies, so that mailboxes do not knock together."""
    connections: int = 20
    """How many mailboxes of this profile may be read at the same time."""


@dataclass(frozen=True, slots=True)
class OutgoingProfile:
    """An email system that mail is sent through."""

    name: str
    kind: str
    server: Any
    credentials: Credentials = Credentials()
    connections: int = 5
    messages_per_minute: float = 0.0
    """0 means no limit."""
    retry_seconds: float = 300.0
    attempts: int = 10
    give_up_hours: float = 72.0
    """How long mail waits for a server that cannot be reached."""


@dataclass(frozen=True, slots=True)
class TrackingSettings:
    """Organization settings of tracking; the names of the original are in the comments."""

    use_tokens: bool = True
    """Use tracking tokens."""
    token_prefix: str = "CRM:"
    """TrackingPrefix: the current prefix."""
    token_prefix_history: tuple[str, ...] = ()
    """Past prefixes, still read."""
    token_base: int = 0
    """Deployment base tracking number: added to the user number."""
    token_user_digits: int = 3
    token_counter_digits: int = 3
    use_headers: bool = True
    """Use correlation: In-Reply-To and References."""
    maximum_subject: int = 255
    """MaximumSubjectLengthOnMailServer."""
    approved_users_only: bool = True
    approved_queues_only: bool = True
    only_receiving_filter: bool = False
    """UseFilteringMethodOfSyncingMailboxOnlyForCorrelation: only the filter of the mailbox that was read counts."""
    track_internal_as_two: bool = True
    """Track emails sent between CRM users as two activities (`ignoreinternalemail` inverted)."""
    unresolved_if_ambiguous: bool = False
    """UnresolveSenderInCaseOfMultipleMatch."""
    token_wrap_days: int = 365
    """A token older than this is a wrapped counter of last year: not matched."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One CRM organization the router serves. `crm` names the CRM connector."""

    name: str
    organization: str
    crm: str = "embedded"
    incoming_profile: str = ""
    outgoing_profile: str = ""
    tracking: TrackingSettings = TrackingSettings()
    keep_raw_days: int = 30
    keep_untracked_days: int = 14
    uncertain_policy: str = "ask"
    """`ask`, `treat-as-sent` or `send-again` (after `uncertain_hours`)."""
    uncertain_hours: float = 24.0


@dataclass(frozen=True, slots=True)
class MailboxSettings:
    """A mailbox the router watches or sends for, and by which profiles.

    `name` is its address, the mailbox's key everywhere. `threshold`: mail received before it is left alone; None means
    the moment the mailbox was first published.
    """

    address: str
    kind: MailboxKind
    deployments: tuple[str, ...]
    incoming_profile: str = ""
    outgoing_profile: str = ""
    credentials: Credentials = Credentials()
    folder: str = ""
    source_action: SourceAction = SourceAction.LEAVE
    move_to: str = ""
    threshold: datetime | None = None
    enabled: bool = True
    trusted_authserv_id: str = ""
    """Forward mailboxes: the authserv-id (RFC 8601) whose verdict on a forwarder is believed."""
    trusted_forwarder_hosts: tuple[str, ...] = ()
    """Forward mailboxes: networks (CIDR) whose forwards are believed, read from the topmost Received field."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One whole revision. Maps are by name (profiles, deployments) and by address (mailboxes)."""

    revision: int
    deployments: Mapping[str, Deployment]
    incoming: Mapping[str, IncomingProfile]
    outgoing: Mapping[str, OutgoingProfile]
    mailboxes: Mapping[str, MailboxSettings]
