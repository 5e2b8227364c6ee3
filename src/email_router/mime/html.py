"""HTML from strangers: shown safely, and as plain text. Pure; done when it is shown, not when it is filed.

Cost is bounded by size and depth: what is larger or deeper is shown as plain text.
"""

from __future__ import annotations

import contextlib
import html as entities
import re
from collections import Counter
from collections.abc import Iterator

import nh3

LARGEST = 1024 * 1024
"""Characters of HTML that are cleaned or laid out; longer HTML is shown as plain text."""
_DEEPEST = 200
"""Levels of nested elements; libxml2 and browsers give up a little above."""
_REPEATED = 200_000
"""Formatting elements that a parser may have to open again, over the whole document."""
_REFERENCES = 100_000
"""`&` and no-break spaces: each is a piece of its own to the cleaner, and it is slow with very many."""

_TAGS = frozenset(nh3.ALLOWED_TAGS) - {"map", "area", "article", "nav", "header", "footer"} | {
    "font", "center", "big", "u", "s", "strike", "tt", "section", "main", "address",
}  # fmt: skip
_LAYOUT = {"align", "valign", "bgcolor", "width", "height", "style", "dir", "lang", "title"}
_ATTRIBUTES: dict[str, set[str]] = {
    "*": _LAYOUT,
    "a": {"href"},
    "img": {"src", "alt"},
    "table": {"border", "cellpadding", "cellspacing"},
    "td": {"colspan", "rowspan", "nowrap"},
    "th": {"colspan", "rowspan", "nowrap", "scope"},
    "font": {"color", "face", "size"},
    "ol": {"start", "type"},
}
# Nothing that loads (url()), moves out of its box (position) or covers the page.
_STYLES = {
    "background-color", "border", "border-bottom", "border-collapse", "border-color", "border-left", "border-radius",
    "border-right", "border-spacing", "border-style", "border-top", "border-width", "color", "direction", "display",
    "font", "font-family", "font-size", "font-style", "font-weight", "height", "letter-spacing", "line-height",
    "list-style-type", "margin", "margin-bottom", "margin-left", "margin-right", "margin-top", "max-width",
    "min-width", "padding", "padding-bottom", "padding-left", "padding-right", "padding-top", "text-align",
    "text-decoration", "text-indent", "text-transform", "vertical-align", "white-space", "width", "word-break",
    "word-wrap",
}  # fmt: skip
_LOADS = re.compile(r"url\s*\(|image\s*\(|image-set|expression|@import|\\|/\*", re.IGNORECASE)


def _attribute(tag: str, attribute: str, value: str) -> str | None:
    if attribute == "src":
        return value if tag == "img" and value.strip().casefold().startswith("cid:") else None
    if attribute == "style":
        return None if _LOADS.search(value) else value
    return value


_CLEANER = nh3.Cleaner(
    tags=set(_TAGS),
    clean_content_tags={"script", "style", "title", "head", "noscript", "template", "svg", "math", "iframe", "object"},
    attributes=_ATTRIBUTES,
    attribute_filter=_attribute,
    url_schemes={"http", "https", "mailto", "tel", "cid"},
    url_relative="deny",
    filter_style_properties=_STYLES,
    link_rel="noopener noreferrer nofollow",
    set_tag_attribute_values={"a": {"target": "_blank"}},
)


def sanitise(html: str) -> str:
    """HTML that loads nothing and runs nothing: the only images are `cid:`, the message's own.

    Never raises. HTML that is too long or too deep comes back as plain text in `<pre>`.
    """
    if len(html) <= LARGEST and html.count("&") + html.count("\xa0") <= _REFERENCES and _is_bounded(html):
        with contextlib.suppress(Exception):  # a cleaner that fails must not show the original
            return _CLEANER.clean(html)
    return f"<pre>{entities.escape(stripped(html[:LARGEST]))}</pre>"


