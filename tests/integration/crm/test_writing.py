"""Email as people write it, and the statuses it goes through."""

from __future__ import annotations

import asyncio
import email
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from email_router.crm.embedded.outbox import CLAIM
from email_router.crm.embedded.status import MAY_BECOME, EmailStatus
from email_router.crm.embedded.writing import Draft
from email_router.model.errors import Permanent
from email_router.model.ids import new_id
from email_router.model.message import Address
from email_router.model.outgoing import RecipientResult, RecipientState, SendState, Settlement
from email_router.model.receipt import Term
from tests.fixtures.company import Company, letter

pytestmark = pytest.mark.database

HELP = "help@acme.test"
BOB = Address("Bob", "bob@customer.test")


def draft(**changes: Any) -> Draft:
    return replace(Draft(HELP, (BOB,), "Hello", "How are you?"), **changes)


async def found(acme: Company, identifier: UUID) -> dict[str, Any]:
    row = await acme.actions.activity(identifier)
    assert row is not None
    return row


async def with_status(acme: Company, status: EmailStatus) -> UUID:
    """An email that has come to this status by the way it comes there."""
    if status is EmailStatus.RECEIVED:
        acme.mail.deliver(HELP, letter(1, HELP))
        await acme.run(HELP)
        [row] = await acme.timeline()
        return UUID(str(row["id"]))
    identifier = await acme.actions.save(draft())
    if status is EmailStatus.COMPLETED:
        await acme.actions.complete(identifier)
    elif status is EmailStatus.CANCELED:
        await acme.actions.cancel(identifier)
    elif status is not EmailStatus.DRAFT:
        await acme.actions.submit(identifier)
    if status in (EmailStatus.SENDING, EmailStatus.SENT, EmailStatus.FAILED):
        await acme.outbox.claim([HELP], 10, acme.term)
    if status in (EmailStatus.SENT, EmailStatus.FAILED):
        state = SendState.SENT if status is EmailStatus.SENT else SendState.FAILED
        await acme.outbox.settle([Settlement(identifier, state, "m@acme.test", 1, said="550 no")], acme.term)
    return identifier


def test_statuses_have_the_numbers_and_names_of_dynamics() -> None:
    assert {status.value: status.label for status in EmailStatus} == {
        1: "Draft",
        2: "Completed",
        3: "Sent",
        4: "Received",
        5: "Canceled",
        6: "Pending Send",
        7: "Sending",
        8: "Failed",
    }


@pytest.mark.parametrize("status", EmailStatus)
async def test_what_a_person_may_make_of_an_email_in_each_status(acme: Company, status: EmailStatus) -> None:
    await acme.queue(HELP)
    identifier = await with_status(acme, status)
    assert (await found(acme, identifier))["status"] == status.label
    doings = {
        EmailStatus.PENDING_SEND: acme.actions.submit,
        EmailStatus.CANCELED: acme.actions.cancel,
        EmailStatus.COMPLETED: acme.actions.complete,
    }
    allowed = MAY_BECOME.get(status, frozenset())
    for wanted, do in doings.items():
        if wanted not in allowed:
            with pytest.raises(Permanent, match=f"is {status.label} and cannot become {wanted.label}"):
                await do(identifier)
            assert (await found(acme, identifier))["status"] == status.label
    for wanted in allowed:
        again = identifier
        if (await found(acme, again))["status"] != status.label:
            again = await with_status(acme, status)
        await doings[wanted](again)
        assert (await found(acme, again))["status"] == wanted.label


