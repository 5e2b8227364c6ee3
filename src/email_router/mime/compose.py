"""An `OutgoingEmail` to the bytes that go over the wire: the same input gives the same bytes, at each attempt.

What may fail: an attachment's bytes are missing or an address cannot be written: Permanent, naming the cure. Reading
the result fails as the attachments' own streams fail; nothing is written anywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC
from email.utils import format_datetime

from email_router.mime import fields, html, names, transfer
from email_router.mime.contents import BytesContent, JoinedContent, read_all
from email_router.model.errors import Permanent
from email_router.model.message import Content
from email_router.model.outgoing import AttachmentRef, OutgoingEmail, Stamps

_SMALL = 256 * 1024
"""Bytes of attachments up to which a message is put together in memory."""
_REFERENCES_BYTES = 2048
_REFERENCES_NEWEST = 20
_LONGEST_PLAIN_LINE = 900

_PRIORITY = {0: "Importance: low\r\nX-Priority: 5\r\n", 2: "Importance: high\r\nX-Priority: 1\r\n"}
_TYPE = re.compile(r"(?!multipart/|message/)[a-z0-9][a-z0-9!#$&^_.+-]{0,100}/[a-z0-9][a-z0-9!#$&^_.+-]{0,100}")

Pieces = list[bytes | Content]


def needs_smtputf8(email: OutgoingEmail) -> bool:
    """Whether an address can only be written in UTF-8 (RFC 6531): a local part that is not ASCII."""
    people = (email.from_, *email.to, *email.cc, *email.bcc)
    return any(not person.address.rpartition("@")[0].isascii() for person in people)


def compose(
    email: OutgoingEmail,
    stamps: Stamps,
    attachments: Mapping[bytes, Content],
    *,
    auto_submitted: str = "",
) -> Content:
    """The message (RFC 5322, 2045 to 2049), CRLF line ends, lines of at most 998 bytes; Bcc is not in it.

    `attachments` holds the bytes of `email.attachments` by sha256. They are read while the result is read, so they must
    live as long. `auto_submitted` is a keyword of RFC 3834 (`auto-replied`, `auto-generated`) for mail no person wrote.
    Raises Permanent.
    """
    body = _Body(email, stamps, attachments).pieces()
    pieces = _joined([_header(email, stamps, auto_submitted).encode(), *body])
    if len(pieces) == 1 and isinstance(pieces[0], bytes):
        return BytesContent(pieces[0])
    message = JoinedContent(pieces)
    return BytesContent(read_all(message)) if message.size <= _SMALL else message


def _header(email: OutgoingEmail, stamps: Stamps, auto_submitted: str) -> str:
    date = stamps.date if stamps.date.tzinfo else stamps.date.replace(tzinfo=UTC)
    sender = fields.mailboxes("From", [email.from_])
    if not sender:
        raise Permanent("the email has no sender address", cure="give the sending user or queue an email address")
    message_id = fields.message_ids("Message-ID", [stamps.message_id])
    if not message_id:
        raise Permanent("the Message-ID of this email cannot be written", where=fields.clean(stamps.message_id)[:100])
    to, cc = fields.mailboxes("To", email.to), fields.mailboxes("Cc", email.cc)
    return "".join(
        (
            sender,
            # RFC 5322 section 3.6.3 allows no empty To; many servers refuse mail without any receiver field.
            to or ("" if cc else "To: undisclosed-recipients:;\r\n"),
            cc,
            fields.unstructured("Subject", email.subject),
            f"Date: {format_datetime(date)}\r\n",
            message_id,
            fields.message_ids("In-Reply-To", [email.in_reply_to]),
            fields.message_ids("References", _references(email)),
            _PRIORITY.get(email.importance, ""),
            fields.mailboxes("Disposition-Notification-To", [email.from_]) if email.read_receipt else "",
            fields.unstructured("Auto-Submitted", auto_submitted) if auto_submitted else "",
            "MIME-Version: 1.0\r\n",
        )
    )


def _references(email: OutgoingEmail) -> Sequence[str]:
    """The first id of the conversation and the newest 20, in at most 2 KiB."""
    named = dict.fromkeys((*email.references, email.in_reply_to))
    ids = [found for raw in named if (found := fields.plain_id(raw))]
    if not ids:
        return ids
    first, newest = ids[0], ids[1:][-_REFERENCES_NEWEST:]
    while newest and sum(len(found) + 3 for found in (first, *newest)) > _REFERENCES_BYTES:
        del newest[0]
    return [first, *newest]


class _Body:
    """Builds the parts from the inside out: alternative in related in mixed, each only when it is needed."""

    def __init__(self, email: OutgoingEmail, stamps: Stamps, contents: Mapping[bytes, Content]) -> None:
        self._email = email
        self._contents = contents
        # `=_` occurs in no quoted-printable and no base64 (RFC 2045 section 6.7), and text that has it is encoded.
        self._boundary = "=_" + hashlib.sha256(stamps.message_id.encode("utf-8", "replace")).hexdigest()[:32]
        self._multiparts = 0

    def pieces(self) -> Pieces:
        email = self._email
        shown = [a for a in email.attachments if a.inline and a.content_id and email.html]
        files = [a for a in email.attachments if a not in shown]
        body = self._text()
        if shown:
            body = self._multipart(
                "related", [body, *map(self._attachment, shown)], ';\r\n type="multipart/alternative"'
            )
        return self._multipart("mixed", [body, *map(self._attachment, files)]) if files else body

    def _text(self) -> Pieces:
        text = self._email.text
        if not self._email.html:
            return [_text_part("plain", text)]
        if not text.strip():
            text = html.to_text(self._email.html)
        return self._multipart("alternative", [[_text_part("plain", text)], [_text_part("html", self._email.html)]])

    def _multipart(self, kind: str, parts: list[Pieces], parameters: str = "") -> Pieces:
        self._multiparts += 1
        boundary = f"{self._boundary}.{self._multiparts}"
        pieces: Pieces = [f'Content-Type: multipart/{kind}{parameters};\r\n boundary="{boundary}"\r\n\r\n'.encode()]
        for part in parts:
            # Each part ends its last line itself, so that this line break belongs to the boundary.
            pieces += [f"--{boundary}\r\n".encode(), *part, b"\r\n"]
        pieces.append(f"--{boundary}--\r\n".encode())
        return pieces

    def _attachment(self, ref: AttachmentRef) -> Pieces:
        content = self._contents.get(ref.sha256)
        if content is None:
            raise Permanent(
                "the bytes of an attachment are missing",
                where=fields.clean(ref.name)[:150],
                cure="attach the file again in the CRM, then send the email again",
            )
        kind = ref.content_type.strip().casefold()
        if not _TYPE.fullmatch(kind):
            # message/* may not be base64 (RFC 2046 section 5.2.1), and other encodings would not keep its bytes.
            kind = "application/octet-stream"
        name = names.safe(ref.name) or names.of_type(ref.content_type)
        content_id = fields.plain_id(ref.content_id)
        head = (
            f"Content-Type: {kind}{fields.parameter('name', fields.ascii_name(name))}\r\n"
            "Content-Transfer-Encoding: base64\r\n"
            f"Content-Disposition: {'inline' if ref.inline else 'attachment'}{fields.parameter('filename', name)}\r\n"
            + (f"Content-ID: <{content_id}>\r\n" if content_id else "")
            + "\r\n"
        )
        return [head.encode(), content]


def _text_part(kind: str, text: str) -> bytes:
    """A text part with its header; the text ends with a line end."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    if not text.endswith("\n"):
        text += "\n"
    raw = text.encode("utf-8", "replace")
    encoding, encoded = _encoded(raw)
    charset = "us-ascii" if raw.isascii() else "utf-8"
    head = f"Content-Type: text/{kind}; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + encoded


def _encoded(raw: bytes) -> tuple[str, bytes]:
    if _is_plain(raw):
        return "7bit", raw.replace(b"\n", b"\r\n")
    foreign = len(raw.translate(None, bytes(range(128))))
    if foreign * 6 > len(raw):
        return "base64", transfer.encode_base64(raw.replace(b"\n", b"\r\n"))
    return "quoted-printable", transfer.encode_quoted_printable(raw)


def _is_plain(raw: bytes) -> bool:
    """Whether text passes every server as it is: ASCII, short lines, nothing that servers or mbox files change."""
    return (
        raw.isascii()
        and b"=_" not in raw
        and b" \n" not in raw
        and not raw.startswith((b"From ", b"."))
        and b"\nFrom " not in raw
        and b"\n." not in raw
        and max(map(len, raw.split(b"\n"))) <= _LONGEST_PLAIN_LINE
    )


def _joined(pieces: Pieces) -> Pieces:
    """Neighbouring bytes as one piece."""
    joined: Pieces = []
    for piece in pieces:
        if isinstance(piece, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined
