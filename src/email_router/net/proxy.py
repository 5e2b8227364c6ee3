"""Through a proxy: HTTP CONNECT (RFC 9110 section 9.3.6) and SOCKS5 (RFC 1928, RFC 1929).

What may fail: the proxy is away (OSError: the caller says so) or refuses us (NeedsOperator). Names are resolved by the
proxy, so that nothing about the mail server is asked of the local network.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from urllib.parse import unquote, urlsplit

from email_router.model.errors import NeedsOperator

MAX_HEAD = 16 * 1024
LONGEST_LOGIN = 255
"""Bytes of a user name or a password (RFC 1929)."""


async def connected(proxy: str, host: str, port: int, where: str) -> socket.socket:
    """A socket that leads to `host:port` through `proxy`. The caller bounds the time."""
    try:
        url = urlsplit(proxy)
        is_one = url.scheme in ("http", "socks5") and bool(url.hostname) and bool(url.port)
    except ValueError:  # a port that is none, an address that is none
        is_one = False
    if not is_one:
        raise _refused("", where, "this is no proxy address", "write http://host:port or socks5://host:port")
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(url.hostname, url.port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = addresses[0]
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    user, password = unquote(url.username or ""), unquote(url.password or "")
    try:
        await loop.sock_connect(sock, address)
        if url.scheme == "http":
            await _http(sock, host, port, user, password, where)
        else:
            await _socks5(sock, host, port, user, password, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _http(sock: socket.socket, host: str, port: int, user: str, password: str, where: str) -> None:
    loop = asyncio.get_running_loop()
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
    if user:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        head += f"Proxy-Authorization: Basic {token}\r\n"
    await loop.sock_sendall(sock, head.encode() + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):  # byte by byte: what follows the head belongs to the mail server
        answer += await _exactly(sock, 1)
        if len(answer) > MAX_HEAD:
            raise _refused("", where, "the proxy's answer is no HTTP", "check the address of the proxy")
    status = answer.split(b"\r\n", 1)[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        cure = "allow CONNECT to this host and port at the proxy, or correct the proxy's credentials"
        raise _refused(status, where, "the proxy refuses the connection", cure)


async def _socks5(sock: socket.socket, host: str, port: int, user: str, password: str, where: str) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, b"\x05\x02\x00\x02" if user else b"\x05\x01\x00")
    version, method = await _exactly(sock, 2)
    if version != 5 or method not in ((0, 2) if user else (0,)):
        cure = "check the proxy's address, and its credentials if it wants some"
        raise _refused("", where, "the SOCKS proxy accepts no login method of ours", cure)
    if method == 2:
        name, secret = user.encode(), password.encode()
        if max(len(name), len(secret)) > LONGEST_LOGIN:
            raise _refused("", where, "the proxy's credentials are too long for SOCKS", "correct them, or use http://")
        await loop.sock_sendall(sock, b"\x01" + bytes([len(name)]) + name + bytes([len(secret)]) + secret)
        if (await _exactly(sock, 2))[1] != 0:
            raise _refused("", where, "the SOCKS proxy refuses the login", "correct the proxy's credentials")
    name = host.encode("idna")
    await loop.sock_sendall(sock, b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
    _, reply, _, kind = await _exactly(sock, 4)
    length = {1: 4, 4: 16}.get(kind) or (await _exactly(sock, 1))[0]
    await _exactly(sock, length + 2)
    if reply != 0:
        cure = "allow this host and port at the proxy"
        raise _refused(f"SOCKS reply {reply}", where, "the SOCKS proxy refuses the connection", cure)


async def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await asyncio.get_running_loop().sock_recv(sock, count - len(data))
        if not more:
            raise ConnectionResetError("the proxy closed the connection")
        data += more
    return data


def _refused(said: str, where: str, what: str, cure: str) -> NeedsOperator:
    return NeedsOperator(what, where=where, said=said, cure=cure, scope="profile")
