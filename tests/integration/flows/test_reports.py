"""Bounces and other reports, with a real database: they change the email that they are about, or nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from email_router.crm.embedded.writing import Draft
from email_router.model.message import Address
from email_router.model.outgoing import SendState
from email_router.model.receipt import Outcome
from tests.fixtures.company import Company, letter

pytestmark = pytest.mark.database

HELP = "help@acme.test"
BOB = Address("Bob", "bob@customer.test")
CARL = Address("Carl", "carl@customer.test")


def bounce(
    message_id: str,
    recipient: str = "bob@customer.test",
    *,
    action: str = "failed",
    status: str = "5.1.1",
    said: str = "550 5.1.1 No such user",
    envelope_id: str = "",
    subject: str = "Undelivered Mail Returned to Sender",
    n: str = "1",
) -> bytes:
    envelope = f"Original-Envelope-Id: {envelope_id}\r\n" if envelope_id else ""
    returned = f"Message-ID: <{message_id}>\r\nSubject: Hello\r\n" if message_id else "Subject: Hello\r\n"
    return (
        f"Return-Path: <>\r\nFrom: MAILER-DAEMON@mx.test\r\nTo: {HELP}\r\nSubject: {subject}\r\n"
        f"Message-ID: <bounce-{n}@mx.test>\r\nDate: Mon, 23 Nov 2026 11:00:00 +0000\r\nAuto-Submitted: auto-replied\r\n"
        "Content-Type: multipart/report; report-type=delivery-status; boundary=B\r\n\r\n"
        "--B\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n"
        "--B\r\nContent-Type: message/delivery-status\r\n\r\n"
        f"Reporting-MTA: dns; mx.test\r\n{envelope}\r\nFinal-Recipient: rfc822; {recipient}\r\nAction: {action}\r\n"
        f"Status: {status}\r\nDiagnostic-Code: smtp; {said}\r\n\r\n"
        f"--B\r\nContent-Type: text/rfc822-headers\r\n\r\n{returned}\r\n--B--\r\n"
    ).encode()


async def sent(acme: Company, *to: Address) -> dict[str, Any]:
    """An email that went out about a case, as the CRM shows it."""
    await acme.queue(HELP, makes_cases=True)
    case = await acme.actions.add_record("incident", "The case")
    identifier = await acme.actions.send(Draft(HELP, to or (BOB,), "Hello", "How are you?", regarding=case))
    assert (await acme.send([HELP])).states == {SendState.SENT: 1}
    return await shown(acme, identifier)


async def shown(acme: Company, identifier: UUID) -> dict[str, Any]:
    found = await acme.actions.activity(identifier)
    assert found is not None
    return found


async def run(acme: Company, raw: bytes) -> dict[str, Any]:
    """File it and tell the CRM; returns the decision."""
    acme.mail.deliver(HELP, raw)
    await acme.run(HELP)
    await acme.send([HELP])
    [decision, *_] = await acme.decisions.search(limit=1)
    return decision


def states(email: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {p["address"]: (p["state"], p["said"]) for p in email["parties"] if p["role"] != "from"}


async def test_a_bounce_fails_the_email_and_is_filed_on_its_case(acme: Company) -> None:
    email = await sent(acme)
    decision = await run(acme, bounce(email["message_id"]))
    assert (decision["outcome"], decision["reason"], decision["class"]) == ("filed", "CorrelationMatch", "bounce")
    assert decision["class_line"] == "Content-Type: multipart/report; report-type=delivery-status"
    assert (
        f'It is about "Hello CRM:0001001", sent from here: it brings back <{email["message_id"]}>.' in decision["why"]
    )
    after = await shown(acme, email["id"])
    assert (after["status"], after["said"]) == (
        "Failed",
        "bob@customer.test: 550 5.1.1 No such user (reported by a bounce)",
    )
    assert states(after) == {BOB.address: ("refused", "550 5.1.1 No such user (reported by a bounce)")}
    filed = await shown(acme, decision["activity"])
    assert (filed["regarding_name"], filed["correlated"]) == ("The case", email["id"])
    assert await acme.scalar("SELECT count(*) FROM crm.record WHERE type = 'incident'") == 1


async def test_who_got_it_keeps_it_sent(acme: Company) -> None:
    email = await sent(acme, BOB, CARL)
    await run(acme, bounce(email["message_id"]))
    after = await shown(acme, email["id"])
    assert after["status"] == "Sent"
    assert [state for state, _ in states(after).values()] == ["refused", "accepted"]
    await run(acme, bounce(email["message_id"], CARL.address, n="2"))
    after = await shown(acme, email["id"])
    assert after["status"] == "Failed"


async def test_the_envelope_id_that_we_gave_is_proof_enough(acme: Company) -> None:
    email = await sent(acme)
    envelope = await acme.scalar("SELECT envelope_id FROM router.ledger")
    decision = await run(acme, bounce("", envelope_id=envelope))
    assert f"it carries the envelope id {envelope}" in decision["why"]
    assert (await shown(acme, email["id"]))["status"] == "Failed"


@pytest.mark.parametrize(
    "changes",
    [
        {"message_id": "made-up@acme.test"},
        {"recipient": "somebody@else.test"},
        {"action": "delayed", "status": "4.4.1"},
        {"action": "delivered", "status": "2.0.0"},
        {"message_id": "", "envelope_id": "00000000000000000000000000000000"},
        {"message_id": "", "envelope_id": "not-ours", "subject": "Undelivered: Hello CRM:0001001"},
    ],
    ids=["forged id", "who did not get it", "delayed", "delivered", "unknown envelope", "only a quoted token"],
)
async def test_nothing_else_changes_an_email(acme: Company, changes: dict[str, str]) -> None:
    email = await sent(acme)
    given = {"message_id": email["message_id"]} | changes
    decision = await run(acme, bounce(given.pop("message_id"), **given))
    assert decision["outcome"] == "filed"
    after = await shown(acme, email["id"])
    assert (after["status"], states(after)) == ("Sent", states(email))
    assert await acme.scalar("SELECT count(*) FROM crm.record WHERE type = 'incident'") == 1


async def test_a_bounce_is_counted_once_however_often_it_is_handled(acme: Company) -> None:
    email = await sent(acme)
    raw = bounce(email["message_id"])
    await run(acme, raw)
    attempts = await acme.scalar("SELECT attempts FROM router.ledger")
    acme.mail.deliver(HELP, raw)  # the same once more, as after a change of UIDVALIDITY
    assert (await acme.run(HELP)).outcomes == {Outcome.DUPLICATE: 1}
    await run(acme, bounce(email["message_id"], said="something else", n="2"))
    assert await acme.scalar("SELECT attempts FROM router.ledger") == attempts
    assert (await shown(acme, email["id"]))["said"].startswith("bob@customer.test: 550 5.1.1 No such user")


async def test_an_uncertain_email_that_bounces_was_handed_over(acme: Company) -> None:
    email = await sent(acme, BOB, CARL)
    async with acme.engine.begin() as db:
        await db.exec_driver_sql("UPDATE router.ledger SET state = 'uncertain'")
        await db.exec_driver_sql("UPDATE router.ledger_recipient SET state = 'pending'")
    await run(acme, bounce(email["message_id"]))
    after = await shown(acme, email["id"])
    assert after["status"] == "Sent"
    assert [state for state, _ in states(after).values()] == ["refused", "accepted"]


async def test_a_bounce_that_nobodys_filter_takes_still_fails_the_email(acme: Company) -> None:
    email = await sent(acme)
    acme.settings["ann@acme.test"] = replace(acme.settings[HELP], address="ann@acme.test")
    acme.mail.deliver("ann@acme.test", bounce(email["message_id"]))
    await acme.run("ann@acme.test")
    await acme.send([HELP])
    assert (await shown(acme, email["id"]))["status"] == "Failed"


async def test_our_own_email_in_a_mailbox_of_ours_is_no_new_one(acme: Company) -> None:
    email = await sent(acme, Address("Help", HELP), BOB)
    [(_, raw)] = acme.mail.sent
    acme.mail.deliver(HELP, raw)
    assert (await acme.run(HELP)).outcomes == {Outcome.DUPLICATE: 1}
    [decision] = await acme.decisions.search(limit=1)
    assert (decision["class"], decision["activity"]) == ("own mail", email["id"])
    assert (await shown(acme, email["id"]))["received_by"] == [HELP]


async def test_a_vacation_note_lands_on_the_case_and_makes_none(acme: Company) -> None:
    email = await sent(acme)
    acme.mail.deliver(HELP, letter(1, HELP, answers=email["message_id"], headers="Auto-Submitted: auto-replied\r\n"))
    acme.mail.deliver(HELP, letter(2, HELP, headers="Auto-Submitted: auto-replied\r\n"))
    await acme.run(HELP)
    rows = {row["message_id"]: row["regarding"] for row in await acme.timeline()}
    assert (rows["1@customer.test"], rows["2@customer.test"]) == ("The case", None)
    assert await acme.scalar("SELECT count(*) FROM crm.record WHERE type = 'incident'") == 1
