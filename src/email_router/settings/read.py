"""The settings of one installation: one TOML text in, validated settings out, or every problem with its line.

[deployment.sales]            an organization and its CRM, its default profiles, tracking
[incoming.office]             an email system to receive from
[outgoing.relay]              an email system to send through
[mailbox."help@example.com"]  a user's, a queue's or a forward mailbox
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any

from email_router.mime.addresses import normalise
from email_router.model.mailbox import MailboxKind, SourceAction
from email_router.model.settings import (
    Credentials,
    Deployment,
    IncomingProfile,
    MailboxSettings,
    OutgoingProfile,
    ServerSettings,
    Settings,
    TlsMode,
    TrackingSettings,
)
from email_router.settings.build import build, values
from email_router.settings.lines import lines
from email_router.settings.problems import Invalid, Problem, suggestion

SECTIONS = ("deployment", "incoming", "outgoing", "mailbox")
_CREDENTIALS = frozenset({"username", "password"})
_PROFILE = frozenset({"kind"})
_POLLING = frozenset({"poll_seconds", "jitter", "connections"})
_PUSHED = frozenset({"poll_seconds"})
_READING = frozenset({"folder", "threshold"})
"""Settings of a mailbox that only count where it is read."""
_SENDING = frozenset(
    {
        "connections",
        "messages_per_minute",
        "retry_seconds",
        "attempts",
        "give_up_hours",
        "uncertain_policy",
        "uncertain_hours",
    }
)
_RANGES = {
    "attempts": (1, 1000),
    "connect_timeout": (0.1, 600),
    "data_timeout": (1, 3600),
    "give_up_hours": (0.01, 8760),
    "idle_seconds": (1, 1500),
    "keep_raw_days": (0, 36500),
    "keep_untracked_days": (0, 36500),
    "maximum_connections": (1, 100_000),
    "maximum_message_bytes": (1024, 1 << 40),
    "maximum_subject": (40, 1000),
    "messages_per_minute": (0, 1_000_000),
    "retry_seconds": (1, 604_800),
    "timeout": (0.1, 3600),
    "token_base": (0, 10**9),
    "token_counter_digits": (1, 9),
    "token_user_digits": (1, 9),
    "token_wrap_days": (1, 36500),
    "uncertain_hours": (0.01, 8760),
}
"""Beyond these nothing works: no token is told from another, no time can be reckoned, no server is waited for."""
_LOCAL = ("localhost", "127.", "::1", "[::1]")


@dataclass(frozen=True, slots=True)
class Kind:
    """What the settings need to know of an email system: its dataclass, what it can, and its own objections."""

    settings: type[Any]
    receives: bool
    sends: bool
    check: Any = None
    objections: Any = None
    pushed: bool = False
    """Mail is pushed into it: nothing is read, and nobody logs in."""


@dataclass(slots=True)
class _Reader:
    file: str
    kinds: Mapping[str, Kind]
    places: Mapping[tuple[str, ...], int]
    problems: list[Problem] = field(default_factory=list)

    def complain(self, path: tuple[str, ...], what: str, cure: str, severity: str = "error") -> None:
        line = next((self.places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.places), 0)
        self.problems.append(Problem(line, _dotted(path), what, cure, severity))

    def at(self, *path: str) -> Any:
        return lambda key, what, cure: self.complain((*path, key), what, cure)


def read(
    text: str, kinds: Mapping[str, Kind], *, file: str = "settings", revision: int = 0
) -> tuple[Settings, tuple[Problem, ...]]:
    """Settings and warnings. Raises `Invalid` with every error found."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(file, [_syntax(error, text)]) from error
    reader = _Reader(file, kinds, lines(text))
    sections = _sections(reader, tables)
    settings = Settings(
        revision,
        {name: _deployment(reader, name, table) for name, table in sections["deployment"].items()},
        {n: p for n, t in sections["incoming"].items() if (p := _incoming(reader, n, t)) is not None},
        {n: o for n, t in sections["outgoing"].items() if (o := _outgoing(reader, n, t)) is not None},
        {},
    )
    settings = replace(settings, mailboxes=_mailboxes(reader, sections["mailbox"], settings))
    _check_references(reader, settings, sections)
    errors = [p for p in reader.problems if p.severity == "error"]
    if errors:
        raise Invalid(file, errors)
    return settings, tuple(reader.problems)


