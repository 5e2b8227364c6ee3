"""Settings of an LMTP profile: where to listen, whom to let in, how much to take."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from email_router.model.mailbox import SourceAction
from email_router.model.settings import help_field
from email_router.ports.mail import Objection

PORT = 8024
SMTP_PORT = 25
WIDE = {4: 8, 6: 16}
"""Prefix lengths below which an allowed network is a good part of the internet."""
LOCAL = ipaddress.IPv6Network("fc00::/7")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class LmtpSettings:
    host: str = help_field(
        "Address of this machine to listen on: `0.0.0.0` is all of them (IPv4), `::` all of IPv6. Of several routers "
        "the one that holds the profile listens: then name what each machine has.",
        "127.0.0.1",
    )
    port: int = help_field("TCP port to listen on.", PORT)
    socket: str = help_field(
        "Path of a Unix socket to listen on instead of host and port; its directory decides who may connect.", ""
    )
    allowed_peers: tuple[str, ...] = help_field(
        "Networks of the mail servers that may hand mail over; everybody else is refused when connecting.",
        ("127.0.0.0/8", "::1/128"),
    )
    maximum_message_bytes: int = help_field("Larger messages are refused.", 150 * 1024 * 1024)
    maximum_connections: int = help_field("Connections at the same time; more are told to come again.", 100)
    timeout: float = help_field("Seconds that a peer may be silent.", 300.0)
    certificate_file: str = help_field("PEM file with the certificate (and its chain) for STARTTLS.", "")
    key_file: str = help_field("PEM file with the certificate's private key.", "")
    require_tls: bool = help_field("Take mail only after STARTTLS.", False)

    @property
    def where(self) -> str:
        return self.socket or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def networks(settings: LmtpSettings) -> tuple[Network, ...]:
    """The allowed networks. Raises ValueError for what is none."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in settings.allowed_peers)


def wide_open(settings: LmtpSettings) -> tuple[str, ...]:
    """Allowed networks that are a good part of the internet."""
    return tuple(str(n) for n in networks(settings) if n.prefixlen < WIDE[n.version] and not _local(n))


def _local(network: Network) -> bool:
    return isinstance(network, ipaddress.IPv6Network) and network.subnet_of(LOCAL)


def check(settings: LmtpSettings, action: SourceAction) -> str:
    """Why this source action is not possible, or ""."""
    if action is not SourceAction.LEAVE:
        return "mail that is pushed lies in no mailbox where it could be marked, moved or deleted; only leave"
    return ""


def objections(settings: LmtpSettings) -> Sequence[Objection]:
    """What is wrong, setting by setting."""
    return [*_place(settings), *_peers(settings), *_tls(settings)]


def _place(settings: LmtpSettings) -> Iterator[Objection]:
    if settings.socket:
        if not settings.socket.startswith("/"):
            yield Objection("socket", "this is no absolute path", 'socket = "/run/email-router/lmtp.sock"')
        return
    if not settings.host:
        yield Objection("host", "the address to listen on is missing", 'host = "127.0.0.1", or "0.0.0.0" for all')
    if not 1 <= settings.port <= 65535:
        yield Objection("port", f"{settings.port} is no port", f"1 to 65535, or leave it out for {PORT}")
    if settings.port == SMTP_PORT:
        what = "port 25 is for SMTP, which answers differently (RFC 2033 section 5)"
        yield Objection("port", what, f"leave it out for {PORT}")


def _peers(settings: LmtpSettings) -> Iterator[Objection]:
    if settings.socket:
        return
    if not settings.allowed_peers:
        what = "nobody may hand mail over"
        yield Objection("allowed_peers", what, 'name the networks of your mail servers: ["192.0.2.25/32"]')
    for text in settings.allowed_peers:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            cure = "write 192.0.2.0/24, 192.0.2.1 or 2001:db8::/32"
            yield Objection("allowed_peers", f"{text!r} is no network", cure)
            return
    for network in wide_open(settings):
        what = f"{network} LETS ANYBODY ON THE INTERNET FILE MAIL IN YOUR CRM, past your spam filter and under any name"
        yield Objection("allowed_peers", what, "name only your own mail servers", warning=True)


def _tls(settings: LmtpSettings) -> Iterator[Objection]:
    files = {"certificate_file": settings.certificate_file, "key_file": settings.key_file}
    for key, file in files.items():
        if file and not Path(file).is_file():
            yield Objection(key, f"the file {file} does not exist", "correct the path")
        if not file and any(files.values()):
            yield Objection(key, "certificate and key belong together", f'{key} = "/path/to/file.pem"')
    if settings.require_tls and not all(files.values()):
        yield Objection("require_tls", "there is no certificate for TLS", "name certificate_file and key_file")
    if not settings.require_tls and not settings.socket and not _only_here(settings):
        cure = "require_tls = true with certificate_file and key_file, or listen on 127.0.0.1"
        yield Objection("require_tls", "mail may cross the network in clear", cure, warning=True)


def _only_here(settings: LmtpSettings) -> bool:
    """Whether only this machine can reach us."""
    try:
        return settings.host == "localhost" or ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        return False
