"""Filing into the embedded CRM: once whoever files at the same moment, whole, and one bad item harms only itself."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from sqlalchemy import text

from email_router.crm.embedded.filing import importance_of
from email_router.mime.contents import BytesContent
from email_router.mime.parse import parse
from email_router.model.mailbox import FilterOption
from email_router.model.receipt import Outcome
from tests.fixtures.company import Company, at, letter

pytestmark = pytest.mark.database

HELP = "help@acme.test"
QUEUES = [f"q{n}@acme.test" for n in range(5)]


async def filed(acme: Company, *messages: bytes) -> list[dict[str, Any]]:
    """File these into the queue's mailbox; each whole, in the order in which they were received."""
    for n, raw in enumerate(messages):
        acme.mail.deliver(HELP, raw, at(n))
    await acme.run(HELP)
    found = [await acme.actions.activity(row["id"]) for row in await acme.timeline()]
    return [row for row in found if row is not None]


async def raw_of(acme: Company, row: dict[str, Any]) -> bytes:
    return b"".join([chunk async for chunk in acme.actions.raw(row["id"])])


def with_attachment(n: int, content: str) -> bytes:
    headers = 'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n'
    part = (
        f'--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename="{n}.txt"\r\n\r\n{content}\r\n'
    )
    return letter(n, ", ".join(QUEUES), headers=headers, body=f"--b\r\n\r\nHello\r\n{part}--b--")


async def test_what_several_file_at_one_moment_is_filed_once(acme: Company) -> None:
    """Five mailboxes hold the same twenty messages, in other orders, with attachments in common, and all make cases."""
    for address in QUEUES:
        await acme.queue(address, makes_cases=True)
    dice = random.Random(20261123)
    messages = [with_attachment(n, f"content {n % 4}" * 50_000) for n in range(20)]
    for address in QUEUES:
        for n, raw in enumerate(dice.sample(messages, len(messages))):
            acme.mail.deliver(address, raw, at(n))
    reports = await asyncio.gather(*(acme.run(address, limit=7) for address in QUEUES))
    outcomes = [outcome for report in reports for outcome, number in report.outcomes.items() for _ in range(number)]
    assert {o: outcomes.count(o) for o in set(outcomes)} == {Outcome.FILED: 20, Outcome.DUPLICATE: 80}
    rows = [await acme.actions.activity(row["id"]) for row in await acme.timeline()]
    assert len(rows) == 20
    for row in rows:
        assert row is not None
        assert row["received_by"] == QUEUES
        assert row["queues"] == [address.partition("@")[0] for address in QUEUES]
        assert len(row["attachments"]) == 1
        assert await raw_of(acme, row) in messages
    assert len({row["regarding"] for row in rows if row}) == len(await acme.actions.records("incident")) == 20
    assert await acme.scalar("SELECT count(*) FROM crm.content") == 4
    assert await acme.scalar("SELECT sum(length(data)) FROM crm.content_chunk") == 4 * len("content 0" * 50_000)


async def test_an_activity_is_all_that_the_message_was(acme: Company) -> None:
    owner = await acme.user("boss@acme.test")
    await acme.queue(HELP, owner=owner, makes_cases=True, case_title="Mail from {sender}", case_priority=1)
    bob = await acme.actions.add_record("contact", "Bob", ["bob@customer.test"])
    raw = letter(
        1, f"{HELP}, who@else.test", subject="Broken", headers="Cc: Eve <eve@else.test>\r\nImportance: high\r\n"
    )
    [row] = await filed(acme, raw)
    assert (row["status"], row["direction"], row["subject"]) == ("Received", "incoming", "Broken")
    assert (row["message_id"], row["sender"], row["importance"]) == ("1@customer.test", "bob@customer.test", 2)
    assert (row["body_text"].strip(), row["size"]) == ("This is letter 1.", len(raw))
    assert (row["owner"], row["received"]) == (owner, at(0))
    assert (row["received_by"], row["queues"]) == ([HELP], ["help"])
    assert [(p["role"], p["address"], p["name"]) for p in row["parties"]] == [
        ("from", "bob@customer.test", ""),
        ("to", HELP, ""),
        ("to", "who@else.test", ""),
        ("cc", "eve@else.test", "Eve"),
    ]
    [case] = await acme.actions.records("incident")
    assert (row["regarding"], row["regarding_type"]) == (case["id"], "incident")
    assert (case["name"], case["owner"], case["customer"]) == ("Mail from bob@customer.test", owner, bob)
    assert (case["fields"]["prioritycode"], case["fields"]["ticketnumber"]) == (1, "CAS-00001")
    for record in (bob, case["id"]):
        assert [r["id"] for r in await acme.actions.timeline(record)] == [row["id"]]
    assert await raw_of(acme, row) == raw


@pytest.mark.parametrize(
    ("headers", "importance"),
    [
        ("Importance: low", 0),
        ("X-Priority: 5 (Lowest)", 0),
        ("X-Priority: 1", 2),
        ("Importance: urgent", 1),
        ("X-Priority: 3", 1),
        ("", 1),
    ],
)
def test_importance(headers: str, importance: int) -> None:
    assert importance_of(parse(BytesContent(f"{headers}\r\nFrom: a@b.test\r\n\r\nx".encode()))) == importance


# -- what is ugly is filed


UGLY = {
    "nul": letter(1, HELP, subject="a\0b", body="c\0d", headers="X-\0: \0\r\n"),
    "surrogates": letter(1, HELP, subject="=?utf-8?b?7aCA?= =?utf-16?b?2AA=?=", body="=?utf-8?b?7aCA?="),
    "bytes": letter(1, HELP).replace(b"letter 1", bytes(range(1, 9)) + bytes(range(14, 256))),
    "first year": letter(1, HELP).replace(b"Mon, 23 Nov 2026 10:00:00 +0000", b"Mon, 01 Jan 0001 00:00:00 +1400"),
    "last year": letter(1, HELP).replace(b"Mon, 23 Nov 2026 10:00:00 +0000", b"Fri, 31 Dec 9999 23:59:59 -1200"),
    "no year": letter(1, HELP).replace(b"Mon, 23 Nov 2026 10:00:00 +0000", b"Mon, 99 Foo 99999999999 99:99:99 +9999"),
    "recipients": letter(1, ", ".join([HELP, *(f"p{n}@else.test" for n in range(10_000))])),
    "long id": letter("x" * 100_000, HELP, answers="y" * 100_000),
    "long header": letter(1, HELP, headers="X-Long: " + "z" * 3_000_000 + "\r\n"),
    "long name": letter(1, HELP, sender='"' + "n" * 100_000 + '" <bob@customer.test>'),
    "long subject": letter(1, HELP, subject="s" * 200_000),
    "many headers": letter(1, HELP, headers="X-Many: 1\r\n" * 50_000),
}


async def test_what_is_ugly_is_filed_read_back_and_harms_nobody(acme: Company) -> None:
    await acme.queue(HELP, makes_cases=True)
    messages = [raw.replace(b"<1@", f"<{name.replace(' ', '-')}@".encode()) for name, raw in UGLY.items()]
    rows = await filed(acme, *messages)
    assert await acme.undeliverable.listing() == []
    assert len(rows) == len(messages)
    assert [await raw_of(acme, row) for row in rows] == messages
    assert len(await acme.actions.records("incident")) == len(messages)
    by_name = dict(zip(UGLY, rows, strict=True))
    assert by_name["nul"]["subject"] == "ab"
    assert len(by_name["recipients"]["parties"]) == 500
    assert by_name["no year"]["date"] is None


