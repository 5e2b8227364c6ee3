from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from email_router.mime import charset, headers


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("plain", "plain"),
        ("=?utf-8?B?R3LDvMOfZQ==?= aus =?iso-8859-1?Q?K=F6ln?=", "Grüße aus Köln"),
        ("=?utf-8?B?R3LD?= =?utf-8?B?vMOfZQ==?=", "Grüße"),
        ("=?UTF-8?Q?a_b?=\t=?utf-8?q?c=5Fd?=", "a bc_d"),
        ("=?utf-8*de?q?x?=", "x"),
        ("=?utf-8?b?R3LDvMOf?", "=?utf-8?b?R3LDvMOf?"),
        ("=?no-such-charset?q?M=FCller?=", "Müller"),
        ("=?gb2312?B?uqs=?=", "韩"),
        ("=?utf-8?q?a=0D=0ABcc:_x?=", "a Bcc: x"),
        ("=?utf-8?q?What?_now?=", "What? now"),
        ("a =? b =?utf-8?q?c?=", "a =? b c"),
        ("x\u2028y", "x y"),
    ],
)
def test_encoded_words(raw: str, expected: str) -> None:
    assert headers.decode(raw) == expected


def test_many_openings_without_an_end_are_read_in_one_pass() -> None:
    assert len(headers.decode("=?a?q?x " * 50_000)) == 400_000


def test_split_unfolds_and_repairs() -> None:
    block = b"A: 1\r\n\t2\r\nno field\r\nB : M\xfcller\r\nS: =?iso-8859-1?q?Fr\xf6?= \x00x"
    fields, repairs = headers.split(block, 10)
    assert fields[:2] == [("A", "1 2"), ("B", "Müller")]
    assert headers.decode(fields[2][1]) == "Frö x"
    assert repairs == ("header-charset",)
    assert headers.split(b"A: 1\nB: 2\nC: 3", 2) == ([("A", "1"), ("B", "2")], ("header-count",))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("text/plain", ("text/plain", {})),
        ('Text/HTML; Charset="utf-8"; x=y z', ("text/html", {"charset": "utf-8", "x": "y z"})),
        ("a; name*=utf-8''na%C3%AFve%20.txt", ("a", {"name": "naïve .txt"})),
        ("a; name*1*=%C3%BC.pdf; name*0*=utf-8''%C3%A4", ("a", {"name": "äü.pdf"})),
        ('a; name*0="one"; name*1=two', ("a", {"name": "onetwo"})),
        ('a; name="=?utf-8?q?=C3=BC.txt?="', ("a", {"name": "ü.txt"})),
        ('a; name="q\\"uote;x"', ("a", {"name": 'q"uote;x'})),
        ("a; name=ü.txt", ("a", {"name": "ü.txt"})),
        ('a; name="never closed', ("a", {"name": "never closed"})),
    ],
)
def test_parameters(raw: str, expected: tuple[str, dict[str, str]]) -> None:
    assert headers.parameters(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("<A@Example.COM>", "A@example.com"),
        ("  <[abc]@x.org> ", "[abc]@x.org"),
        ("<>", ""),
        ("< >", ""),
        ("", ""),
        ("bare@Example.org", "bare@example.org"),
        ("<a b\tc@x.org>", "abc@x.org"),
        ("<" + "x" * 600 + "@y>", ""),
    ],
)
def test_message_id(raw: str, expected: str) -> None:
    assert headers.message_id(raw) == expected


def test_named_ids_keep_the_first_and_the_newest() -> None:
    ids = [f"id{n:05}@x.org" for n in range(100)]
    found = headers.named_ids([" ".join(f"<{i}>" for i in ids), f"<{ids[5]}> <> <a@b>"])
    assert found == (ids[0], *ids[-32:])


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Mon, 2 Nov 2026 10:00:00 +0100", datetime(2026, 11, 2, 10, tzinfo=timezone(timedelta(hours=1)))),
        ("Mon, 2 Nov 2026 10:00:60 -0000 (x)", datetime(2026, 11, 2, 10, 0, 59, tzinfo=UTC)),
        ("2 Nov 26 10:00 GMT", datetime(2026, 11, 2, 10, tzinfo=UTC)),
        ("2026-11-02T10:00:00Z", datetime(2026, 11, 2, 10, tzinfo=UTC)),
        ("Mon, 1 Jan 2096 00:00:00 +0000", datetime(2096, 1, 1, tzinfo=UTC)),
        ("mån, 2 nov 2026", None),
        ("Pn, 29 paX 2007 21:13:00 +0100", None),
        ("Fri, 31 Dec 9999 23:59:59 -1200", None),
        ("Mon, 2 Nov 2026 10:00:00 +9999", None),
        ("Mon, 32 Nov 2026 10:00:00 +0000", None),
        ("", None),
    ],
)
def test_dates(raw: str, expected: datetime | None) -> None:
    assert headers.date(raw) == expected


@pytest.mark.parametrize(
    ("data", "label", "expected"),
    [
        (b"abc", "", ("abc", True)),
        (b"abc", "x-strange", ("abc", False)),
        ("Grüße".encode(), "", ("Grüße", False)),
        ("Grüße".encode(), "us-ascii", ("Grüße", False)),
        (b"Gr\xfc\xdfe \x80", "iso-8859-1", ("Grüße €", True)),
        (b"Gr\xfc\xdfe", "utf-8", ("Gr\ufffd\ufffde", False)),
        ("日本".encode("iso-2022-jp"), "ISO-2022-JP", ("日本", True)),
        ("日本".encode("cp932"), "shift_jis", ("日本", True)),
        ("Привет".encode("cp1251"), "windows-1251", ("Привет", True)),
        (b"x\x00y", "utf-8", ("xy", True)),
        (b"+2AA-x", "utf-7", ("?x", True)),
        ("日本".encode("iso-2022-jp"), "", ("日本", False)),
        (b"\x1b[1m", "us-ascii", ("\x1b[1m", True)),
        (b"\\u0041", "unicode_escape", ("\\u0041", False)),
    ],
)
def test_charsets(data: bytes, label: str, expected: tuple[str, bool]) -> None:
    assert charset.decode(data, label) == expected


def test_russian_without_a_charset_is_guessed() -> None:
    text = "Здравствуйте, высылаю вам договор на подпись. С уважением, Иван"
    assert charset.decode(text.encode("koi8-r"))[0] == text
