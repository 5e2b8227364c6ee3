"""Content-Transfer-Encoding (RFC 2045 section 6): decoding that never fails, whole or in chunks, and encoding."""

from __future__ import annotations

import binascii
import contextlib
import re
from collections.abc import Iterable, Iterator

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64 = bytes(set(range(256)) - set(_BASE64))
_UU_BEGIN = re.compile(rb"^begin [0-7]{3,4} [^\n]*\n", re.MULTILINE)
_UU_BEGIN_WITHIN = 64 * 1024
"""Bytes in which the `begin` line must begin."""
_UU_LONGEST_LINE = 4096
_UU_BLANK = 1024 * 1024
"""Bytes that may come out beyond those that went in: a line whose blanks a gateway cut off stands for 45 zeros, and a
message of nothing but such lines would grow to 22 times its size."""
_PADDINGS = 1024
"""Ends of base64 blocks that are honoured in one part; more is an attack on our time, not mail."""
_LINES_OF_BASE64 = 57 * 1024
"""Bytes that make 1,024 whole lines of 76 characters."""


def encoding_name(value: str) -> str:
    """`base64`, `quoted-printable`, `uuencode`, or "" for everything that needs no decoding."""
    name = value.partition(";")[0].strip().strip("\"'").casefold()
    if name in ("base64", "quoted-printable"):
        return name
    return "uuencode" if name in ("x-uuencode", "uuencode", "x-uue") else ""


def decode(data: bytes, encoding: str) -> tuple[bytes, bool]:
    """The decoded bytes, and whether the encoding was sound. Broken data is decoded as far as it goes."""
    if encoding == "base64":
        return _decode_base64(data)
    if encoding == "quoted-printable":
        return binascii.a2b_qp(data), True
    if encoding == "uuencode":
        uuencode = _Uuencode()
        decoded = uuencode.feed(data) + uuencode.end()
        return decoded, not uuencode.broken
    return data, True


def _decode_base64(data: bytes) -> tuple[bytes, bool]:
    if b"=" not in data.rstrip(b"=\r\n\t "):
        with contextlib.suppress(binascii.Error):
            return binascii.a2b_base64(data), True
    decoder = _Base64()
    decoded = decoder.feed(data) + decoder.end()
    return decoded, not decoder.broken


class _Base64:
    """Decodes in chunks. Foreign characters are skipped; padding in the middle (joined blocks) starts a new block."""

    def __init__(self) -> None:
        self._rest = b""
        self._paddings = _PADDINGS
        self.broken = False

    def feed(self, data: bytes) -> bytes:
        pieces = data.split(b"=", self._paddings)
        self._paddings -= len(pieces) - 1
        decoded = []
        for piece in pieces[:-1]:
            decoded += [self._block(piece), self.end()]
        decoded.append(self._block(pieces[-1]))
        return b"".join(decoded)

    def _block(self, data: bytes) -> bytes:
        clean = self._rest + data.translate(None, _NOT_BASE64)
        whole = len(clean) & ~3
        self._rest = clean[whole:]
        return binascii.a2b_base64(clean[:whole])

    def end(self) -> bytes:
        rest, self._rest = self._rest, b""
        if len(rest) == 1:
            self.broken = True
            return b""
        return binascii.a2b_base64(rest + b"=" * (-len(rest) % 4))


class _Uuencode:
    """Decodes in chunks, from the first `begin` line to `end`; without `begin` what comes is passed on as it is."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._over = False
        self._room = _UU_BLANK
        self.broken = False

    def feed(self, data: bytes) -> bytes:
        data, self._rest = self._rest + data, b""
        if not self._begun:
            if self.broken:
                return data
            begin = _UU_BEGIN.search(data)
            if begin is None and len(data) < _UU_BEGIN_WITHIN:
                self._rest = data
                return b""
            if begin is None or begin.start() >= _UU_BEGIN_WITHIN:
                self.broken = True
                return data
            self._begun, data = True, data[begin.end() :]
        *lines, rest = data.split(b"\n")
        self._rest = rest[:_UU_LONGEST_LINE]
        return b"".join([self._line(line.removesuffix(b"\r")) for line in lines])

    def end(self) -> bytes:
        rest, self._rest = self._rest, b""
        if self._begun:
            return self._line(rest.removesuffix(b"\r"))
        self.broken = True
        return rest

    def _line(self, line: bytes) -> bytes:
        if self._over or line in (b"end", b"`"):
            self._over = True
            return b""
        try:
            decoded = binascii.a2b_uu(line)
        except binascii.Error:
            # Some encoders count the line too long or pad it: take what the count names.
            count = (((line[0] - 32) & 63) * 4 + 5) // 3 if line else 0
            try:
                decoded = binascii.a2b_uu(line[:count])
            except binascii.Error:
                self._over = self.broken = True
                return b""
        self._room += len(line) - len(decoded)
        if self._room < 0:
            self._over = self.broken = True
            return b""
        return decoded


def decode_chunks(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Decoded chunks in constant memory."""
    if encoding in ("base64", "uuencode"):
        decoder = _Base64() if encoding == "base64" else _Uuencode()
        for chunk in chunks:
            yield decoder.feed(chunk)
        yield decoder.end()
    elif encoding == "quoted-printable":
        yield from _decode_qp_chunks(chunks)
    else:
        yield from chunks


def _decode_qp_chunks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        cut = data.rfind(b"\n") + 1
        if not cut:
            # One endless line: cut anywhere but inside "=XX" or before a soft line break.
            equals = data.rfind(b"=", max(0, len(data) - 3))
            cut = equals if equals >= 0 else len(data)
        rest = data[cut:]
        yield binascii.a2b_qp(data[:cut])
    yield binascii.a2b_qp(rest)


def base64_size(size: int) -> int:
    """Bytes that `size` bytes take as base64 in lines of 76 characters, each ended by CRLF."""
    full, rest = divmod(size, 57)
    return full * 78 + ((rest + 2) // 3 * 4 + 2 if rest else 0)


def base64_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of 76 characters, each ended by CRLF."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        whole = len(data) // _LINES_OF_BASE64 * _LINES_OF_BASE64
        for start in range(0, whole, _LINES_OF_BASE64):
            yield encode_base64(data[start : start + _LINES_OF_BASE64])
        rest = data[whole:]
    if rest:
        yield encode_base64(rest)


def encode_base64(data: bytes) -> bytes:
    encode = binascii.b2a_base64
    return b"".join([encode(data[i : i + 57], newline=False) + b"\r\n" for i in range(0, len(data), 57)])


def encode_quoted_printable(data: bytes) -> bytes:
    """Text with LF line ends, as quoted-printable with CRLF line ends and lines of at most 76 characters."""
    return binascii.b2a_qp(data, istext=True).replace(b"\n", b"\r\n")