async def test_bodies_of_twenty_megabytes(acme: Company) -> None:
    await acme.queue(HELP)
    line = "All work and no play makes Jack a dull boy.\r\n"
    text_ = line * (20 * 1024 * 1024 // len(line))
    page = "<p>" + "".join(f"<b>{line}</b>" for _ in range(20 * 1024 * 1024 // (len(line) + 7))) + "</p>"
    plain = letter("plain", HELP, body=text_)
    rich = letter("html", HELP, headers="MIME-Version: 1.0\r\nContent-Type: text/html\r\n", body=page)
    rows = await filed(acme, plain, rich)
    assert [len(await raw_of(acme, row)) for row in rows] == [len(plain), len(rich)]
    for row, whole in zip(rows, (text_, page), strict=True):
        [attachment] = row["attachments"]  # what is too long to be shown is attached whole
        assert attachment["size"] in range(len(whole), len(whole) + 3)
        assert 1_000_000 < len(row["body_text"]) + len(row["body_html"]) < 20_000_000


# -- one bad item


async def refuse_poison(acme: Company) -> None:
    """A database that will not store one message."""
    async with acme.engine.begin() as db:
        await db.execute(
            text(
                "CREATE FUNCTION crm.refuse() RETURNS trigger AS $$ BEGIN IF NEW.subject LIKE '%poison%' THEN "
                "RAISE EXCEPTION 'no poison here' USING ERRCODE = '22000'; END IF; RETURN NEW; END $$ LANGUAGE plpgsql"
            )
        )
        await db.execute(
            text("CREATE TRIGGER refuse BEFORE INSERT ON crm.activity FOR EACH ROW EXECUTE FUNCTION crm.refuse()")
        )


async def test_a_bad_item_is_set_aside_alone_and_filed_when_it_is_cured(acme: Company) -> None:
    await acme.queue(HELP, makes_cases=True)
    await refuse_poison(acme)
    messages = [letter(n, HELP, subject="poison" if n == 5 else f"letter {n}") for n in range(10)]
    rows = await filed(acme, *messages)
    assert [row["subject"] for row in rows] == [f"letter {n}" for n in range(10) if n != 5]
    [kept] = await acme.undeliverable.listing()
    assert ': "no poison here"' in kept["cause"]
    assert b"".join([data async for data in acme.undeliverable.raw(kept["id"])]) == messages[5]
    async with acme.engine.begin() as db:
        await db.execute(text("DROP TRIGGER refuse ON crm.activity"))
    await acme.undeliverable.retry(None)
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 1}
    assert len(await acme.timeline()) == len(await acme.actions.records("incident")) == 10


async def test_a_reply_to_a_bad_item_is_judged_without_it(acme: Company) -> None:
    """The case that the parent would have made is not there, and nothing points to it."""
    await acme.queue(HELP, makes_cases=True)
    await acme.user("ann@acme.test", FilterOption.ALL)
    await refuse_poison(acme)
    acme.mail.deliver(HELP, letter(1, HELP, subject="poison"), at(1))
    acme.mail.deliver(HELP, letter(2, HELP, subject="reply", answers="1@customer.test"), at(2))
    acme.mail.deliver(HELP, letter(3, HELP, subject="reply again", answers="2@customer.test"), at(3))
    assert (await acme.run(HELP)).outcomes == {Outcome.UNDELIVERABLE: 1}
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 2}
    one, two = [await acme.actions.activity(row["id"]) for row in await acme.timeline()]
    assert one is not None and two is not None
    assert (one["correlated"], two["correlated"]) == (None, one["id"])
    [case] = await acme.actions.records("incident")
    assert (case["name"], one["regarding"], two["regarding"]) == ("reply", case["id"], case["id"])


async def test_a_reply_to_what_another_router_filed_meanwhile_follows_it(acme: Company) -> None:
    """Both judged the parent; the other one was faster. Its activity and its case are those that stand."""
    await acme.queue(HELP, makes_cases=True)
    await acme.queue("desk@acme.test", makes_cases=True)
    both = f"{HELP}, desk@acme.test"
    parent, reply = letter(1, both), letter(2, both, answers="1@customer.test")
    acme.mail.deliver("desk@acme.test", parent, at(1))
    judge = acme.records.judge

    async def slow(items: Any) -> Any:
        verdicts = await judge(items)
        acme.records.judge = judge  # type: ignore[method-assign]
        assert (await acme.run("desk@acme.test")).outcomes == {Outcome.FILED: 1}
        return verdicts

    acme.records.judge = slow  # type: ignore[method-assign]
    acme.mail.deliver(HELP, parent, at(1))
    acme.mail.deliver(HELP, reply, at(2))
    assert (await acme.run(HELP)).outcomes == {Outcome.DUPLICATE: 1, Outcome.FILED: 1}
    first, second = [await acme.actions.activity(row["id"]) for row in await acme.timeline()]
    assert first is not None and second is not None
    [case] = await acme.actions.records("incident")
    assert (second["correlated"], second["regarding"]) == (first["id"], case["id"])
    assert first["received_by"] == ["desk@acme.test", HELP]
