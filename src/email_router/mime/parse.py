"""Any bytes to a `ParsedEmail`: what cannot be read is a defect, never an exception.

What may fail: the content's stream cannot be opened or read (a spool file that is gone). That error is raised, since it
says nothing about the message. Large attachments are read again from the same content when somebody opens them: it must
live as long as they do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

from email_router.mime import addresses, charset, headers, html, names, transfer
from email_router.mime.contents import BytesContent, SliceContent, read_all, slice_chunks
from email_router.mime.identity import identity, identity_of
from email_router.mime.structure import Limits, Part, Scanner, Window
from email_router.model.message import Address, Attachment, Content, Defect, Header, ParsedEmail

IN_MEMORY = 4 * 1024 * 1024
"""Bytes up to which a message is read as a whole; of larger ones the large parts stay where they are."""
_LARGE_PART = 1024 * 1024
_LAID_OUT = 8
"""Stretches of a body up to which HTML among them is laid out as text; in more its tags are merely dropped."""

_DEFECTS = {
    "base64": "a part is not sound base64 and was decoded as far as it goes",
    "boundary": "the boundaries of the parts are damaged",
    "charset": "text is not in the charset it names and was repaired",
    "date": "the Date field cannot be read",
    "depth": "parts are nested too deeply",
    "header-bytes": "a header is too long",
    "header-charset": "a header has bytes that are no UTF-8 and was repaired",
    "header-count": "a header has too many fields",
    "header-end": "no empty line between header and body",
    "header-line": "a line in the header is no field",
    "no-from": "no address in From",
    "nul": "NUL bytes were removed",
    "parts": "too many parts",
    "recipients": "too many recipients",
    "text-bytes": "a body was cut; the whole of it is attached",
    "total-bytes": "the message is too large",
    "unparsable": "the message could not be read",
}
"""The codes of `ParsedEmail.defects`, stable, with their usual words."""

_T = TypeVar("_T")
_NO_LIMITS_GIVEN = Limits()


def parse(content: Content, limits: Limits = _NO_LIMITS_GIVEN) -> ParsedEmail:
    """Understand a message. Never raises on any bytes; raises OSError when the content's stream fails."""
    try:
        return _Reader(content, limits).read()
    except OSError:
        raise
    except Exception as error:  # our own bug, on a message that nobody foresaw: it must not stop the others
        return _unparsable(content, limits, error)


class Body(NamedTuple):
    """One stretch of the body: as plain text, as HTML, or as both where the sender gave alternatives."""

    text: str | None
    html: str | None


@dataclass(slots=True)
class _Fields:
    """The decoded header of the message."""

    headers: tuple[Header, ...]
    values: dict[str, list[str]] = field(default_factory=dict)

    def first(self, name: str) -> str:
        return next(iter(self.values.get(name, ())), "")


_READ = frozenset(
    ("message-id", "from", "sender", "reply-to", "to", "cc", "bcc", "subject", "date", "in-reply-to", "references")
)


