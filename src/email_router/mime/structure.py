"""The parts of a message and where they lie in it: one scan forward, in constant memory for large messages.

What may fail: the stream below cannot be read; its error is raised. Nothing else is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from email_router.mime import headers, transfer
from email_router.mime.contents import CHUNK
from email_router.mime.identity import fields_end

_BLANK_LINE = re.compile(rb"\n\r?\n")
_TELLING = re.compile(
    rb"^(?:from|to|cc|subject|date|message-id|received|mime-version|content-type|return-path)[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+")
_BEHIND = 4
"""Bytes before the place that is looked at which a window keeps: a boundary's line break, half an empty line."""
_USUAL_HEADER = 16 * 1024
_LONGEST_BOUNDARY_LINE = 512
_FALSE_BOUNDARIES = 200_000
"""Lines that begin with `--` and are no boundary; with more, the rest is taken as it is."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one message may cost. What lies beyond is left out, and a defect says so; the raw bytes have it all."""

    total_bytes: int = 150 * 1024 * 1024
    header_bytes: int = 256 * 1024
    """Of one header section, the message's or a part's."""
    headers: int = 1000
    parts: int = 1000
    depth: int = 30
    recipients: int = 5000
    """In To, Cc and Bcc together."""
    text_bytes: int = 4 * 1024 * 1024
    """Of all body parts together, as they come into text and html; what is longer is cut and attached as a whole."""


@dataclass(slots=True)
class Part:
    """One MIME part. `start` and `end` are the offsets of its body in the message, not decoded."""

    fields: list[headers.Field]
    start: int
    depth: int
    end: int = -1
    content_type: str = "text/plain"
    type_parameters: dict[str, str] = field(default_factory=dict)
    disposition: str = ""
    disposition_parameters: dict[str, str] = field(default_factory=dict)
    encoding: str = ""
    content_id: str = ""
    boundary: bytes = b""
    children: list[Part] = field(default_factory=list)


class Window:
    """Looks at a stream from front to back, or at bytes that are all there."""

    def __init__(self, data: bytes, source: BinaryIO | None = None, size: int = 0) -> None:
        self._buffer = data
        self._base = 0
        self._source = source
        self._left = size if source is not None else 0

    def _more(self, keep_from: int) -> bool:
        """Read a chunk; forget what lies before `keep_from`."""
        chunk = self._source.read(min(CHUNK, self._left)) if self._source is not None and self._left > 0 else b""
        if not chunk:
            return False
        self._left -= len(chunk)
        drop = max(0, min(keep_from - self._base, len(self._buffer)))
        self._buffer = self._buffer[drop:] + chunk
        self._base += drop
        return True

    def at(self, start: int, length: int) -> bytes:
        """Up to `length` bytes from `start`; what lies before may be forgotten."""
        while self._base + len(self._buffer) < start + length and self._more(start - _BEHIND):
            pass
        offset = start - self._base
        return self._buffer[offset : offset + length]

    def find(self, needle: bytes, start: int) -> int:
        """Offset of `needle` at or after `start`, or -1."""
        return self._search(lambda offset: self._buffer.find(needle, offset), start)

    def blank_line(self, start: int) -> tuple[int, int]:
        """Offset and length of the line breaks round the next empty line; (-1, 0) if there is none."""

        def search(offset: int) -> int:
            match = _BLANK_LINE.search(self._buffer, offset)
            return match.start() if match else -1

        found = self._search(search, start)
        if found < 0:
            return -1, 0
        match = _BLANK_LINE.match(self.at(found, 4))
        return found, match.end() if match else 0

    def _search(self, search: Callable[[int], int], start: int) -> int:
        while True:
            found = search(max(0, start - self._base))
            if found >= 0:
                return self._base + found
            start = max(start, self._base + len(self._buffer) - _BEHIND)
            if not self._more(start - _BEHIND):
                return -1