def _sections(reader: _Reader, tables: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in SECTIONS}
    for section, content in tables.items():
        if section not in SECTIONS:
            reader.complain((section,), "there is no such section", suggestion(section, SECTIONS))
        elif not isinstance(content, dict):
            reader.complain((section,), "this is no section", f"write [{section}.NAME]")
        else:
            for name, table in content.items():
                if isinstance(table, dict):
                    found[section][name] = table
                else:
                    reader.complain((section, name), "this is no section", f"write [{section}.NAME] above it")
    return found


def _deployment(reader: _Reader, name: str, table: Mapping[str, Any]) -> Deployment:
    tracking = table.get("tracking", {})
    made: Deployment = build(
        Deployment,
        {"name": name, "organization": name} | {k: v for k, v in table.items() if k != "name"},
        reader.at("deployment", name),
        also=frozenset({"tracking"}),
    )
    if not isinstance(tracking, dict):
        reader.complain(("deployment", name, "tracking"), "this is no section", f"write [deployment.{name}.tracking]")
        return made
    made = replace(made, tracking=build(TrackingSettings, tracking, reader.at("deployment", name, "tracking")))
    _check_ranges(reader, ("deployment", name), made)
    _check_ranges(reader, ("deployment", name, "tracking"), made.tracking)
    if made.crm != "embedded":
        reader.complain(("deployment", name, "crm"), f"there is no CRM {made.crm!r}", 'write crm = "embedded"')
    if not 1 <= len(made.tracking.token_prefix) <= 20:
        place = ("deployment", name, "tracking", "token_prefix")
        reader.complain(
            place, "a prefix has 1 to 20 characters", "shorten it; to track without tokens: use_tokens = false"
        )
    return made


def _incoming(reader: _Reader, name: str, table: Mapping[str, Any]) -> IncomingProfile | None:
    kind = reader.kinds.get(str(table.get("kind")))
    polling = _PUSHED if kind is not None and kind.pushed else _POLLING
    server = _server(reader, "incoming", name, table, polling)
    if server is None:
        return None
    mine = values(IncomingProfile, {k: v for k, v in table.items() if k in polling}, reader.at("incoming", name))
    profile = IncomingProfile(name, table["kind"], server, _credentials(reader, ("incoming", name), table), **mine)
    if not 1 <= profile.poll_seconds <= 86400:
        reader.complain(("incoming", name, "poll_seconds"), "the polling period is out of range", "1 to 86400 seconds")
    if not 0 <= profile.jitter <= 0.5:
        reader.complain(("incoming", name, "jitter"), "the jitter is out of range", "0 to 0.5")
    _check_connections(reader, "incoming", name, profile.connections)
    return profile


def _outgoing(reader: _Reader, name: str, table: Mapping[str, Any]) -> OutgoingProfile | None:
    server = _server(reader, "outgoing", name, table, _SENDING)
    if server is None:
        return None
    mine = values(OutgoingProfile, {k: v for k, v in table.items() if k in _SENDING}, reader.at("outgoing", name))
    profile = OutgoingProfile(name, table["kind"], server, _credentials(reader, ("outgoing", name), table), **mine)
    _check_ranges(reader, ("outgoing", name), profile)
    _check_connections(reader, "outgoing", name, profile.connections)
    return profile


def _check_ranges(reader: _Reader, path: tuple[str, ...], made: Any) -> None:
    for name, (least, most) in _RANGES.items():
        value = getattr(made, name, None)
        if value is not None and not least <= value <= most:
            reader.complain((*path, name), f"{value:g} is out of range", f"{least:,g} to {most:,g}")