def to_text(html: str) -> str:
    """Plain text with lists and tables laid out. Never raises; HTML that is too long or too deep is merely stripped."""
    if len(html) <= LARGEST // 2 and _is_bounded(html):
        with contextlib.suppress(Exception):  # lxml's own limits, empty documents
            import inscriptis  # 55 ms and lxml: only for those who need it

            return _tidy(inscriptis.get_text(html))
    return stripped(html[:LARGEST])


def of_text(text: str) -> str:
    """Plain text as HTML that keeps its lines."""
    return f'<div style="white-space: pre-wrap">{entities.escape(text)}</div>'


_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*+)")
_VOID = frozenset(
    ("br", "hr", "img", "input", "meta", "link", "col", "area", "base", "wbr", "p", "li", "td", "tr", "th")
)
_FORMATTING = frozenset(
    ("a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u")
)  # fmt: skip


def _is_bounded(html: str) -> bool:
    """Whether a parser's tree stays near the size of the source (roughly: a guess that errs to unbounded).

    Elements that must be closed may lie `_DEEPEST` deep; an end tag counts only for its own element. Formatting that
    was never closed is opened again in each block that follows (HTML, "reconstruct the active formatting elements"):
    a few kilobytes may so become gigabytes.
    """
    depth = repeated = formatting = 0
    open_: Counter[str] = Counter()
    for closing, tag in _TAG.findall(html):
        name = tag.lower()
        if name in _FORMATTING and (not closing or open_[name]):
            formatting += -1 if closing else 1
        if closing and open_[name]:
            open_[name] -= 1
            depth -= 1
        elif not closing and name not in _VOID:
            open_[name] += 1
            depth += 1
        repeated += formatting
        if depth > _DEEPEST or repeated > _REPEATED:
            return False
    return True


_INVISIBLE = {
    name: re.compile(f"</{name}", re.IGNORECASE | re.ASCII)
    for name in ("script", "style", "head", "title", "noscript", "template")
}
"""Elements whose content is not shown, and how they end."""
_COMMENT = {"!--": re.compile("-->")}
_BREAKS = frozenset(
    ("br", "/p", "/div", "/tr", "/li", "/h1", "/h2", "/h3", "/h4", "/h5", "/h6", "/blockquote", "/table", "hr")
)
_ANY_TAG = re.compile(r"<(?:(!--)|(?:(/?[a-zA-Z][a-zA-Z0-9]*+)|[/!?])[^<>]*+>?)")
_SPACES = re.compile(r"[ \t\r\n]+")
_LONG_REFERENCE = re.compile(r"&#(?:[0-9]{20,}|[xX][0-9a-fA-F]{20,});?")


def stripped(html: str) -> str:
    """The text without its tags, in linear time and without a parser."""
    return _tidy(unescape("".join(_visible(html))))


def _visible(html: str) -> Iterator[str]:
    """Stretches of text, and line breaks. What hides its content does so only if it is closed somewhere."""
    hiding = _INVISIBLE | _COMMENT
    shown_from = at = 0
    while (tag := _ANY_TAG.search(html, at)) is not None:
        name = (tag[1] or tag[2] or "").lower()
        yield _SPACES.sub(" ", html[shown_from : tag.start()])
        shown_from = at = tag.end()
        if name in _BREAKS:
            yield "\n"
        elif name in hiding:
            end = hiding[name].search(html, at)
            if end is None:
                del hiding[name]  # so that nobody makes us look for it again and again
            else:
                yield " "
                shown_from = at = end.end() if name == "!--" else end.start()
    yield _SPACES.sub(" ", html[shown_from:])


def unescape(text: str) -> str:
    """Character references as characters; never raises (int() refuses numbers of more than 4,300 digits)."""
    return entities.unescape(_LONG_REFERENCE.sub("\ufffd", text))


def _tidy(text: str) -> str:
    lines = [line.rstrip() for line in text.replace("\x00", "").replace("\xa0", " ").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
