"""Bytes to text: the declared charset if it is true, else what they most probably are. Never fails."""

from __future__ import annotations

import contextlib
import encodings.aliases
import functools
import re

import cchardet

_SAMPLE = 64 * 1024
"""Bytes that are looked at to guess a charset."""

# What senders mean by these labels (WHATWG Encoding, section 4.2): the larger set that real mail uses.
_MEANT = {
    "ascii": "ascii",
    "us_ascii": "ascii",
    "iso_8859_1": "cp1252",
    "latin_1": "cp1252",
    "latin1": "cp1252",
    "windows_1252": "cp1252",
    "iso_8859_9": "cp1254",
    "iso_8859_8_i": "iso8859_8",
    "iso_8859_8_e": "iso8859_8",
    "tis_620": "cp874",
    "iso_8859_11": "cp874",
    "windows_874": "cp874",
    "gb2312": "gb18030",
    "gb_2312_80": "gb18030",
    "gbk": "gb18030",
    "x_gbk": "gb18030",
    "cp936": "gb18030",
    "ks_c_5601_1987": "cp949",
    "euc_kr": "cp949",
    "ksc5601": "cp949",
    "shift_jis": "cp932",
    "sjis": "cp932",
    "x_sjis": "cp932",
    "windows_31j": "cp932",
    "ms_kanji": "cp932",
    "big5": "big5hkscs",
    "big5_hkscs": "big5hkscs",
    "iso_2022_jp": "iso2022_jp_ext",
    "utf8": "utf-8",
    "utf_8": "utf-8",
    "unicode_1_1_utf_7": "utf_7",
    "macintosh": "mac_roman",
    "x_mac_roman": "mac_roman",
    "x_user_defined": "cp1252",
}
# Codecs of Python that are no charsets of mail.
_NO_CHARSET = {
    "base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec", "mbcs", "oem",
    "idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "unicode_internal", "charmap",
}  # fmt: skip
_KNOWN = frozenset(encodings.aliases.aliases.values()) - _NO_CHARSET | {"cp874", "cp1006", "koi8_u", "utf_8_sig"}
_PUNCTUATION = re.compile(r"[^a-z0-9]+")


@functools.lru_cache(maxsize=512)
def codec_for(label: str) -> str:
    """Python's codec for a charset label, or "". Looks only in tables: labels come from strangers."""
    name = _PUNCTUATION.sub("_", label[:60].casefold()).strip("_")
    meant = _MEANT.get(name)
    if meant:
        return meant
    codec = encodings.aliases.aliases.get(name, name)
    if codec in _KNOWN:
        return _MEANT.get(codec, codec)
    # windows-1251 is cp1251; iso8859-15 is iso8859_15 in Python's tables.
    if name.startswith("windows_") and "cp" + name[8:] in _KNOWN:
        return "cp" + name[8:]
    return ""


def decode(data: bytes, label: str = "") -> tuple[str, bool]:
    """Text, and whether the declared charset held. Without line-end changes; NULs and lone surrogates removed."""
    declared = codec_for(label) if label else "ascii"
    if declared in ("ascii", "utf-8", "cp1252", "") and data.isascii():
        if b"\x1b$" in data and declared in ("ascii", ""):  # old Japanese mailers name no charset
            with contextlib.suppress(UnicodeError):
                return clean(data.decode("iso2022_jp_ext")), False
        return clean(data.decode("ascii")), declared != ""
    if declared and declared != "ascii":
        try:
            return clean(data.decode(declared)), True
        except (UnicodeError, LookupError):
            pass
    return clean(_guess(data, declared)), False


def _guess(data: bytes, declared: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if declared in ("", "ascii"):
        found = cchardet.detect(data[:_SAMPLE])
        guessed = codec_for(found["encoding"] or "") if (found["confidence"] or 0) > 0.3 else ""
        declared = guessed or "cp1252"
    try:
        return data.decode(declared, "replace")
    except (UnicodeError, LookupError):
        return data.decode("cp1252", "replace")


def clean(text: str) -> str:
    """Without NUL and lone surrogates: PostgreSQL's text holds neither."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def repair(text: str) -> str:
    """Text in which bytes that were no UTF-8 stand as surrogates (PEP 383), with those bytes understood."""
    if text.isascii():
        return clean(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return decode(text.encode("utf-8", "surrogateescape"))[0] if _escapes_only(text) else clean(text)
    return clean(text)


def _escapes_only(text: str) -> bool:
    return not any("\ud800" <= c <= "\udc7f" or "\udd00" <= c <= "\udfff" for c in text)