async def test_a_draft_stays_until_it_is_submitted(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.save(draft())
    row = await found(acme, identifier)
    assert (row["status"], row["subject"], row["token"]) == ("Draft", "Hello", "")
    await acme.send([HELP])
    assert acme.mail.sent == []
    await acme.actions.submit(identifier)
    row = await found(acme, identifier)
    assert (row["status"], row["subject"], row["token"]) == ("Pending Send", "Hello CRM:0001001", "CRM:0001001")
    await acme.send([HELP])
    assert (await found(acme, identifier))["status"] == "Sent"


async def test_only_what_is_submitted_counts_for_the_tokens(acme: Company) -> None:
    await acme.queue(HELP)
    await acme.user("anna@acme.test")
    await acme.actions.save(draft())
    one = await acme.actions.send(draft())
    two = await acme.actions.send(draft())
    other = await acme.actions.send(draft(sender="anna@acme.test"))
    tokens = [(await found(acme, i))["token"] for i in (one, two, other)]
    assert tokens == ["CRM:0001001", "CRM:0001002", "CRM:0002001"]


async def test_an_email_that_failed_is_sent_again_with_its_token(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    acme.mail.fail["send"] = [Permanent("mailbox full")]
    await acme.send([HELP])
    row = await found(acme, identifier)
    assert (row["status"], row["said"], row["parties"][1]["state"]) == ("Failed", "mailbox full", "refused")
    await acme.actions.submit(identifier)
    row = await found(acme, identifier)
    assert (row["status"], row["said"], row["parties"][1]["state"]) == ("Pending Send", "", "")
    await acme.send([HELP])
    row = await found(acme, identifier)
    assert (row["status"], row["attempts"], row["parties"][1]["state"]) == ("Sent", 1, "accepted")
    [(_, raw)] = acme.mail.sent
    assert email.message_from_bytes(raw)["Subject"] == "Hello CRM:0001001"


async def test_a_late_word_about_the_failure_does_not_undo_a_new_submission(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await with_status(acme, EmailStatus.FAILED)
    await acme.actions.submit(identifier)
    refused = RecipientResult(BOB.address, RecipientState.REFUSED, 550, "5.1.1", "550 no")
    told = Settlement(identifier, SendState.FAILED, "m@acme.test", 1, (refused,), "550 no")
    await acme.outbox.settle([told], acme.term)
    row = await found(acme, identifier)
    assert (row["status"], row["said"], row["parties"][1]["state"]) == ("Pending Send", "", "")


async def test_what_was_handed_over_before_it_was_canceled_is_sent(acme: Company) -> None:
    await acme.queue(HELP)
    one, two = await acme.actions.send(draft()), await acme.actions.send(draft())
    await acme.outbox.claim([HELP], 10, acme.term)
    for identifier in (one, two):
        await acme.actions.cancel(identifier)
    results = [(one, SendState.SENT), (two, SendState.CANCELED)]
    await acme.outbox.settle([Settlement(i, state, "m@acme.test", 1) for i, state in results], acme.term)
    assert [(await found(acme, i))["status"] for i in (one, two)] == ["Sent", "Canceled"]


async def test_a_reply_carries_the_conversation_and_its_record(acme: Company) -> None:
    await acme.queue(HELP, makes_cases=True)
    acme.mail.deliver(HELP, letter(1, HELP, headers="References: <0@customer.test>\r\n"))
    await acme.run(HELP)
    [asked] = await acme.timeline()
    first = await acme.actions.send(draft(subject="Re: letter 1", answers=asked["id"]))
    second = await acme.actions.save(draft(subject="Re: letter 1 CRM:0001001", answers=first))
    await acme.send([HELP])  # the first has its Message-ID only now
    await acme.actions.submit(second)
    row, again = await found(acme, first), await found(acme, second)
    assert (row["in_reply_to"], row["refs"]) == ("1@customer.test", ["0@customer.test", "1@customer.test"])
    assert (row["regarding"], row["correlated"]) == (asked["regarding_id"], asked["id"])
    assert (again["in_reply_to"], again["refs"]) == (row["message_id"], [*row["refs"], row["message_id"]])
    assert (again["token"], again["subject"]) == ("CRM:0001001", "Re: letter 1 CRM:0001001")


async def test_recipients_are_resolved_and_kept_apart_from_whom_they_are_sent_as(acme: Company) -> None:
    owner = await acme.user("boss@acme.test")
    desk = await acme.queue(HELP, owner=owner)
    contact = await acme.actions.add_record("contact", "Bob", ["Bob@Customer.TEST"])
    identifier = await acme.actions.save(draft(cc=(Address("Who", "who@else.test"),), bcc=(BOB,)))
    row = await found(acme, identifier)
    assert row["owner"] == owner
    assert [(p["role"], p["address"], p["name"], p["record"]) for p in row["parties"]] == [
        ("from", HELP, "help", str(desk)),
        ("to", "bob@customer.test", "Bob", str(contact)),
        ("cc", "who@else.test", "Who", None),
        ("bcc", "bob@customer.test", "Bob", str(contact)),
    ]


async def test_attachments_are_kept_once_and_read_back(acme: Company) -> None:
    await acme.queue(HELP)
    big = b"x" * 600_000
    files = (("a.bin", "application/octet-stream", big), ("../../b.txt", "text/plain", b"b"), ("c.bin", "x/y", big))
    identifier = await acme.actions.save(draft(attachments=files))
    row = await found(acme, identifier)
    assert [(a["name"], a["size"]) for a in row["attachments"]] == [
        ("a.bin", 600_000),
        ("b.txt", 1),
        ("c.bin", 600_000),
    ]
    assert await acme.scalar("SELECT count(*) FROM crm.content") == 2
    sha256 = bytes.fromhex(row["attachments"][0]["sha256"])
    assert b"".join([chunk async for chunk in acme.actions.content(identifier, sha256)]) == big


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"to": ()}, "no recipient"),
        ({"sender": "nobody@acme.test"}, "nobody@acme.test is no user or queue"),
        ({"sender": ""}, "nobody is no user or queue"),
        ({"answers": UUID(int=7)}, "no email activity"),
        ({"regarding": UUID(int=7)}, "no record"),
    ],
)
async def test_what_cannot_be_written_leaves_nothing_behind(acme: Company, changes: dict[str, Any], words: str) -> None:
    await acme.queue(HELP)
    with pytest.raises(Permanent, match=words):
        await acme.actions.send(draft(attachments=(("a", "x/y", b"a"),), **changes))
    assert await acme.timeline() == []
    assert await acme.scalar("SELECT count(*) FROM crm.content") == 0
    one = await acme.actions.send(draft())
    assert (await found(acme, one))["token"] == "CRM:0001001"