def _check_connections(reader: _Reader, section: str, name: str, connections: int) -> None:
    if not 1 <= connections <= 1000:
        reader.complain((section, name, "connections"), f"{connections} connections are not possible", "1 to 1000")


def _server(
    reader: _Reader, section: str, name: str, table: Mapping[str, Any], others: frozenset[str]
) -> ServerSettings | None:
    path = (section, name)
    kind = table.get("kind")
    fitting = {n: k for n, k in reader.kinds.items() if (k.receives if section == "incoming" else k.sends)}
    if kind is None:
        reader.complain((*path, "kind"), "the kind of email system is missing", f"kind = {suggestion('', fitting)}")
        return None
    if kind not in fitting:
        reader.complain((*path, "kind"), f"{kind!r} is not possible here", suggestion(str(kind), fitting))
        return None
    rest = {key: value for key, value in table.items() if key not in others}
    login = _CREDENTIALS if issubclass(fitting[kind].settings, ServerSettings) else frozenset()
    server = build(fitting[kind].settings, rest, reader.at(*path), also=login | _PROFILE)
    _check_ranges(reader, path, server)
    if isinstance(server, ServerSettings):
        _check_server(reader, path, server)
    objections = fitting[kind].objections
    for objection in objections(server) if objections is not None else ():
        severity = "warning" if objection.warning else "error"
        reader.complain((*path, objection.key), objection.what, objection.cure, severity)
    return server  # type: ignore[no-any-return]


def _check_server(reader: _Reader, path: tuple[str, ...], server: ServerSettings) -> None:
    if not server.host:
        reader.complain((*path, "host"), "the mail server is missing", 'host = "mail.example.com"')
    if not 0 <= server.port <= 65535:
        reader.complain(
            (*path, "port"), f"{server.port} is no port", "1 to 65535, or leave it out for the standard port"
        )
    if server.minimum_tls not in ("1.0", "1.1", "1.2", "1.3"):
        reader.complain((*path, "minimum_tls"), f"{server.minimum_tls!r} is not possible", "1.2 or 1.3")
    elif server.minimum_tls in ("1.0", "1.1"):
        cure = "update the mail server, then remove minimum_tls"
        reader.complain((*path, "minimum_tls"), f"TLS {server.minimum_tls} is broken", cure, "warning")
    if server.ca_file and not File(server.ca_file).is_file():
        reader.complain((*path, "ca_file"), f"the file {server.ca_file} does not exist", "correct the path")
    if server.pinned_sha256 and not re.fullmatch(r"(?:[0-9a-fA-F]{2}:?){32}", server.pinned_sha256):
        cure = "64 hexadecimal digits: openssl x509 -noout -fingerprint -sha256"
        reader.complain((*path, "pinned_sha256"), "this is no SHA-256 fingerprint", cure)
    if server.proxy and not re.match(r"(?:http|socks5)://[^/]+:\d+$", server.proxy):
        reader.complain((*path, "proxy"), "this is no proxy", "write http://host:port or socks5://host:port")
    elif "@" in server.proxy:
        what = "the proxy's password stands in the settings, which every backup and every revision keeps in clear"
        reader.complain((*path, "proxy"), what, "have the proxy let this machine through without one", "warning")
    if server.tls is TlsMode.NONE and not server.host.startswith(_LOCAL):
        what = "passwords and mail cross the network in clear"
        reader.complain((*path, "tls"), what, 'tls = "starttls" or "implicit"', "warning")