class _Reader:
    """Reads one message."""

    def __init__(self, content: Content, limits: Limits) -> None:
        self._content = content
        self._limits = limits
        self._size = min(content.size, limits.total_bytes)
        self._data: bytes | None = None
        self._attachments: list[Attachment] = []
        self._defects: dict[str, str] = {}
        self._text_left = limits.text_bytes

    def read(self) -> ParsedEmail:
        if self._content.size > self._limits.total_bytes:
            self._note(
                "total-bytes", f"only the first {self._limits.total_bytes} of {self._content.size} bytes were read"
            )
        root, name = self._scan()
        fields = _fields(root)
        body = _merged(self._bodies(root))
        return self._email(fields, name, body.text or "", body.html or "")

    def _scan(self) -> tuple[Part, bytes]:
        """The parts, and the identity."""
        if self._content.size <= IN_MEMORY:
            data = read_all(self._content)
            name = identity_of(data)
            if b"\n" not in data and b"\r" in data:
                data = data.replace(b"\r", b"\n")
            self._data, self._size = data[: self._limits.total_bytes], min(len(data), self._limits.total_bytes)
            return self._tree(Window(self._data)), name
        with self._content.open() as source:
            root = self._tree(Window(b"", source, self._size))
        return root, identity(self._content)

    def _tree(self, window: Window) -> Part:
        scanner = Scanner(window, self._size, self._limits)
        root = scanner.scan()
        for code, detail in scanner.repairs.items():
            self._note(code, detail)
        return root

    def _note(self, code: str, detail: str = "") -> None:
        self._defects.setdefault(code, detail or _DEFECTS[code])

    # --- Bodies and attachments ---

    def _bodies(self, part: Part) -> list[Body]:
        """The body in a part and all below it; everything else becomes an attachment on the way."""
        if not part.children:
            return self._leaf(part)
        if part.content_type == "multipart/alternative":
            return self._alternatives(part)
        found = []
        for n, child in enumerate(part.children):
            if n and part.content_type == "multipart/related" and _is_referred_to(child):
                self._attach(child)
            else:
                found += self._bodies(child)
        return found

    def _alternatives(self, part: Part) -> list[Body]:
        """RFC 2046 section 5.1.4: the same in several forms, the best last."""
        text = html_body = None
        for child in part.children:
            child_text, child_html = _merged(self._bodies(child))
            if child_text is not None and (text is None or child_text.strip() not in text):
                # Some senders put two different texts here: neither may be lost.
                text = f"{text}\n{child_text}" if text and text.strip() else child_text
            html_body = child_html if child_html is not None else html_body
        return [Body(text, html_body)] if text is not None or html_body is not None else []

    def _leaf(self, part: Part) -> list[Body]:
        if not _is_body(part):
            self._attach(part)
            return []
        raw = self._decoded(part, self._text_left + 1)
        if len(raw) > self._text_left:
            raw = raw[: self._text_left]
            self._note("text-bytes")
            self._attach(part)
        self._text_left -= len(raw)
        text, sound = charset.decode(raw, part.type_parameters.get("charset", ""))
        if not sound:
            self._note("charset")
        if b"\x00" in raw and "utf-16" not in part.type_parameters.get("charset", "").casefold():
            self._note("nul")
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        return [Body(None, text) if part.content_type == "text/html" else Body(text, None)]

    def _is_large(self, part: Part) -> bool:
        return self._data is None and part.end - part.start > _LARGE_PART

    def _raw(self, part: Part) -> bytes:
        if self._data is not None:
            return self._data[part.start : part.end]
        return b"".join(slice_chunks(self._content, part.start, part.end))

    def _decoded(self, part: Part, limit: int) -> bytes:
        if self._is_large(part):
            # Encoded bytes are never fewer than a third of the decoded ones, so this reads a bounded piece.
            return read_all(SliceContent(self._content, part.start, part.end, part.encoding, 0), limit)
        decoded, sound = transfer.decode(self._raw(part), part.encoding)
        if not sound:
            self._note("base64")
        return decoded

    def _attach(self, part: Part) -> None:
        if self._is_large(part):
            content, digest = self._large(part)
        else:
            decoded = self._decoded(part, -1)
            content, digest = BytesContent(decoded), hashlib.sha256(decoded).digest()
        kind = part.content_type
        self._attachments.append(Attachment(_name(part, content), kind, content, digest, part.content_id))

    def _large(self, part: Part) -> tuple[Content, bytes]:
        digest = hashlib.sha256()
        size = 0
        for chunk in transfer.decode_chunks(slice_chunks(self._content, part.start, part.end), part.encoding):
            digest.update(chunk)
            size += len(chunk)
        return SliceContent(self._content, part.start, part.end, part.encoding, size), digest.digest()

    # --- The whole ---

    def _email(self, fields: _Fields, name: bytes, text: str, html_body: str) -> ParsedEmail:
        from_ = self._addresses(fields, "from")
        if not any(a.address for a in from_):
            self._note("no-from")
        when = headers.date(fields.first("date")) if fields.first("date") else None
        if when is None:
            self._note("date", "no Date field" if not fields.first("date") else "")
        to = self._addresses(fields, "to")
        cc = self._addresses(fields, "cc", len(to))
        return ParsedEmail(
            identity=name,
            message_id=_message_id(fields.values.get("message-id", ())),
            subject=headers.decode(fields.first("subject")),
            from_=from_,
            sender=self._addresses(fields, "sender"),
            reply_to=self._addresses(fields, "reply-to"),
            to=to,
            cc=cc,
            bcc=self._addresses(fields, "bcc", len(to) + len(cc)),
            date=when,
            in_reply_to=headers.named_ids(fields.values.get("in-reply-to", [])),
            references=headers.named_ids(fields.values.get("references", [])),
            headers=fields.headers,
            text=text,
            html=html_body,
            attachments=_marked_inline(self._attachments, html_body),
            size=self._content.size,
            defects=tuple(Defect(code, detail) for code, detail in self._defects.items()),
        )

    def _addresses(self, fields: _Fields, name: str, already: int = 0) -> tuple[Address, ...]:
        most = max(0, self._limits.recipients - already)
        found: tuple[Address, ...] = ()
        for value in fields.values.get(name, ()):
            found += addresses.parse(value, most - len(found) + 1)
        if len(found) > most:
            self._note("recipients", f"only the first {self._limits.recipients} recipients were read")
            found = found[:most]
        return found


