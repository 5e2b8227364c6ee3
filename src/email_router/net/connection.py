"""A TCP connection to a mail server, in TLS or ready for it, directly or through a proxy.

What may fail: the name is unknown, nobody listens, a firewall drops, the certificate is not to be trusted, the server
speaks no TLS. Nothing secret was sent then. Network failures are Transient (they heal), a certificate or a proxy that
refuses us is for the operator.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import ipaddress
import logging
import os
import socket
import ssl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from email_router.model.errors import NeedsOperator, RouterError, Transient, said_by
from email_router.model.settings import ServerSettings, TlsMode
from email_router.net import proxy

log = logging.getLogger(__name__)

READ_BUFFER = 256 * 1024
_VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
_METADATA = frozenset(ipaddress.ip_address(a) for a in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192"))
"""Metadata services of clouds that are not link-local."""
_NEVER_PORTS: set[int] = set()


@contextmanager
def awaiting_the_greeting(server: ServerSettings) -> Iterator[None]:
    """A server that says nothing at first mostly waits for TLS: the wrong port for this TLS mode."""
    try:
        yield
    except Transient as error:
        if not error.said and server.tls is not TlsMode.IMPLICIT:
            error.cure = 'a port that wants TLS from the start (993, 995, 465) needs tls = "implicit"; else ' + (
                error.cure or "see whether the mail server is well"
            )
        raise


def never_connect_to(port: int) -> None:
    """Our own listening port on this machine: no profile may lead back into the router."""
    _NEVER_PORTS.add(port)


class Connection:
    """A connected byte stream. `tls` says whether it is encrypted."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: ServerSettings, port: int, tls: bool
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.tls = tls
        self._server = server
        self._where = f"{server.host}:{port}"

    @property
    def peer(self) -> str:
        """The address really connected."""
        name = self.writer.get_extra_info("peername")
        return str(name[0]) if name else ""

    @property
    def is_to_this_machine(self) -> bool:
        own = self.writer.get_extra_info("sockname")
        return bool(own) and str(own[0]) == self.peer

    @property
    def spoken_to(self) -> bool:
        """Whether the peer said something that was not read yet, or has closed: out of turn, if it is ours to speak."""
        return bool(self.reader._buffer) or self.reader.at_eof()  # type: ignore[attr-defined]

    async def start_tls(self) -> None:
        """TLS over this connection, verified. Raises NeedsOperator for the certificate, Transient for the network."""
        if self.reader._buffer:  # type: ignore[attr-defined]  # what came in clear could come from anybody (CVE-2011-0411)
            raise Transient(
                "the server sent data between STARTTLS and TLS",
                where=self._where,
                cure="somebody may be tampering with the connection; use implicit TLS if the server has it",
                scope="profile",
            )
        try:
            await self.writer.start_tls(
                context(self._server, self._where),
                server_hostname=self._server.host,
                ssl_handshake_timeout=self._server.connect_timeout,
            )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            raise _tls_failed(error, self._where) from error
        self.tls = True
        _check_pin(self.writer, self._server, self._where)

    async def close(self) -> None:
        """Close, without waiting long for a peer that does not answer."""
        self.writer.close()
        with suppress(OSError, ssl.SSLError, TimeoutError):
            await asyncio.wait_for(self.writer.wait_closed(), 2.0)


async def connect(server: ServerSettings, default_port: int) -> Connection:
    """Connect to `server`; with implicit TLS the handshake is done and verified.

    Raises Transient (unknown host, nobody listening, time-out) or NeedsOperator (certificate, proxy, address).
    """
    port = server.port or default_port
    where = f"{server.host}:{port}"
    try:
        async with asyncio.timeout(server.connect_timeout):
            reader, writer = await _open(server, port, where)
    except RouterError:
        raise
    except (OSError, UnicodeError) as error:  # TimeoutError is an OSError; UnicodeError: no host looks like that
        raise _unreachable(error, server, where) from error
    connection = Connection(reader, writer, server, port, tls=False)
    try:
        if server.proxy:  # which looks names up itself: only an address can be checked
            _check_address(server.host, port, where, ours=False)
        else:
            _check_address(connection.peer, port, where, ours=connection.is_to_this_machine)
        if server.tls is TlsMode.IMPLICIT:
            await connection.start_tls()
    except BaseException:
        await connection.close()
        raise
    return connection


