"""Records of every type, the index of their addresses, users and queues."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from email_router.crm.embedded.actions import TYPES
from email_router.crm.embedded.directory import Directory
from email_router.model.errors import Permanent
from email_router.model.ids import new_id
from email_router.model.mailbox import AccessMethod, Approval, FilterOption, MailboxKind, Receiver
from email_router.model.receipt import Outcome
from tests.fixtures.company import Company, letter

pytestmark = pytest.mark.database

HELP = "help@acme.test"


async def sender_of(acme: Company, address: str) -> str | None:
    """The record that mail from this address is resolved to, after it was filed."""
    n = new_id().hex
    acme.mail.deliver(HELP, letter(n, HELP, sender=address))
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 1}
    row = next(r for r in await acme.timeline() if r["message_id"].startswith(n))
    found = await acme.actions.activity(row["id"])
    assert found is not None
    record = found["parties"][0]["record"]
    return str(await acme.scalar(f"SELECT name FROM crm.record WHERE id = '{record}'")) if record else None


async def test_a_record_of_any_type_is_found_by_each_of_its_addresses(acme: Company) -> None:
    await acme.queue(HELP)
    for kind in (*TYPES, "new_building"):
        addresses = [f"One@{kind}.test", f"two@{kind.upper()}.test", "three@other.test"]
        identifier = await acme.actions.add_record(kind, f"The {kind}", addresses, fields={"colour": "blue"})
        for address in (f"one@{kind}.test", f"TWO@{kind}.test"):
            assert await sender_of(acme, address) == f"The {kind}"
        row = next(r for r in await acme.actions.records(kind, "the") if r["id"] == identifier)
        assert row["addresses"] == [f"One@{kind}.test", f"two@{kind}.test", "three@other.test"]
        assert row["fields"]["colour"] == "blue"
        assert len(await acme.actions.timeline(identifier)) == 2
    assert await sender_of(acme, "three@other.test") == "The systemuser"
    assert await sender_of(acme, "four@other.test") is None


async def test_addresses_are_found_however_they_are_spelt(acme: Company) -> None:
    await acme.queue(HELP)
    for n, (stored, written) in enumerate(SPELT):
        identifier = await acme.actions.add_record("contact", f"Somebody {n}", [stored])
        assert await sender_of(acme, written) == f"Somebody {n}"
        await acme.actions.change_record(identifier, addresses=[])
        assert await sender_of(acme, written) is None


SPELT = [
    ("jürgen@bäckerei.test", "jürgen@xn--bckerei-5wa.test"),
    ("info@xn--bckerei-5wa.test", "info@bäckerei.test"),
    ("jürgen@bäckerei.test", "JÜRGEN@BÄCKEREI.TEST"),
    (" ann@customer.test ", "Ann <ann@customer.test>"),
]
"""How an address was stored, and how it stands in a message."""


async def test_a_changed_address_counts_at_once_and_the_old_one_no_more(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.add_record("contact", "Ann", ["old@customer.test"])
    await acme.actions.change_record(identifier, name="Ann Lee", addresses=["new@customer.test"])
    assert await sender_of(acme, "new@customer.test") == "Ann Lee"
    assert await sender_of(acme, "old@customer.test") is None
    await acme.actions.add_record("lead", "Ann again", ["new@customer.test"])
    await acme.actions.change_record(identifier, active=False)
    assert await sender_of(acme, "new@customer.test") == "Ann again"
    with pytest.raises(Permanent, match="no record"):
        await acme.actions.change_record(new_id(), name="Nobody")


async def test_records_are_searched_by_name_and_address_and_wildcards_are_text(acme: Company) -> None:
    for name, address in (("100% Oak", "a@oak.test"), ("Ash_Tree", "b@ash.test"), ("Back\\slash", "c@back.test")):
        await acme.actions.add_record("account", name, [address])

    async def search(words: str) -> list[str]:
        return sorted(row["name"] for row in await acme.actions.records("account", words))

    assert await search("") == ["100% Oak", "Ash_Tree", "Back\\slash"]
    assert await search("oAk") == ["100% Oak"]
    assert await search("b@ASH") == ["Ash_Tree"]
    assert await search("%") == ["100% Oak"]
    assert await search("_") == ["Ash_Tree"]
    assert await search("\\") == ["Back\\slash"]
    assert await search("x'; DROP TABLE crm.record; --") == []
    assert len(await acme.actions.records("account", limit=2)) == 2


async def test_cases_are_numbered(acme: Company) -> None:
    await asyncio.gather(*(acme.actions.add_record("incident", f"Case {n}") for n in range(20)))
    numbers = sorted(row["fields"]["ticketnumber"] for row in await acme.actions.records("incident"))
    assert numbers == [f"CAS-{n:05d}" for n in range(1, 21)]


# -- users and queues


async def test_a_receiver_is_what_the_directory_tells(acme: Company) -> None:
    boss = await acme.user("boss@acme.test")
    wanted = Receiver(
        new_id(),
        MailboxKind.QUEUE,
        "Help",
        HELP,
        AccessMethod.FORWARD_MAILBOX,
        AccessMethod.NONE,
        Approval.PENDING,
        FilterOption.FROM_EMAIL_ENABLED,
        boss,
        enabled=False,
        makes_cases=True,
        case_title="{sender}: {subject}",
        case_priority=1,
    )
    await acme.actions.add_receiver(wanted)
    directory = Directory(acme.engine, acme.organization)
    assert [r for r in await directory.receivers() if r.address == HELP] == [wanted]
    changed = replace(wanted, name="Desk", enabled=True, incoming=AccessMethod.ROUTER, owner=None, case_priority=3)
    assert await acme.actions.add_receiver(replace(changed, id=new_id())) == wanted.id
    assert [r for r in await directory.receivers() if r.address == HELP] == [changed]


async def test_an_address_stays_a_users_or_a_queues(acme: Company) -> None:
    await acme.queue(HELP)
    with pytest.raises(Permanent, match="is the queue help"):
        await acme.user("HELP@acme.test".lower())
    await acme.user("anna@acme.test")
    with pytest.raises(Permanent, match="is the user anna"):
        await acme.queue("anna@acme.test")


async def test_receivers_that_are_made_at_one_moment_have_their_own_numbers(acme: Company) -> None:
    addresses = [f"u{n % 10}@acme.test" for n in range(20)]
    made = await asyncio.gather(*(acme.user(address) for address in addresses))
    assert len(set(made)) == 10
    numbers = await acme.scalar("SELECT array_agg(token_number ORDER BY token_number) FROM crm.receiver")
    assert numbers == list(range(1, 11))