def _credentials(reader: _Reader, path: tuple[str, ...], table: Mapping[str, Any]) -> Credentials:
    username, secret = table.get("username", ""), table.get("password", "")
    for key, value in (("username", username), ("password", secret)):
        if not isinstance(value, str):
            reader.complain((*path, key), f"{value!r} is not a text in quotes", "write a text in quotes")
            return Credentials()
    if secret and not re.match(r"(?:env|file|secret):.", secret):
        cure = 'password = "env:NAME", "file:/path" or "secret:NAME" (email-router secret set NAME)'
        reader.complain((*path, "password"), "a password must not stand in the settings", cure)
    if secret and not username:
        reader.complain((*path, "username"), "a password without a user name", "add username")
    return Credentials(username, secret)


def _mailboxes(
    reader: _Reader, tables: Mapping[str, Mapping[str, Any]], settings: Settings
) -> dict[str, MailboxSettings]:
    found: dict[str, MailboxSettings] = {}
    keys: set[str] = set()
    for written, table in tables.items():
        address = normalise(written)
        if not address:
            reader.complain(("mailbox", written), "this is no email address", 'write [mailbox."name@example.com"]')
            continue
        if address.casefold() in keys:
            reader.complain(("mailbox", written), "this mailbox is there twice", "remove one of them")
            continue
        keys.add(address.casefold())
        found[address] = _mailbox(reader, written, address, table, settings)
    return found


def _mailbox(
    reader: _Reader, written: str, address: str, table: Mapping[str, Any], settings: Settings
) -> MailboxSettings:
    path = ("mailbox", written)
    only = tuple(settings.deployments) if len(settings.deployments) == 1 else ()
    plain = MailboxSettings(address, MailboxKind.USER, only)
    rest = {key: value for key, value in table.items() if key not in _CREDENTIALS}
    if "address" in rest or "credentials" in rest:
        reader.complain(path, "the address stands in the section's name, the login in username and password", "move it")
    mine = values(MailboxSettings, rest, reader.at(*path), frozenset({"address", "credentials"}))
    mailbox = replace(plain, **mine, credentials=_credentials(reader, path, table))
    defaults = [settings.deployments[d] for d in mailbox.deployments if d in settings.deployments][:1]
    if defaults:
        mailbox = replace(
            mailbox,
            incoming_profile=mailbox.incoming_profile or defaults[0].incoming_profile,
            outgoing_profile=mailbox.outgoing_profile or defaults[0].outgoing_profile,
        )
    if mailbox.source_action is SourceAction.MOVE and not mailbox.move_to:
        reader.complain((*path, "move_to"), "the folder to move to is missing", 'move_to = "Tracked"')
    _check_forward(reader, path, mailbox)
    return mailbox


def _check_forward(reader: _Reader, path: tuple[str, ...], mailbox: MailboxSettings) -> None:
    for host in mailbox.trusted_forwarder_hosts:
        try:
            network = ipaddress.ip_network(host, strict=False)
        except ValueError:
            what = f"{host!r} is no network"
            reader.complain((*path, "trusted_forwarder_hosts"), what, "write 192.0.2.0/24, 192.0.2.1 or 2001:db8::/32")
        else:
            if not network.prefixlen:
                what = f"{host} is everybody: anybody could forward as any user"
                reader.complain((*path, "trusted_forwarder_hosts"), what, "name the networks of your own mail servers")
    proof = mailbox.trusted_authserv_id or mailbox.trusted_forwarder_hosts
    if mailbox.kind is MailboxKind.FORWARD and not proof:
        what = "nothing proves who forwarded a message, so that none of its mail will be tracked"
        cure = "name your mail server's authserv-id in trusted_authserv_id, or its networks in trusted_forwarder_hosts"
        reader.complain((*path, "trusted_authserv_id"), what, cure, "warning")


