"""File names from strangers, made safe for any system."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 150
"""Characters of a safe name, its extension included; at most 240 bytes as UTF-8, as file systems allow 255."""
_LONGEST_BYTES = 240
_LONGEST_EXTENSION = 16

_FORBIDDEN = re.compile('[<>:"|?*\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]')
_SPACES = re.compile(r"\s+")
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: reserved also before any extension.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(?=\.|$)", re.IGNORECASE)

# Not the system's mime.types: names must not differ from one router to another.
_EXTENSIONS = {
    "application/gzip": "gz",
    "application/json": "json",
    "application/ms-tnef": "dat",
    "application/msword": "doc",
    "application/ics": "ics",
    "application/pdf": "pdf",
    "application/pgp-encrypted": "asc",
    "application/pgp-signature": "asc",
    "application/pkcs7-mime": "p7m",
    "application/pkcs7-signature": "p7s",
    "application/x-pkcs7-mime": "p7m",
    "application/x-pkcs7-signature": "p7s",
    "application/postscript": "ps",
    "application/rtf": "rtf",
    "application/vnd.ms-excel": "xls",
    "application/vnd.ms-powerpoint": "ppt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/x-gzip": "gz",
    "application/xml": "xml",
    "application/zip": "zip",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/jpeg": "jpg",
    "image/jpg": "jpg",
    "image/png": "png",
    "image/svg+xml": "svg",
    "image/tiff": "tif",
    "image/webp": "webp",
    "message/delivery-status": "txt",
    "message/disposition-notification": "txt",
    "message/feedback-report": "txt",
    "message/global": "eml",
    "message/rfc822": "eml",
    "text/calendar": "ics",
    "text/csv": "csv",
    "text/css": "css",
    "text/html": "html",
    "text/plain": "txt",
    "text/rfc822-headers": "txt",
    "text/richtext": "rtx",
    "text/rtf": "rtf",
    "text/vcard": "vcf",
    "text/x-vcard": "vcf",
    "text/xml": "xml",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
}


def safe(name: str) -> str:
    """A file name without path, control and direction characters, reserved names or excess length; "" if none is left.

    The extension is kept when the name is cut. Calling it again changes nothing.
    """
    name = unicodedata.normalize("NFC", name)
    name = name.replace("\\", "/").rstrip("/ ").rpartition("/")[2]
    name = _SPACES.sub(" ", _FORBIDDEN.sub("_", name)).strip(" ").rstrip(". ")
    if not name.strip("._ "):
        return ""
    if _RESERVED.match(name):
        name = "_" + name
    return _shortened(name)


def _shortened(name: str) -> str:
    if len(name) <= LONGEST and len(name.encode()) <= _LONGEST_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or not stem or len(extension) > _LONGEST_EXTENSION or " " in extension:
        stem, extension = name, ""
    ending = dot + extension if extension else ""
    stem = stem[: LONGEST - len(ending)]
    room = _LONGEST_BYTES - len(ending.encode())
    stem = stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ")
    return unicodedata.normalize("NFC", stem + ending)


def of_type(content_type: str, stem: str = "attachment") -> str:
    """A name for a part without one: `image.png`, `attachment.pdf`, `attachment.bin`."""
    main = content_type.partition("/")[0]
    if main in ("image", "audio", "video", "message"):
        stem = main
    return f"{stem}.{_EXTENSIONS.get(content_type, 'bin')}"
