"""Identifiers sort by the moment they were made, also within a millisecond."""

from __future__ import annotations

from email_router.model.ids import new_id


def test_ids_made_one_after_the_other_sort_in_that_order() -> None:
    made = [new_id() for _ in range(5000)]
    assert len(set(made)) == 5000
    assert made == sorted(made)


def test_it_is_a_version_7_uuid_of_this_moment() -> None:
    identifier = new_id()
    assert (identifier.version, identifier.variant) == (7, "specified in RFC 4122")
