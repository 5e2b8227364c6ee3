"""Connections with real TLS and through real proxies: whom they trust, what they refuse, and what is said then."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from email_router.model.errors import NeedsOperator, RouterError, Transient
from email_router.model.settings import ServerSettings, TlsMode
from email_router.net import connection
from email_router.net.connection import connect
from tests.fixtures.dovecot import make_certificates, server_context

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("certificates")
    make_certificates(made)
    return made


@asynccontextmanager
async def serving(peer: Peer, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await peer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\r\n")
    await writer.drain()
    await reader.read()


async def greeted(settings: ServerSettings) -> bytes:
    made = await connect(settings, 0)
    try:
        return await asyncio.wait_for(made.reader.readline(), 10)
    finally:
        await made.close()


def implicit(port: int, **changes: Any) -> ServerSettings:
    return ServerSettings(**({"host": "localhost", "port": port, "tls": TlsMode.IMPLICIT} | changes))


def fingerprint(certificates: Path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert((certificates / "cert.pem").read_text())).hexdigest()


# -- TLS


async def test_a_certificate_is_verified_by_the_named_authority(certificates: Path) -> None:
    async with serving(greeting, server_context(certificates)) as port:
        assert await greeted(implicit(port, ca_file=str(certificates / "ca.pem"))) == b"hello\r\n"
        assert await greeted(implicit(port, host="127.0.0.1", ca_file=str(certificates / "ca.pem"))) == b"hello\r\n"
        with pytest.raises(NeedsOperator, match="is not to be trusted") as told:
            await greeted(implicit(port))
        assert "ca_file" in told.value.cure


async def test_a_certificate_for_another_name_is_refused(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = asyncio.open_connection

    async def here(host: str, *arguments: Any, **options: Any) -> Any:
        return await plain("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(asyncio, "open_connection", here)
    async with serving(greeting, server_context(certificates)) as port:
        with pytest.raises(NeedsOperator, match=r"Hostname mismatch.*mail\.example\.com") as told:
            await greeted(implicit(port, host="mail.example.com", ca_file=str(certificates / "ca.pem")))
    assert "the host name must be one that the certificate names" in told.value.cure


async def test_the_pinned_certificate_counts_and_no_other(certificates: Path) -> None:
    pin = fingerprint(certificates)
    with_colons = ":".join(pin[n : n + 2] for n in range(0, 64, 2)).upper()
    async with serving(greeting, server_context(certificates)) as port:
        for written in (pin, with_colons):
            assert await greeted(implicit(port, pinned_sha256=written)) == b"hello\r\n"
        with pytest.raises(NeedsOperator, match="is not the pinned one") as told:
            await greeted(implicit(port, pinned_sha256="0" * 64))
    assert told.value.said == f"SHA-256 {pin}"


@pytest.mark.parametrize("name", ["absent.pem", "key.pem"])
async def test_an_authority_that_is_none(certificates: Path, name: str) -> None:
    async with serving(greeting, server_context(certificates)) as port:
        with pytest.raises(NeedsOperator, match=f"{name} (does not exist|cannot be used)") as told:
            await greeted(implicit(port, ca_file=str(certificates / name)))
    assert told.value.cure


async def test_an_old_tls_is_refused_unless_it_is_allowed_and_then_it_is_loud(
    certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    only = server_context(certificates)
    only.maximum_version = ssl.TLSVersion.TLSv1_2
    settings = implicit(0, ca_file=str(certificates / "ca.pem"))
    async with serving(greeting, only) as port:
        with pytest.raises(RouterError, match=r"no TLS could be agreed on|lost while TLS was set up") as told:
            await greeted(implicit(port, ca_file=settings.ca_file, minimum_tls="1.3"))
        assert "minimum_tls" in told.value.cure
        with caplog.at_level(logging.WARNING):
            assert await greeted(implicit(port, ca_file=settings.ca_file)) == b"hello\r\n"
            assert caplog.messages == []
            assert await greeted(implicit(port, ca_file=settings.ca_file, minimum_tls="1.0")) == b"hello\r\n"
    assert caplog.messages == [f"localhost:{port}: TLS 1.0 is allowed although it is broken; update the server"]


async def test_a_server_that_speaks_no_tls(certificates: Path) -> None:
    async with serving(greeting) as port:
        with pytest.raises(RouterError, match=r"no TLS could be agreed on|lost while TLS was set up") as told:
            await greeted(implicit(port))
    assert "port and TLS mode" in told.value.cure


async def test_what_was_sent_in_clear_before_tls_is_not_believed(certificates: Path) -> None:
    async with serving(greeting) as port:
        made = await connect(ServerSettings(host="localhost", port=port, tls=TlsMode.STARTTLS), 0)
        await made.reader.readuntil(b"h")
        with pytest.raises(Transient, match="sent data between STARTTLS and TLS"):
            await made.start_tls()
        await made.close()


# -- addresses


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.1.1", "100.100.100.200"])
@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:9"])
async def test_link_local_and_metadata_addresses_are_no_mail_servers(
    monkeypatch: pytest.MonkeyPatch, address: str, proxy: str
) -> None:
    class Writer:
        def get_extra_info(self, name: str) -> tuple[str, int]:
            return (address, 143) if name == "peername" else ("10.0.0.1", 1)

        def close(self) -> None: ...

        async def wait_closed(self) -> None: ...

    async def opened(*_: object, **__: object) -> tuple[asyncio.StreamReader, Writer]:
        return asyncio.StreamReader(), Writer()

    monkeypatch.setattr(connection, "_open", opened)
    with pytest.raises(NeedsOperator, match="which is never a mail server"):
        await connect(ServerSettings(host=address, tls=TlsMode.NONE, proxy=proxy), 143)


async def test_our_own_port_is_no_mail_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(greeting) as port:
        monkeypatch.setattr(connection, "_NEVER_PORTS", {port})
        with pytest.raises(NeedsOperator, match="which is never a mail server"):
            await connect(ServerSettings(host="127.0.0.1", port=port, tls=TlsMode.NONE), 0)


async def test_nobody_and_nothing() -> None:
    with pytest.raises(Transient, match="nobody listens there"):
        await connect(ServerSettings(host="127.0.0.1", port=1, tls=TlsMode.NONE), 0)
    with pytest.raises(NeedsOperator, match="no mail server is named"):
        await connect(ServerSettings(tls=TlsMode.NONE), 143)
    with pytest.raises(Transient, match="the host name is unknown"):
        await connect(ServerSettings(host="a" * 64 + ".invalid", tls=TlsMode.NONE), 143)


async def test_a_handshake_that_never_ends_is_ended(certificates: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as port:
        with pytest.raises(Transient, match="lost while TLS was set up"):
            await greeted(implicit(port, connect_timeout=0.2))


# -- proxies


def http(answer: bytes, seen: list[bytes]) -> Peer:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        await reader.read()

    return peer


def socks(seen: list[bytes], *, method: int = 0, login: int = 0, reply: int = 0, kind: int = 1) -> Peer:
    """RFC 1928 and RFC 1929, as a server."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        seen.append(await reader.readexactly(count))
        writer.write(bytes([5, method]))
        if method == 2:
            _, length = await reader.readexactly(2)
            user = await reader.readexactly(length)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            seen.append(user + b":" + password)
            writer.write(bytes([1, login]))
            if login:
                return
        if method == 255:
            return
        head = await reader.readexactly(5)
        seen.append(head[:4] + await reader.readexactly(head[4] + 2))
        bound = {1: bytes(4), 3: b"\x04name", 4: bytes(16)}[kind]
        writer.write(bytes([5, reply, 0, kind]) + bound + bytes(2) + b"hello\r\n")
        await writer.drain()
        await reader.read()

    return peer