async def _open(server: ServerSettings, port: int, where: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not server.host:
        raise NeedsOperator("no mail server is named", where=where, cure="enter its host name", scope="profile")
    if not server.proxy:
        return await asyncio.open_connection(server.host, port, limit=READ_BUFFER, happy_eyeballs_delay=0.25)
    through = await proxy.connected(server.proxy, server.host, port, where)
    return await asyncio.open_connection(sock=through, limit=READ_BUFFER)


def context(server: ServerSettings, where: str) -> ssl.SSLContext:
    """How far the server is trusted: the system's authorities, `ca_file` instead of them, or one pinned certificate."""
    if server.ca_file and not Path(server.ca_file).is_file():
        raise NeedsOperator(
            f"the file with trusted authorities {server.ca_file} does not exist",
            where=where,
            cure="correct ca_file of the profile",
            scope="profile",
        )
    try:
        made = ssl.create_default_context(cafile=server.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise NeedsOperator(
            f"the file with trusted authorities {server.ca_file} cannot be used",
            where=where,
            said=said_by(error),
            cure="it must be readable and hold certificates in PEM form",
            scope="profile",
        ) from error
    if server.pinned_sha256:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE  # _check_pin accepts one certificate only
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # ours names the server
        made.minimum_version = _VERSIONS.get(server.minimum_tls, ssl.TLSVersion.TLSv1_2)
    if made.minimum_version < ssl.TLSVersion.TLSv1_2:
        log.warning("%s: TLS %s is allowed although it is broken; update the server", where, server.minimum_tls)
        made.set_ciphers("DEFAULT@SECLEVEL=0")
    return made


def _check_pin(writer: asyncio.StreamWriter, server: ServerSettings, where: str) -> None:
    if not server.pinned_sha256:
        return
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
    found = hashlib.sha256(certificate).hexdigest()
    if found == server.pinned_sha256.replace(":", "").strip().lower():
        return
    raise NeedsOperator(
        "the server's certificate is not the pinned one",
        where=where,
        said=f"SHA-256 {found}",
        cure="if the server's certificate was renewed on purpose, enter its new fingerprint in pinned_sha256",
        scope="profile",
    )


def _check_address(peer: str, port: int, where: str, *, ours: bool) -> None:
    """An administrator may name private hosts; link-local and metadata addresses and our own port never."""
    with suppress(ValueError):
        address = ipaddress.ip_address(peer.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        ours = (ours or address.is_loopback) and port in _NEVER_PORTS
        if address.is_link_local or address in _METADATA or ours:
            raise NeedsOperator(
                f"the host leads to {address}, which is never a mail server",
                where=where,
                cure="correct the host name, or the name server of this machine",
                scope="profile",
            )


def _unreachable(error: Exception, server: ServerSettings, where: str) -> RouterError:
    if isinstance(error, socket.gaierror | UnicodeError):
        cure = f"correct the host name {server.host!r}, or the name server of this machine"
        return Transient("the host name is unknown", where=where, said=said_by(error), cure=cure, scope="profile")
    if isinstance(error, TimeoutError):
        what = f"no connection within {server.connect_timeout:g} s"
        cure = "correct host and port, and see whether a firewall is in between"
        return Transient(what, where=where, cure=cure, scope="profile")
    said = said_by(error)
    if said == os.strerror(errno.ECONNREFUSED):  # by each address of the host
        cure = "start the mail server, or correct host and port"
        return Transient("nobody listens there", where=where, said=said, cure=cure, scope="profile")
    cure = "see whether this machine reaches the mail server"
    return Transient("the server cannot be reached", where=where, said=said, cure=cure, scope="profile")


def _tls_failed(error: Exception, where: str) -> RouterError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return NeedsOperator(
            f"the server's certificate is not to be trusted: {error.verify_message}",
            where=where,
            said=said_by(error),
            cure="name its authority in ca_file, pin its fingerprint in pinned_sha256, or have the certificate renewed;"
            " the host name must be one that the certificate names",
            scope="profile",
        )
    if isinstance(error, ssl.SSLError):
        return NeedsOperator(
            "no TLS could be agreed on with the server",
            where=where,
            said=said_by(error),
            cure="check port and TLS mode (implicit and starttls use different ports) and minimum_tls",
            scope="profile",
        )
    return Transient(
        "the connection was lost while TLS was set up",
        where=where,
        said=said_by(error),
        cure="check port and TLS mode (implicit and starttls use different ports) and minimum_tls",
        scope="profile",
    )
