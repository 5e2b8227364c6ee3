from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_router.mime.addresses import ascii_domain, normalise, parse


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Ann <a@Example.COM>, b@x.org", [("Ann", "a@example.com"), ("", "b@x.org")]),
        ('"Doe, John" <j@x.org>', [("Doe, John", "j@x.org")]),
        ("Doe, John <j@x.org>", [("Doe, John", "j@x.org")]),
        ("Andy, bob@x.org", [("Andy", ""), ("", "bob@x.org")]),
        ("Max <a <a@b>", [("Max a", "a@b")]),
        ("a@b.", [("", "a@b")]),
        ("'a@b.org'", [("", "a@b.org")]),
        ("'Ann' <a@b>", [("Ann", "a@b")]),
        ("<a b@c.org>", [("a b@c.org", "")]),
        ("a @ b . org", [("", "a@b.org")]),
        ('"a b"@x.org', [("", '"a b"@x.org')]),
        ("undisclosed-recipients:;", []),
        ("", []),
        (" ,, ;", []),
        ("<>", []),
        ("Team: a@x.org, B <b@x.org>;, c@x.org", [("", "a@x.org"), ("B", "b@x.org"), ("", "c@x.org")]),
        ("=?utf-8?q?J=C3=BCrgen?= <j@münchen.de>", [("Jürgen", "j@xn--mnchen-3ya.de")]),
        ("=?utf-8?q?Doe=2C_John?= <j@x.org>, k@x.org", [("Doe, John", "j@x.org"), ("", "k@x.org")]),
        ("=?utf-8?b?QW5uIDxhQGIub3JnPg==?=", [("Ann", "a@b.org")]),
        ("=?utf-8?q?boss=40corp.org?= <x@evil.org>", [("boss@corp.org", "x@evil.org")]),
        ("用户@例え.jp", [("", "用户@xn--r8jz45g.jp")]),
        ("faß@straße.de", [("", "faß@xn--strae-oqa.de")]),
        ('"unclosed <a@b>, c@d', [("unclosed", "a@b"), ("", "c@d")]),
        ("(x) a@b (Ann (the) boss)", [("Ann (the) boss", "a@b")]),
        ("(never closed a@b", [("never closed", "a@b")]),
        ("a@b; c@d", [("", "a@b"), ("", "c@d")]),
        ("<mailto:a@b>", [("", "a@b")]),
        ("<@r1,@r2:a@b>", [("", "a@b")]),
        ("Max max@example.com", [("Max", "max@example.com")]),
        ("a@b@c", [("a@b@c", "")]),
        ('"\\"Q\\" U" <q@u>', [('"Q" U', "q@u")]),
        ("John", [("John", "")]),
        ("a@[192.0.2.1]", [("", "a@[192.0.2.1]")]),
        ("A\u2028B <a@b>", [("A B", "a@b")]),
        ("x" * 400 + "@b.org", [("x" * 400 + "@b.org", "")]),
    ],
)
def test_lists_as_they_are_really_written(value: str, expected: list[tuple[str, str]]) -> None:
    assert [tuple(a) for a in parse(value)] == expected


def test_at_most_as_many_as_asked() -> None:
    assert len(parse(",".join(f"u{n}@x.org" for n in range(50)), 7)) == 7


@pytest.mark.parametrize("hostile", ['"' + '\\"' * 50_000, "(" * 100_000, "<" * 100_000, "a@" * 50_000, "=?" * 50_000])
def test_hostile_lists_are_read_in_linear_time(hostile: str) -> None:
    assert not any(a.address for a in parse(hostile))  # quadratic would not come back for minutes


@pytest.mark.parametrize(
    ("domain", "expected"),
    [("MÜNCHEN.de", "xn--mnchen-3ya.de"), ("ＥＸＡＭＰＬＥ。com", "example.com"), ("a b", ""), ("", ""), ("-x", "")],
)
def test_domains(domain: str, expected: str) -> None:
    assert ascii_domain(domain) == expected


@pytest.mark.parametrize("bad", ["", "a", "@", "a@", "@b", "a@b\r\nBcc: c@d", "a\u2028b@c.de", "a<b@c", "\udc80@b.de"])
def test_no_address(bad: str) -> None:
    assert normalise(bad) == ""


@given(st.text())
def test_any_text(value: str) -> None:
    for address in parse(value):
        assert address.address == "" or normalise(address.address) == address.address
        assert not set(address.name + address.address) & set("\r\n\x00\u2028")
