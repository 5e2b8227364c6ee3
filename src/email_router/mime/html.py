"""HTML from strangers: shown safely, and as plain text. Pure; done when it is shown, not when it is filed.

Cost is bounded by size and depth: what is larger or deeper is shown as plain text.
"""

from __future__ import annotations

import contextlib
import html as entities
import re

import nh3

LARGEST = 1024 * 1024
"""Characters of HTML that are cleaned or laid out; longer HTML is shown as plain text."""
_DEEPEST = 200
"""Levels of nested elements; libxml2 and browsers give up a little above."""

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
    if len(html) <= LARGEST and _depth_is_bounded(html):
        with contextlib.suppress(Exception):  # a cleaner that fails must not show the original
            return _CLEANER.clean(html)
    return f"<pre>{entities.escape(stripped(html[:LARGEST]))}</pre>"


def to_text(html: str) -> str:
    """Plain text with lists and tables laid out. Never raises; HTML that is too long or too deep is merely stripped."""
    if len(html) <= LARGEST // 2 and _depth_is_bounded(html):
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


def _depth_is_bounded(html: str) -> bool:
    """Whether elements that must be closed never lie deeper than `_DEEPEST` (roughly: a guess that errs to deep)."""
    depth = 0
    for closing, tag in _TAG.findall(html):
        if closing:
            depth = max(0, depth - 1)
        elif tag.lower() not in _VOID:
            depth += 1
            if depth > _DEEPEST:
                return False
    return True


_INVISIBLE = re.compile(r"<(script|style|head|title|noscript|template)\b[^>]*+>.*?</\1\s*>|<!--.*?-->", re.I | re.S)
_BREAKS = re.compile(r"<(?:br|/p|/div|/tr|/li|/h[1-6]|/blockquote|/table|hr)\b[^>]*+>", re.IGNORECASE)
_ANY_TAG = re.compile(r"<[/!?a-zA-Z][^<>]*+>?")


def stripped(html: str) -> str:
    """The text without its tags, in linear time and without a parser."""
    text = re.sub(
        r"[ \t\r\n]+", " ", _INVISIBLE.sub(" ", html) if html.count("<!--") + html.count("<s") < 1000 else html
    )
    text = _ANY_TAG.sub("", _BREAKS.sub("\n", text))
    return _tidy(entities.unescape(text))


def _tidy(text: str) -> str:
    lines = [line.rstrip() for line in text.replace("\x00", "").replace("\xa0", " ").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
