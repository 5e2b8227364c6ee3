"""A clock that was wrong for a while: what was written then must not wait for years."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from email_router.crm.embedded.writing import Draft
from email_router.model.errors import Transient
from email_router.model.message import Address
from email_router.model.outgoing import SendState
from email_router.model.receipt import Outcome
from tests.fixtures.company import Company, letter
from tests.integration.flows.test_incoming import Flaky

pytestmark = pytest.mark.database

HELP = "help@acme.test"


async def years_ahead(acme: Company, *columns: str) -> None:
    async with acme.engine.begin() as db:
        for column in columns:
            table, name = column.rsplit(".", 1)
            await db.execute(text(f"UPDATE {table} SET {name} = now() + interval '5 years'"))


async def test_a_receipt_that_was_postponed_into_the_far_future_is_due(acme: Company) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.whole.append(Transient("the CRM is away"))
    acme.mail.deliver(HELP, letter(1, HELP))
    await acme.run(HELP)
    assert (await acme.run(HELP)).outcomes == {}  # not due yet
    await years_ahead(acme, "router.receipt.next_attempt")
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 1}


async def test_an_email_that_waits_for_the_far_future_is_due(acme: Company) -> None:
    await acme.queue(HELP)
    await acme.actions.send(Draft(HELP, (Address("", "bob@customer.test"),), "Hello", "x"))
    acme.mail.fail["send"] = [Transient("away")]
    with pytest.raises(Transient):
        await acme.send([HELP])
    await years_ahead(acme, "router.ledger.next_attempt")
    assert (await acme.send([HELP])).states == {SendState.SENT: 1}


async def test_a_claim_of_the_far_future_is_anybodys(acme: Company) -> None:
    await acme.queue(HELP)
    await acme.actions.send(Draft(HELP, (Address("", "bob@customer.test"),), "Hello", "x"))
    assert len(await acme.outbox.claim([HELP], 10, acme.term)) == 1
    assert await acme.outbox.claim([HELP], 10, acme.term) == []
    await years_ahead(acme, "crm.activity.claimed")
    assert len(await acme.outbox.claim([HELP], 10, acme.term)) == 1
