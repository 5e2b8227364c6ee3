"""Address lists as they are really written, and one spelling for each address."""

from __future__ import annotations

import re
import unicodedata

from email_router.mime import headers
from email_router.model.message import Address

# One plain `Name <local@domain>`, `"Name" <local@domain>` or `local@domain`: nearly all real fields.
# Possessive throughout, here and below: a header of 256 KB may be one run of spaces or of apostrophes.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]"
_DOMAIN = r"[A-Za-z0-9-]++(?:(?=\.[A-Za-z0-9-])\.[A-Za-z0-9-]++)*+"
_PLAIN = re.compile(
    r'\s*+(?:(?:"([^"\\<>]*+)"|([^",;:<>()@\\]*+))\s*+'
    rf"<({_ATOM}++)@({_DOMAIN})>|({_ATOM}++)@({_DOMAIN}))\s*+(?:,|\Z)"
)
_SPECIAL = re.compile(r'["(<,;:]')
_ESCAPED = re.compile(r"\\(.)")
_LONGEST_NAME = 512
_LONGEST_ADDRESS = 320


def parse(value: str, most: int = 10_000) -> tuple[Address, ...]:
    """The addresses of an undecoded, unfolded field (RFC 5322 section 3.4, RFC 6532, and the usual faults).

    Never raises. Groups are opened; an empty group gives nothing. What has a name but no usable address keeps its name
    with the address "". At most `most` addresses are returned.
    """
    found: list[Address] = []
    position = 0
    while len(found) < most and (match := _PLAIN.match(value, position)):
        quoted, atoms, local, domain, bare, bare_domain = match.groups()
        address = f"{local or bare}@{(domain or bare_domain).lower()}"
        if len(address) > _LONGEST_ADDRESS:
            break
        found.append(Address(_name(quoted or atoms or ""), address))
        position = match.end()
    rest = value[position:]
    if rest.strip() and len(found) < most:
        found += _Reader(rest, most - len(found)).read()
    if found and not any(a.address for a in found) and "=?" in value:
        # The whole list was encoded as words, addresses too: wrong, but then it is the only address there is.
        decoded = headers.decode(value)
        if "@" in decoded:
            return tuple(_Reader(decoded.replace("=?", ""), most).read())
    return tuple(found)


def normalise(address: str) -> str:
    """`local@domain` with a lower-case A-label domain and the local part as it is, or "" when it is no address."""
    address = address.strip()
    if len(address) > _LONGEST_ADDRESS or not address.isprintable():
        return ""
    local, at, domain = address.rpartition("@")
    domain = ascii_domain(domain)
    local = local.strip()
    if not at or not domain or not _local_part(local):
        return ""
    return f"{local}@{domain}"


def ascii_domain(domain: str) -> str:
    """The domain in lower-case A-labels (RFC 5890), or "" when it is none. An address literal stays."""
    domain = domain.strip().rstrip(".").strip()
    if domain.startswith("[") and domain.endswith("]"):
        return domain.lower() if re.fullmatch(r"\[[0-9A-Za-z:.]+\]", domain) else ""
    if not domain.isascii():
        # NFKC and lower case are what IDNA's mapping (UTS 46) does to names that people type; it keeps ß and ς.
        mapped = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", domain).lower())
        domain = ".".join(_a_label(label) for label in mapped.replace("\u3002", ".").split("."))
    domain = domain.lower()
    return domain if _HOST.fullmatch(domain) and len(domain) <= 255 else ""


_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*)(?:(?=\.[a-z0-9_])\.[a-z0-9_-]*)*+")


def _a_label(label: str) -> str:
    if label.isascii():
        return label
    try:
        return "xn--" + label.encode("punycode").decode("ascii")
    except UnicodeError:
        return " "  # no host name: the address is refused as a whole


_LOCAL = re.compile(
    '(?:[^\x00-\x20\x7f-\xa0\u2028\u2029"(),:;<>@\\[\\]\\\\]+|"(?:[^\x00-\x1f"\\\\]|\\\\[\x20-\x7e])*+")'
)


def _local_part(local: str) -> bool:
    return _LOCAL.fullmatch(local) is not None and "\ufffd" not in local


def _name(text: str) -> str:
    """A display name as a person reads it."""
    if "=?" in text:
        text = headers.decode_words(text)
    text = " ".join(text.split())
    if not text.isprintable():
        text = headers.decode(text)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text[:_LONGEST_NAME]


_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*+)"|<([^<>]*)>|([",;:<>()])|([^",;:<>()]+)', re.DOTALL)
_TOKEN_WITHOUT_QUOTES = re.compile(r"(?!)(.)|<([^<>]*)>|([,;:<>()])|([^,;:<>()]+)", re.DOTALL)
_PARENTHESIS = re.compile(r"\\.|[()]", re.DOTALL)
_AROUND = re.compile(r"(?:(?<!\s)\s++)?([@.])\s*+")
_ANYWHERE = re.compile(rf"(?<![^\s'\[])({_ATOM}{{1,128}}+@{_DOMAIN})(?![^\s'\].])")


class _Reader:
    """Reads a list token by token, in linear time; what is never closed (a quote, a comment) is taken as letters."""

    def __init__(self, text: str, most: int) -> None:
        self._text = text
        self._most = most
        self._tokens = _TOKEN
        self._comments_close = True
        self._found: list[Address] = []
        self._nameless = ""
        self._begin()

    def _begin(self) -> None:
        self._words: list[str] = []
        self._comment = ""
        self._angle: str | None = None

    def read(self) -> list[Address]:
        position = 0
        while position < len(self._text) and len(self._found) < self._most:
            match = self._tokens.match(self._text, position)
            if match is None:  # a control character that no token begins with
                position += 1
                continue
            position = self._take(match)
        self._end("")
        self._end_nameless()
        return self._found[: self._most]

    def _take(self, match: re.Match[str]) -> int:
        quoted, angle, special, words = match.groups()
        if words is not None:
            self._words.append(words)
        elif angle is not None:
            self._angle = angle
        elif quoted is not None:
            local = self._text.startswith("@", match.end())
            self._words.append(match.group() if local else _ESCAPED.sub(r"\1", quoted))
        elif special == "(":
            return self._skip_comment(match.end())
        elif special == '"':
            self._tokens = _TOKEN_WITHOUT_QUOTES
        elif special in ",;":
            self._end(special)
        elif special == ":" and self._angle is None:
            self._words = []  # a group's name, or `mailto:`
        return match.end()

    def _skip_comment(self, start: int) -> int:
        depth = 1
        if self._comments_close:
            for match in _PARENTHESIS.finditer(self._text, start):
                depth += {"(": 1, ")": -1}.get(match.group(), 0)
                if not depth:
                    self._comment = self._text[start : match.start()]
                    return match.end()
        self._comments_close = False
        return start

    def _end(self, separator: str) -> None:
        """One entry is complete."""
        words = "".join(self._words).strip().strip("'")
        if self._angle is not None:
            self._end_angle(words, self._angle)
        elif words:
            self._end_bare(words, separator)
        self._begin()

    def _end_angle(self, words: str, angle: str) -> None:
        address = normalise(_AROUND.sub(r"\1", _without_route(angle)))
        name = _name(words or self._comment)
        if self._nameless:  # `Doe, John <j@x>`: the comma was part of the name
            name, self._nameless = f"{self._nameless}, {name}".rstrip(", ")[:_LONGEST_NAME], ""
        if address or name or angle.strip():
            self._found.append(Address(name if name or address else _name(angle), address))

    def _end_bare(self, words: str, separator: str) -> None:
        address = normalise(_AROUND.sub(r"\1", words)) if "@" in words else ""
        name = _name(self._comment)
        if not address and (inside := _ANYWHERE.search(words)):  # `Max max@example.com`
            address = normalise(inside[1])
            name = _name(words[: inside.start()] + words[inside.end() :]) or name
        if not address and separator == ",":
            if len(self._nameless) < _LONGEST_NAME:  # it grows with each comma
                self._nameless = f"{self._nameless}, {_name(words)}" if self._nameless else _name(words)
            return
        self._end_nameless()
        self._found.append(Address(name, address) if address else Address(_name(words), ""))

    def _end_nameless(self) -> None:
        if self._nameless:
            self._found.append(Address(self._nameless[:_LONGEST_NAME], ""))
            self._nameless = ""


def _without_route(angle: str) -> str:
    """`<@relay,@relay:local@domain>` (RFC 5322 section 4.4) and `<mailto:…>`."""
    if angle.lstrip().startswith("@"):
        angle = angle.partition(":")[2]
    return angle.strip().removeprefix("mailto:").strip("'")