def _fields(root: Part) -> _Fields:
    # Most values are plain: not even a call is spent on them.
    plain = [v if v.isprintable() and "=?" not in v else headers.decode(v) for _, v in root.fields]
    fields = _Fields(tuple([Header(name, value) for (name, _), value in zip(root.fields, plain, strict=True)]))
    for name, value in root.fields:
        if (key := name.lower()) in _READ:
            fields.values.setdefault(key, []).append(value)
    return fields


def _message_id(values: Iterable[str]) -> str:
    return next((found for value in values if (found := headers.message_id(value))), "")


def _is_body(part: Part) -> bool:
    """Text that is read in the message itself, not a file that came with it."""
    if part.content_type.startswith("multipart/"):
        # No part was found in it: show what is there. (Parts too deep are kept closed instead.)
        return bool(part.boundary) or part.depth == 0
    if part.content_type not in ("text/plain", "text/html") or part.disposition == "attachment":
        return False
    return part.depth == 0 or not _given_name(part)


def _is_referred_to(part: Part) -> bool:
    return not part.children and bool(
        part.content_id or any(name.lower() == "content-location" for name, _ in part.fields)
    )


def _given_name(part: Part) -> str:
    return part.disposition_parameters.get("filename") or part.type_parameters.get("name") or ""


def _name(part: Part, content: Content) -> str:
    name = names.safe(headers.decode(_given_name(part)))
    if not name and part.content_type in ("message/rfc822", "message/global"):
        subject = _subject_of(content)
        name = names.safe(subject.replace("/", "_").replace("\\", "_") + ".eml") if subject else ""
    return name or names.of_type(part.content_type)


def _subject_of(content: Content) -> str:
    head = read_all(content, 64 * 1024)
    fields, _ = headers.split(re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0], 200)
    return next((headers.decode(value) for name, value in fields if name.lower() == "subject"), "")


def _merged(bodies: list[Body]) -> Body:
    """Stretches that follow each other (a list's footer after the letter) as one body, nothing lost in either form."""
    if not bodies:
        return Body(None, None)
    telling = [b for b in bodies if (b.text or "").strip() or b.html is not None] or bodies[:1]
    if len(telling) == 1:
        return telling[0]
    text = html_body = None
    if any(b.text is not None for b in telling):
        as_text = html.to_text if len(telling) <= _LAID_OUT else html.stripped
        text = "\n".join(b.text if b.text is not None else as_text(b.html or "") for b in telling)
    if any(b.html is not None for b in telling):
        html_body = "\n".join(b.html if b.html is not None else html.of_text(b.text or "") for b in telling)
    return Body(text, html_body)


_CID = re.compile(r"""cid:([^"'\s<>()]+)""", re.IGNORECASE)


def _marked_inline(attachments: list[Attachment], html_body: str) -> tuple[Attachment, ...]:
    """Inline is what the HTML shows, whatever the sender's Content-Disposition says."""
    if not html_body or not any(a.content_id for a in attachments):
        return tuple(attachments)
    shown = {unquote(html.unescape(found)) for found in _CID.findall(html_body)}
    return tuple(replace(a, inline=True) if a.content_id in shown else a for a in attachments)


def _unparsable(content: Content, limits: Limits, error: Exception) -> ParsedEmail:
    """The last net: the header as far as it goes, and no body. Each step may fail without the others."""
    head = re.split(rb"\r?\n\r?\n", read_all(content, limits.header_bytes), maxsplit=1)[0]
    nothing: list[headers.Field] = []
    fields = _attempt(lambda: headers.split(head, limits.headers)[0], nothing)
    readable = [Header(name, _attempt(partial(headers.decode, value), "")) for name, value in fields]
    values = {h.name.lower(): h.value for h in reversed(readable)}
    return ParsedEmail(
        identity=identity(content),
        message_id=_attempt(lambda: headers.message_id(values.get("message-id", "")), ""),
        subject=values.get("subject", ""),
        from_=_attempt(lambda: addresses.parse(values.get("from", ""), 10), ()),
        sender=(),
        reply_to=(),
        to=(),
        cc=(),
        bcc=(),
        date=None,
        in_reply_to=(),
        references=(),
        headers=tuple(readable),
        text="",
        html="",
        attachments=(),
        size=content.size,
        defects=(Defect("unparsable", f"{_DEFECTS['unparsable']}: {type(error).__name__}: {error}"[:500]),),
    )


def _attempt(action: Callable[[], _T], otherwise: _T) -> _T:
    try:
        return action()
    except Exception:
        return otherwise