async def test_an_email_that_is_not_there(acme: Company) -> None:
    for do in (acme.actions.submit, acme.actions.cancel, acme.actions.complete):
        with pytest.raises(Permanent, match="no email activity"):
            await do(new_id())
    assert await acme.actions.activity(new_id()) is None


async def test_hostile_text_is_written(acme: Company) -> None:
    await acme.queue(HELP)
    nasty = "a\0b\ud800c\x1b[31m"
    person = Address(nasty, "bob@customer.test")
    identifier = await acme.actions.send(draft(subject=nasty, text=nasty, html=nasty, to=(person,)))
    assert (await found(acme, identifier))["body_text"] == "ab?c\x1b[31m"
    await acme.send([HELP])
    assert (await found(acme, identifier))["status"] == "Sent"


# -- the outbox


async def claimed(acme: Company, term: Term, senders: tuple[str, ...] = (HELP,)) -> list[UUID]:
    return [e.id for e in await acme.outbox.claim(senders, 10, term)]


async def age(acme: Company, minutes: int) -> None:
    async with acme.engine.begin() as db:
        await db.execute(text(f"UPDATE crm.activity SET claimed = now() - interval '{minutes} minutes'"))


async def test_a_claim_is_anothers_only_after_a_newer_epoch_or_thirty_minutes(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    assert await claimed(acme, Term(3, 1)) == [identifier]
    assert await claimed(acme, Term(3, 1)) == []
    assert await claimed(acme, Term(4, 9)) == []
    assert await claimed(acme, Term(3, 2)) == [identifier]
    await age(acme, 29)
    assert await claimed(acme, Term(4, 9)) == []
    await age(acme, 31)
    assert await claimed(acme, Term(4, 9)) == [identifier]
    assert await claimed(acme, Term(3, 2)) == []


async def test_senders_take_turns_oldest_first(acme: Company) -> None:
    addresses = [f"{name}@acme.test" for name in "abc"]
    for address in addresses:
        await acme.queue(address)
    for address, number in zip(addresses, (7, 2, 1), strict=True):
        for n in range(number):
            await acme.actions.send(draft(sender=address, subject=f"{address[0]}{n}"))
    turns = []
    for limit in (3, 3, 4):
        emails = await acme.outbox.claim(addresses, limit, acme.term)
        turns.append([e.subject.partition(" ")[0] for e in emails])
    assert turns == [["a0", "b0", "c0"], ["a1", "a2", "b1"], ["a3", "a4", "a5", "a6"]]


async def test_settling_is_idempotent_and_keeps_the_first_time(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    await acme.outbox.claim([HELP], 10, acme.term)
    results = (RecipientResult(BOB.address, RecipientState.ACCEPTED, 250, "2.0.0", "250 ok"),)
    told = Settlement(identifier, SendState.SENT, "m@acme.test", 1, results)
    await acme.outbox.settle([told], acme.term)
    first = await found(acme, identifier)
    await acme.outbox.settle([told, told], acme.term)
    assert await found(acme, identifier) == first
    assert (first["status"], first["attempts"], first["message_id"]) == ("Sent", 1, "m@acme.test")
    assert (first["parties"][1]["state"], first["parties"][1]["said"]) == ("accepted", "250 ok")


async def test_two_routers_at_one_moment_claim_an_email_once(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    values = {"organization": acme.organization, "senders": [HELP], "limit": 10, "shard": 3, "epoch": 1}
    async with acme.engine.connect() as first:
        rows = (await first.execute(CLAIM, values)).all()
        assert [row.id for row in rows] == [identifier]
        second = asyncio.create_task(claimed(acme, Term(4, 1)))
        async with asyncio.timeout(10):
            while not await acme.scalar("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await first.commit()
    assert await second == []
