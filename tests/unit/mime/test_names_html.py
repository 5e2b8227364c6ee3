from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_router.mime import html, names


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\docs\\offer.doc", "offer.doc"),
        ("con.txt", "_con.txt"),
        ("NUL", "_NUL"),
        ("console.txt", "console.txt"),
        ("a\x00b\r\n.pdf", "a_b_.pdf".replace("b_.", "b__.")),
        ("\u202egpj.exe", "_gpj.exe"),
        ("a\u061cb\u2067c.exe", "a_b_c.exe"),
        ("...", ""),
        ("", ""),
        ("a/", "a"),
        ("Angebot Köln.pdf", "Angebot Köln.pdf"),
        ("x" * 300 + ".pdf", "x" * 146 + ".pdf"),
        ("y" * 300, "y" * 150),
        ("name. ", "name"),
    ],
)
def test_safe_names(raw: str, expected: str) -> None:
    assert names.safe(raw) == expected


@given(st.text())
def test_safe_is_safe_and_settled(raw: str) -> None:
    name = names.safe(raw)
    assert names.safe(name) == name
    assert len(name) <= 150
    assert len(name.encode()) <= 240
    assert not set(name) & set('/\\:*?"<>|\r\n\x00')


def test_nameless_parts_are_named_by_their_type() -> None:
    assert names.of_type("image/png") == "image.png"
    assert names.of_type("application/pdf") == "attachment.pdf"
    assert names.of_type("application/x-strange") == "attachment.bin"


def test_sanitised_html_loads_nothing_and_runs_nothing() -> None:
    dirty = (
        '<p onclick="x()" style="position:fixed;color:red">Hi<script>x</script><img src="cid:a" onerror=x>'
        '<img src="http://t/p.gif"><img src="data:image/png;base64,AA"><a href="javascript:x">l</a>'
        '<a href="https://ok.example/">k</a><b style="background:url(http://t)">z</b><iframe src=x></iframe>'
        '<svg><image href="http://t"/></svg><style>@import "http://t"</style><meta http-equiv=refresh content=0>'
        '<base href="http://t"><form action="http://t"><input name=a></form><link rel=stylesheet href=x></p>'
    )
    assert html.sanitise(dirty) == (
        '<p style="color:red">Hi<img src="cid:a"><img><img>'
        '<a target="_blank" rel="noopener noreferrer nofollow">l</a>'
        '<a href="https://ok.example/" target="_blank" rel="noopener noreferrer nofollow">k</a><b>z</b></p><p></p>'
    )


def test_html_too_deep_or_too_long_is_shown_as_text() -> None:
    assert html.sanitise("<div>" * 300 + "a &lt;b&gt;") == "<pre>a &lt;b&gt;</pre>"
    shown = html.sanitise("<b>x</b> " * 200_000)
    assert shown.startswith("<pre>x x x")
    assert len(shown) < html.LARGEST


def test_many_links_are_fine() -> None:
    assert html.sanitise('<a href="https://x.example/">x</a>' * 20_000).count("<a ") == 20_000


def test_text_of_html() -> None:
    source = "<h1>Offer</h1><p>Dear <b>Bob</b>,<br>see:</p><ul><li>one</li><li>two</li></ul><style>p{}</style>"
    assert html.to_text(source) == "Offer\n\nDear Bob,\nsee:\n\n  * one\n  * two"
    assert html.to_text("") == ""
    assert html.to_text("<div>" * 300 + "deep<script>no</script></div>") == "deep"


@given(st.text(alphabet='<>/ "=abpdivstylescript!-&;\n', max_size=200))
def test_any_html(source: str) -> None:
    html.to_text(source)
    clean = html.sanitise(source).casefold()
    assert "<script" not in clean
    assert "<style" not in clean
