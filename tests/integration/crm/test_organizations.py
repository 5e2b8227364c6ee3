"""Several organizations in one database: nothing of one is seen, counted, changed or sent by another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.crm.embedded import organization
from email_router.crm.embedded.directory import Directory
from email_router.crm.embedded.writing import Draft
from email_router.model.errors import NeedsOperator, Permanent
from email_router.model.evidence import RecordRef
from email_router.model.message import Address
from email_router.model.outgoing import AttachmentRef, RecipientResult, RecipientState, SendState, Settlement
from email_router.model.receipt import Outcome
from tests.fixtures.company import Company, company, letter

pytestmark = pytest.mark.database

BOTH = "help@sales.test, help@service.test"
BOB = Address("Bob", "bob@customer.test")
DRAFT = Draft("", (BOB,), "Hello", "How are you?", attachments=(("a.txt", "text/plain", b"secret"),))


@pytest.fixture
async def two(engine: AsyncEngine, tmp_path: Path) -> tuple[Company, Company]:
    """Sales and service: the same customer, the same mail."""
    made = await company(engine, tmp_path, "sales"), await company(engine, tmp_path, "service")
    for one in made:
        await one.queue(help_of(one), makes_cases=True)
        await one.actions.add_record("contact", f"Bob of {one.deployment.name}", [BOB.address])
    return made


def help_of(one: Company) -> str:
    return f"help@{one.deployment.name}.test"


def draft_of(one: Company, **changes: Any) -> Draft:
    return replace(DRAFT, sender=help_of(one), **changes)


async def read(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def test_each_files_the_same_message_for_itself(two: tuple[Company, Company]) -> None:
    for one in two:
        one.mail.deliver(help_of(one), letter(1, BOTH))
        assert (await one.run(help_of(one))).outcomes == {Outcome.FILED: 1}
    for one in two:
        [row] = await one.timeline()
        found = await one.actions.activity(row["id"])
        assert found is not None
        [case] = await one.actions.records("incident")
        assert found["regarding"] == case["id"]
        assert case["fields"]["ticketnumber"] == "CAS-00001"
        assert case["customer_name"] == f"Bob of {one.deployment.name}"
        [bob] = await one.actions.records("contact")
        assert found["parties"][0]["record"] == str(bob["id"])


async def test_replies_and_tokens_of_the_other_mean_nothing(two: tuple[Company, Company]) -> None:
    sales, _ = two
    await sales.actions.send(draft_of(sales))
    await sales.send([help_of(sales)])
    [sent] = await sales.timeline()
    for one in two:
        for raw in (letter(1, BOTH, answers=sent["message_id"]), letter(2, BOTH, subject=sent["subject"])):
            one.mail.deliver(help_of(one), raw)
        await one.run(help_of(one))
    reasons = [{d["reason"] for d in await one.decisions.search(mailbox=help_of(one))} for one in two]
    assert reasons == [{"CorrelationMatch"}, {"AcceptAll"}]


async def test_nobody_reads_what_is_the_others(two: tuple[Company, Company]) -> None:
    sales, service = two
    written = await sales.actions.save(draft_of(sales))
    sales.mail.deliver(help_of(sales), letter(1, BOTH))
    await sales.run(help_of(sales))
    received = next(row["id"] for row in await sales.timeline() if row["direction"] == "incoming")
    [case] = await sales.actions.records("incident")
    activity = await sales.actions.activity(written)
    assert activity is not None
    sha256 = bytes.fromhex(activity["attachments"][0]["sha256"])
    ref = AttachmentRef("a.txt", "text/plain", 6, sha256)
    assert await read(sales.actions.content(written, sha256)) == b"secret"
    assert await read(sales.actions.raw(received)) == letter(1, BOTH)
    assert await read(sales.outbox.attachment(written, ref)) == b"secret"

    assert await service.timeline() == []
    assert await service.actions.timeline(case["id"]) == []
    assert await service.actions.activity(written) is None
    assert await read(service.actions.content(written, sha256)) == b""
    assert await read(service.actions.raw(received)) == b""
    assert await read(service.outbox.attachment(written, ref)) == b""
    assert await service.outbox.load([written]) == []
    own = await service.actions.save(draft_of(service, attachments=()))
    assert await read(service.actions.content(own, sha256)) == b""
    for kind in ("contact", "incident", "queue"):
        names = {row["id"] for row in await sales.actions.records(kind)}
        assert names.isdisjoint({row["id"] for row in await service.actions.records(kind)})
    receivers = [{r.id for r in await Directory(one.engine, one.organization).receivers()} for one in two]
    assert receivers[0].isdisjoint(receivers[1])


async def test_nobody_changes_what_is_the_others(two: tuple[Company, Company]) -> None:
    sales, service = two
    written = await sales.actions.send(draft_of(sales))
    [bob] = await sales.actions.records("contact")
    service.mail.deliver(help_of(service), letter(1, BOTH))
    await service.run(help_of(service))
    [received] = await service.timeline()
    before = await everything(sales), await everything(service)
    for forbidden in (
        service.actions.cancel(written),
        service.actions.submit(written),
        service.actions.send(draft_of(service, answers=written)),
        service.actions.send(draft_of(service, regarding=bob["id"])),
        service.actions.add_record("contact", "Eve", customer=bob["id"]),
        service.actions.add_record("contact", "Eve", owner=bob["id"]),
        service.actions.change_record(bob["id"], name="Eve"),
    ):
        with pytest.raises(Permanent):
            await forbidden
    await service.filing.relink(received["id"], RecordRef("contact", bob["id"]))
    await service.filing.relink(written, RecordRef("contact", received["regarding_id"]))
    await service.filing.join([(written, help_of(service))], service.term)
    refused = RecipientResult(BOB.address, RecipientState.REFUSED, 550, said="550 no")
    await service.outbox.settle([Settlement(written, SendState.FAILED, "x@y.test", 1, (refused,))], service.term)
    assert await service.outbox.claim([help_of(sales), help_of(service)], 10, service.term) == []
    assert (await everything(sales), await everything(service)) == before


async def test_numbers_are_counted_apart(two: tuple[Company, Company]) -> None:
    for one in two:
        await one.user("anna@acme.test")
        identifier = await one.actions.send(replace(DRAFT, sender="anna@acme.test"))
        row = await one.actions.activity(identifier)
        assert row is not None
        assert row["token"] == "CRM:0002001"


async def test_an_organization_is_made_once_and_found_by_name(engine: AsyncEngine) -> None:
    one = await organization.create(engine, "Acme")
    assert await organization.create(engine, "Acme") == one == await organization.find(engine, "Acme")
    assert await organization.create(engine, "acme") != one
    with pytest.raises(NeedsOperator, match="no organization 'Nobody'"):
        await organization.find(engine, "Nobody")


async def everything(one: Company) -> list[Any]:
    rows = [await one.actions.activity(row["id"]) for row in await one.timeline()]
    return [rows, *[await one.actions.records(kind) for kind in ("contact", "incident", "queue")]]