def through(scheme: str, port: int, login: str = "") -> ServerSettings:
    proxy = f"{scheme}://{login}127.0.0.1:{port}"
    return ServerSettings(host="mail.inside.test", port=143, tls=TlsMode.NONE, proxy=proxy)


async def test_through_http_connect_the_name_is_left_to_the_proxy() -> None:
    seen: list[bytes] = []
    async with serving(http(b"HTTP/1.1 200 Connected\r\nVia: x\r\n\r\nhello\r\n", seen)) as port:
        assert await greeted(through("http", port, "me:s%40cret@")) == b"hello\r\n"
    assert seen[0].splitlines()[:3] == [
        b"CONNECT mail.inside.test:143 HTTP/1.1",
        b"Host: mail.inside.test:143",
        b"Proxy-Authorization: Basic bWU6c0BjcmV0",
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "refuses the connection.*407"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "refuses the connection.*403"),
        (b"\r\n\r\n", "refuses the connection"),
        (b"x" * 20_000, "the proxy's answer is no HTTP"),
    ],
)
async def test_an_http_proxy_that_refuses(answer: bytes, words: str) -> None:
    async with serving(http(answer, [])) as port:
        with pytest.raises(NeedsOperator, match=words) as told:
            await greeted(through("http", port, "me:s3cret@"))
    assert told.value.cure and "s3cret" not in str(told.value)


@pytest.mark.parametrize("kind", [1, 3, 4])
async def test_through_socks_the_name_is_left_to_the_proxy(kind: int) -> None:
    seen: list[bytes] = []
    async with serving(socks(seen, kind=kind)) as port:
        assert await greeted(through("socks5", port)) == b"hello\r\n"
    assert seen == [b"\x00", b"\x05\x01\x00\x03mail.inside.test\x00\x8f"]


async def test_socks_with_a_login() -> None:
    seen: list[bytes] = []
    async with serving(socks(seen, method=2)) as port:
        assert await greeted(through("socks5", port, "me:s%40cret@")) == b"hello\r\n"
    assert seen[:2] == [b"\x00\x02", b"me:s@cret"]


@pytest.mark.parametrize(
    ("login", "answers", "words"),
    [
        ("", {"method": 255}, "accepts no login method of ours"),
        ("", {"method": 2}, "accepts no login method of ours"),
        ("me:s3cret@", {"method": 2, "login": 1}, "refuses the login"),
        ("", {"reply": 2}, "refuses the connection.*SOCKS reply 2"),
        (f"me:{'x' * 256}@", {"method": 2}, "credentials are too long"),
    ],
)
async def test_a_socks_proxy_that_refuses(login: str, answers: dict[str, int], words: str) -> None:
    async with serving(socks([], **answers)) as port:
        with pytest.raises(NeedsOperator, match=words) as told:
            await greeted(through("socks5", port, login))
    assert told.value.cure and "s3cret" not in str(told.value)


async def test_a_proxy_that_is_away_or_hangs_up() -> None:
    with pytest.raises(Transient, match="nobody listens there"):
        await greeted(through("http", 1))

    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with serving(hangs_up) as port:
        for scheme in ("http", "socks5"):
            with pytest.raises(Transient, match="cannot be reached"):
                await greeted(through(scheme, port))


@pytest.mark.parametrize("written", ["ftp://x:1", "http://", "http://proxy", "http://proxy:99999", "socks5://[::1"])
async def test_what_is_no_proxy(written: str) -> None:
    with pytest.raises(NeedsOperator, match="this is no proxy address") as told:
        await connect(ServerSettings(host="mail.test", tls=TlsMode.NONE, proxy=written), 143)
    assert told.value.cure == "write http://host:port or socks5://host:port"