def _check_references(reader: _Reader, settings: Settings, sections: Mapping[str, Mapping[str, Any]]) -> None:
    for name, deployment in settings.deployments.items():
        for key, profiles in (("incoming_profile", "incoming"), ("outgoing_profile", "outgoing")):
            _check_profile(reader, ("deployment", name, key), getattr(deployment, key), sections[profiles])
    written = {normalise(w): w for w in sections["mailbox"]}
    _check_shared(reader, settings, written)
    for address, mailbox in settings.mailboxes.items():
        path = ("mailbox", written.get(address, address))
        if not mailbox.deployments:
            reader.complain((*path, "deployments"), "it serves no deployment", f"deployments = [{_some(settings)}]")
        for name in mailbox.deployments:
            if name not in settings.deployments:
                what = f"there is no deployment {name!r}"
                reader.complain((*path, "deployments"), what, suggestion(name, settings.deployments))
        _check_profile(reader, (*path, "incoming_profile"), mailbox.incoming_profile, sections["incoming"])
        _check_profile(reader, (*path, "outgoing_profile"), mailbox.outgoing_profile, sections["outgoing"])
        profile = settings.incoming.get(mailbox.incoming_profile)
        check = reader.kinds[profile.kind].check if profile is not None else None
        words = check(profile.server, mailbox.source_action) if check is not None and profile is not None else ""
        if words:
            reader.complain((*path, "source_action"), words, "choose another source_action or email system")
        if profile is not None and reader.kinds[profile.kind].pushed:
            for key in sorted(sections["mailbox"][path[1]].keys() & (_READING | _CREDENTIALS)):
                reader.complain((*path, key), "mail is pushed into this mailbox: nothing is read", f"remove {key}")
        if profile is not None and mailbox.source_action is SourceAction.MOVE and _moves_to_itself(mailbox, profile):
            what = "mail would be moved into the folder that it is read from, again and again"
            reader.complain((*path, "move_to"), what, 'name another folder: move_to = "Tracked"')


def _moves_to_itself(mailbox: MailboxSettings, profile: IncomingProfile) -> bool:
    folder = mailbox.folder or str(getattr(profile.server, "folder", ""))
    inbox = folder.upper() == mailbox.move_to.upper() == "INBOX"  # in any case the same (RFC 3501 section 5.1)
    return inbox or folder == mailbox.move_to


def _check_shared(reader: _Reader, settings: Settings, written: Mapping[str, str]) -> None:
    """Two mailboxes that are one folder of one account: each would take the other's mail for its own."""
    readers: dict[tuple[str, str, str], str] = {}
    for address, mailbox in settings.mailboxes.items():
        profile = settings.incoming.get(mailbox.incoming_profile)
        if profile is None or not mailbox.enabled or not isinstance(profile.server, ServerSettings):
            continue
        user = (mailbox.credentials.username or profile.credentials.username).replace("{address}", address)
        folder = mailbox.folder or str(getattr(profile.server, "folder", ""))
        other = readers.setdefault((profile.name, user, folder), address)
        if user and other != address:
            path = ("mailbox", written.get(address, address), "username")
            what = f"it reads the same folder as {other}, so that mail for either is judged as mail for both"
            cure = 'username = "{address}" in the profile, a username of its own, or another folder'
            reader.complain(path, what, cure, "warning")


def _check_profile(reader: _Reader, path: tuple[str, ...], name: str, profiles: Mapping[str, Any]) -> None:
    if name and name not in profiles:
        reader.complain(path, f"there is no such profile: {name!r}", suggestion(name, profiles))


def _some(settings: Settings) -> str:
    return ", ".join(f'"{name}"' for name in list(settings.deployments)[:1]) or '"NAME"'


def _syntax(error: tomllib.TOMLDecodeError, text: str) -> Problem:
    message = str(error)
    found = re.search(r"\(at line (\d+), column (\d+)\)", message)
    line = int(found.group(1)) if found else len(text.splitlines())
    what = message.partition(" (at ")[0]
    place = f", column {found.group(2)}" if found else ""
    cure = "see the TOML rules: texts stand in quotes, sections in [brackets], each key once"
    return Problem(line, f"syntax{place}", what, cure)


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(name if re.fullmatch(r"[\w-]+", name) else f'"{name}"' for name in path)
