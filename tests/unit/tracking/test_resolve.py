from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from email_router.model.evidence import RecordRef
from email_router.model.verdict import Party, PartyRole
from email_router.tracking import resolve
from tests.unit.tracking.people import BOB, SETTINGS, evidence, facts, new_id, record

HELP = ["help@acme.test"]
IN_ORDER = ("systemuser", "contact", "account", "lead", "equipment", "team", "businessunit", "queue", "new_building")


def chosen(*records: RecordRef, owner: object = None, **settings: object) -> tuple[RecordRef | None, tuple[str, ...]]:
    changed = replace(SETTINGS, **settings)  # type: ignore[arg-type]
    return resolve.sender(evidence(HELP), facts(sender=records), changed, owner)  # type: ignore[arg-type]


def test_nobody_and_exactly_one() -> None:
    assert chosen() == (None, ())
    bob = record("contact")
    assert chosen(bob) == (bob, ())


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(IN_ORDER[:-1], 2)))
def test_the_order_of_types(first: str, second: str) -> None:
    better, worse = record(first, "A"), record(second, "B")
    for found in ((better, worse), (worse, better)):
        assert chosen(*found) == (better, (f"{second} B also has the sender's address",))


def test_within_a_type_and_among_other_types_the_first_one_wins() -> None:
    one, two = record("contact", "One"), record("contact", "Two")
    assert chosen(one, two)[0] == one
    queue, building = record("queue"), record("new_building")
    assert chosen(building, queue)[0] == building


def test_a_record_of_the_mailboxs_owner_beats_those_of_others() -> None:
    owner = new_id()
    foreign, own = record("contact", owner=new_id()), record("account", owner=owner)
    assert chosen(foreign, own, owner=owner)[0] == own
    assert chosen(foreign, own, owner=new_id())[0] == foreign
    assert chosen(foreign, own)[0] == foreign


def test_an_inactive_record_counts_only_where_there_is_no_active_one() -> None:
    left, lead = record("contact", active=False), record("lead")
    assert chosen(left, lead) == (lead, ())
    assert chosen(left)[0] == left
    gone = record("account", active=False)
    assert chosen(left, gone)[0] == left


def test_several_may_be_left_unresolved() -> None:
    one, two = record("contact", "One"), record("account", "Two")
    assert chosen(one, two, unresolved_if_ambiguous=True) == (
        None,
        ("contact One also has the sender's address", "account Two also has the sender's address"),
    )
    assert chosen(one, replace(two, active=False), unresolved_if_ambiguous=True)[0] == one


def test_more_than_a_hundred_are_too_many() -> None:
    crowd = [record("contact", str(n)) for n in range(101)]
    assert chosen(*crowd) == (None, (f"101 records carry the address {BOB}: too many to choose from",))
    assert chosen(*crowd[:100])[0] == crowd[0]


# -- all participants


def test_every_record_of_a_recipient_is_a_party_and_bcc_is_none() -> None:
    bob, anna, desk = record("contact", "Bob"), record("systemuser", "Anna"), record("queue", "Desk")
    message = evidence(["anna@acme.test", "who@else.test"], cc=["desk@acme.test"], bcc=["secret@acme.test"])
    known = facts(records={"anna@acme.test": (anna, desk), "secret@acme.test": (record("contact"),)})
    parties, left_out = resolve.parties(message, known, bob)
    assert parties == (
        Party(PartyRole.FROM, BOB, "Bob", bob),
        Party(PartyRole.TO, "anna@acme.test", "", anna),
        Party(PartyRole.TO, "anna@acme.test", "", desk),
        Party(PartyRole.TO, "who@else.test", ""),
        Party(PartyRole.CC, "desk@acme.test", ""),
    )
    assert left_out == ()


def test_a_recipient_that_too_many_records_carry_is_kept_as_an_address() -> None:
    crowd = tuple(record("contact") for _ in range(101))
    parties, _ = resolve.parties(evidence(HELP), facts(records={HELP[0]: crowd}), None)
    assert parties[1:] == (Party(PartyRole.TO, HELP[0], ""),)


def test_a_crowd_is_cut_and_told() -> None:
    message = evidence([f"p{n}@acme.test" for n in range(600)])
    parties, left_out = resolve.parties(message, facts(), None)
    assert (len(parties), left_out) == (500, ("only the first 500 of 601 participants are kept",))


def test_addresses_are_found_in_any_case() -> None:
    bob = record("contact")
    message = evidence(HELP, sender="BOB@customer.test")
    assert resolve.sender(message, facts(sender=[bob]), SETTINGS, None)[0] == bob