class Scanner:
    """Finds the parts of one message. `repairs` collects what was wrong: codes of `parse`'s defects with details."""

    def __init__(self, window: Window, size: int, limits: Limits) -> None:
        self._window = window
        self._size = size
        self._limits = limits
        self._parts = 0
        self._false_boundaries = 0
        self.repairs: dict[str, str] = {}

    def scan(self) -> Part:
        """The tree of parts. A multipart without any part found in it is a leaf."""
        root = self._part(self._begin(), 0, "text/plain")
        open_parts = [root] if root.boundary else []
        current, position = root, root.start
        while open_parts:
            line = self._boundary_line(position, open_parts)
            if line is None:
                break
            newline, level, closes, position = line
            self._close([*open_parts[level + 1 :], current], open_parts[level], newline)
            del open_parts[level if closes else level + 1 :]
            if closes:
                continue
            if self._parts >= self._limits.parts:
                self.repairs["parts"] = f"only the first {self._limits.parts} parts were read"
                break
            current = self._part(position, open_parts[-1].depth + 1, _default_type(open_parts[-1]))
            open_parts[-1].children.append(current)
            if current.boundary:
                open_parts.append(current)
            position = current.start
        if open_parts:
            self.repairs.setdefault("boundary", "the last boundary line is missing")
        for part in (root, current, *open_parts):
            if part.end < 0:
                part.end = max(part.start, self._size)
        return root

    def _begin(self) -> int:
        """Where the first header begins: after a byte order mark and empty lines."""
        start = self._window.at(0, 1024)
        text = start.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
        return len(start) - len(text) if text else 0

    def _boundary_line(self, position: int, open_parts: list[Part]) -> tuple[int, int, bool, int] | None:
        """The next boundary: its line break, whose it is (the innermost), whether it closes, and the next line."""
        while self._false_boundaries <= _FALSE_BOUNDARIES:
            newline = self._window.find(b"\n--", max(0, position - 1))
            if newline < 0:
                return None
            line = self._window.at(newline + 3, _LONGEST_BOUNDARY_LINE)
            end = line.find(b"\n")
            position = newline + 3 + (end + 1 if end >= 0 else len(line))
            key = line[:end].rstrip() if end >= 0 else line.rstrip()
            for level in range(len(open_parts) - 1, -1, -1):
                boundary = open_parts[level].boundary
                if key.startswith(boundary) and key[len(boundary) :] in (b"", b"--"):
                    return newline, level, key != boundary, position
            self._false_boundaries += 1
        self.repairs["boundary"] = "too many lines look like boundaries"
        return None

    def _close(self, parts: list[Part], parent: Part, newline: int) -> None:
        # The line break before a boundary belongs to the boundary (RFC 2046 section 5.1.1).
        end = newline - (self._window.at(newline - 1, 1) == b"\r")
        for part in parts:
            if part.end < 0 and part is not parent:
                part.end = max(part.start, end)

    def _part(self, position: int, depth: int, default_type: str) -> Part:
        self._parts += 1
        block, start = self._header(position)
        fields, repairs = headers.split(block, self._limits.headers)
        for repair in repairs:
            self.repairs.setdefault(repair, "")
        part = Part(fields, start, depth)
        _describe(part, default_type)
        if part.content_type.startswith("multipart/"):
            self._open(part)
        return part

    def _header(self, position: int) -> tuple[bytes, int]:
        """A header section without its empty line, and where the body begins."""
        for length in (min(_USUAL_HEADER, self._limits.header_bytes), self._limits.header_bytes):
            block = self._window.at(position, length)
            if block.startswith((b"\n", b"\r\n")):
                return b"", position + block.index(b"\n") + 1
            blank = _BLANK_LINE.search(block)
            if blank is not None or len(block) < length:
                break
        if blank is not None:
            block, start = block[: blank.start() + 1], position + blank.end()
        elif len(block) < length:
            start = position + len(block)
        else:
            self.repairs["header-bytes"] = f"only the first {length} bytes of a header were read"
            found, breaks = self._window.blank_line(position + length - 3)
            start = found + breaks if found >= 0 else self._size
        return self._well_formed(block, position, start)

    def _well_formed(self, block: bytes, position: int, start: int) -> tuple[bytes, int]:
        """End the header at a line that is no field, unless fields follow that are surely header."""
        good = fields_end(block, len(block))
        if good == len(block):
            return block, start
        if not block.startswith(b"--", good) and _TELLING.search(block, good):
            self.repairs["header-line"] = "a line in the header is no field"
            return block, start
        self.repairs["header-end"] = "no empty line between header and body"
        return block[:good], position + good

    def _open(self, part: Part) -> None:
        boundary = part.type_parameters.get("boundary", "").rstrip().encode("utf-8", "replace")
        if part.depth >= self._limits.depth:
            self.repairs["depth"] = f"parts deeper than {self._limits.depth} levels were kept closed"
        elif boundary:
            part.boundary = boundary[:_LONGEST_BOUNDARY_LINE]
        else:
            # Nobody named the boundary: the first line that looks like one is it.
            guess = re.search(
                rb"^--([^\s-][^\r\n]{0,98})\r?\n", self._window.at(part.start, _USUAL_HEADER), re.MULTILINE
            )
            part.boundary = guess[1].rstrip() if guess else b""
            self.repairs["boundary"] = "a multipart names no boundary"


def _default_type(parent: Part) -> str:
    return "message/rfc822" if parent.content_type == "multipart/digest" else "text/plain"


def _describe(part: Part, default_type: str) -> None:
    """Read the fields that say what a part is."""
    part.content_type = default_type
    seen = set()
    for name, value in part.fields:
        if name[0] not in "Cc" or (key := name.lower()) in seen:
            continue
        seen.add(key)
        if key == "content-type":
            kind, part.type_parameters = headers.parameters(value)
            part.content_type = kind if _TYPE.fullmatch(kind) else "text/plain"
        elif key == "content-transfer-encoding":
            part.encoding = transfer.encoding_name(value)
        elif key == "content-disposition":
            part.disposition, part.disposition_parameters = headers.parameters(value)
        elif key == "content-id":
            part.content_id = headers.decode(value).strip("<> ")[:255]
