"""The story: each step does something over the wire, waits for what the router makes of it, and verifies it."""

from __future__ import annotations

import email
import email.policy
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from email_router.crm.embedded.writing import Draft
from email_router.demo import messages
from email_router.demo.enclosures import drawing, order_form
from email_router.demo.messages import ANNA, BOB, CARLA, DANIEL, SUPPORT, Letter
from email_router.demo.stage import Stage
from email_router.demo.steps import Step, StepResult
from email_router.model.message import Address


class NotTrue(Exception):
    """What a step says must be true was not."""


@dataclass(slots=True)
class Memory:
    """What later steps need of earlier ones."""

    first: dict[str, Any] | None = None
    answer: bytes = b""


async def play(stage: Stage) -> AsyncIterator[StepResult]:
    """The steps one after the other, each with what came of it. A step that fails does not end the story."""
    memory = Memory()
    for step, act in _STEPS:
        began = time.monotonic()
        try:
            result = await act(stage, memory)
        except NotTrue as error:
            result = StepResult(step, fault=str(error))
        except Exception as error:
            result = StepResult(step, fault=f"{type(error).__name__}: {error}")
        yield replace(result, step=step, seconds=time.monotonic() - began)


def _told(decision: dict[str, Any], *wire: str) -> StepResult:
    said = f"{decision['outcome']}: {decision['reason']}"
    return StepResult(Step("", "", "", ""), wire, said, tuple(str(decision["why"]).split("\n")))


def _must(true: object, what: str) -> None:
    if not true:
        raise NotTrue(what)


async def _send(stage: Stage, letter: Letter) -> str:
    to = [person.address for person in letter.recipients]
    await stage.mail.client.send(letter.sender.address, to, letter.raw)
    return f"SMTP {letter.sender.address} → {', '.join(to)}"


def _id(letter: Letter) -> str:
    return letter.message_id.strip("<>")


async def _first_mail(stage: Stage, memory: Memory) -> StepResult:
    letter = messages.first_mail(datetime.now(UTC))
    wire = await _send(stage, letter)
    [decision] = await stage.decisions(_id(letter))
    activity = memory.first = await stage.activity(decision)
    _must(activity["status"] == "Received", f"the activity is {activity['status']}")
    _must(activity["regarding_type"] == "incident", f"it is regarding {activity['regarding_type']}")
    _must(activity["regarding_name"] == letter.subject, f"the case is called {activity['regarding_name']}")
    _must(activity["queues"] == [SUPPORT.name], f"it is in the queues {activity['queues']}")
    sender = next(party for party in activity["parties"] if party["role"] == "from")
    _must(sender["record"] is not None, "the sender is not resolved to a contact")
    return _told(decision, wire, "IMAP IDLE woke the router, UID FETCH")


async def _cold_mail(stage: Stage, memory: Memory) -> StepResult:
    letter = messages.cold_mail(datetime.now(UTC))
    wire = await _send(stage, letter)
    [decision] = await stage.decisions(_id(letter))
    _must(decision["outcome"] == "not-tracked", f"it was {decision['outcome']}")
    _must(decision["activity"] is None, "there is an activity")
    _must(len(await stage.mail.client.read(BOB.address)) == 1, "it is not in Bob's mailbox any more")
    return _told(decision, wire, "IMAP UID FETCH with BODY.PEEK: it stays unread in Bob's mailbox")


async def _order(stage: Stage, memory: Memory) -> StepResult:
    letter = messages.order_with_drawing(datetime.now(UTC))
    wire = await _send(stage, letter)
    [decision] = await stage.decisions(_id(letter))
    activity = await stage.activity(decision)
    found = {a["sha256"]: (a["name"], a["inline"]) for a in activity["attachments"] or ()}
    wanted = {
        hashlib.sha256(drawing()).hexdigest(): ("skizze.png", True),
        hashlib.sha256(order_form()).hexdigest(): ("Bestellung Köln 4711.pdf", False),
    }
    _must(found == wanted, f"the attachments are {list(found.values())}")
    _must("Bestellung" in activity["body_html"], "the HTML body is not there")
    return _told(decision, wire, "POP3 UIDL, RETR", "2 attachments, compared by SHA-256")


async def _answer(stage: Stage, memory: Memory) -> StepResult:
    _must(memory.first, "the first step has no activity to answer")
    assert memory.first is not None
    draft = Draft(
        SUPPORT.address,
        (Address(CARLA.name, CARLA.address),),
        f"RE: {memory.first['subject']}",
        "Hello Carla,\n\nplease hold the red button for ten seconds. If E-07 comes back, a technician comes on "
        "Thursday.\n\nContoso Support\n",
        answers=memory.first["id"],
    )
    identifier = await stage.crm.actions.send(draft)
    asked = str(memory.first["message_id"])
    memory.answer = await stage.mail.client.wait_for(CARLA.address, lambda raw: asked.encode() in raw)
    received = email.message_from_bytes(memory.answer, policy=email.policy.default)
    subject = str(received["Subject"])
    _must("CRM:0" in subject, f"the subject has no tracking token: {subject}")
    _must(str(received["In-Reply-To"]).strip("<>") == asked, f"In-Reply-To is {received['In-Reply-To']}")

    async def sent() -> bool:
        now = await stage.crm.actions.activity(identifier)
        return now is not None and now["status"] == "Sent"

    await stage.until(sent, "the CRM's status Sent")
    return StepResult(
        Step("", "", "", ""),
        ("SMTP STARTTLS, AUTH, MAIL, RCPT, DATA", f"read in Carla's mailbox: {subject}"),
        "sent: handed over and proved",
        ("The email was claimed from Pending Send, marked before the final dot, and is Sent.",),
    )


async def _reply(stage: Stage, memory: Memory) -> StepResult:
    _must(memory.first is not None and memory.answer, "there is no answer to reply to")
    assert memory.first is not None
    letter = messages.reply(memory.answer, datetime.now(UTC))
    wire = await _send(stage, letter)
    [decision] = await stage.decisions(_id(letter))
    activity = await stage.activity(decision)
    _must(activity["regarding"] == memory.first["regarding"], "it is not on the same case")
    _must(decision["reason"] == "CorrelationMatch", f"the reason is {decision['reason']}")
    return _told(decision, wire, "IMAP IDLE, UID FETCH")


async def _two_mailboxes(stage: Stage, memory: Memory) -> StepResult:
    letter = messages.to_two_mailboxes(datetime.now(UTC))
    wire = await _send(stage, letter)
    decisions = await stage.decisions(_id(letter), 2)
    outcomes = sorted(d["outcome"] for d in decisions)
    _must(outcomes == ["duplicate", "filed"], f"the decisions are {outcomes}")
    _must(len({d["activity"] for d in decisions}) == 1, "there are two activities")
    activity = await stage.activity(decisions[0])
    wanted = sorted((SUPPORT.address, ANNA.address))
    _must(activity["received_by"] == wanted, f"received by {activity['received_by']}")
    joined = next(d for d in decisions if d["outcome"] == "duplicate")
    return _told(joined, wire, "IMAP and POP3 each brought a copy")


async def _wrong_order(stage: Stage, memory: Memory) -> StepResult:
    parent = messages.question(datetime.now(UTC))
    answer = messages.afterthought(parent, datetime.now(UTC))
    await stage.mail.stop_imap()
    try:
        await _send(stage, answer)
        wire = await _send(stage, parent)
    finally:
        await stage.mail.start_imap()
    [first] = await stage.decisions(_id(parent))
    [second] = await stage.decisions(_id(answer))
    case, same = await stage.activity(first), await stage.activity(second)
    _must(case["regarding"] is not None, "the question made no case")
    _must(case["regarding"] == same["regarding"], "the answer is on another case")
    return _told(second, "SMTP the answer, then the question", wire, "IMAP was down, came back: one batch")


async def _poison(stage: Stage, memory: Memory) -> StepResult:
    poison = messages.refused_by_crm(datetime.now(UTC))
    good = messages.while_away(datetime.now(UTC))
    await stage.mail.stop_imap()
    try:
        wire = await _send(stage, poison)
        await _send(stage, good)
    finally:
        await stage.mail.start_imap()
    [set_aside] = await stage.decisions(_id(poison))
    [filed] = await stage.decisions(_id(good))
    _must(set_aside["outcome"] == "undeliverable", f"it was {set_aside['outcome']}")
    _must(filed["outcome"] == "filed", f"the message behind it was {filed['outcome']}")
    kept = [row for row in await stage.router.undeliverable.listing() if row["subject"] == poison.subject]
    _must(len(kept) == 1, f"{len(kept)} undeliverable messages")
    raw = b"".join([data async for data in stage.router.undeliverable.raw(kept[0]["id"])])
    _must(raw.endswith(poison.raw), "its raw bytes are not kept whole")
    return _told(set_aside, wire, "the message behind it was filed", f"{len(raw):,} bytes kept for a retry")


async def _server_down(stage: Stage, memory: Memory) -> StepResult:
    await stage.mail.stop_smtp()
    draft = Draft(
        SUPPORT.address,
        (Address(DANIEL.name, DANIEL.address),),
        "Your visit on Thursday",
        "Hello Daniel,\n\nthe technician brings the door seal.\n\nContoso Support\n",
    )
    try:
        identifier = await stage.crm.actions.send(draft)

        async def noticed() -> bool:
            listing = await stage.router.mailboxes.listing()
            return any(row["name"] == "outgoing smtp" and row["state"] == "away" for row in listing)

        await stage.until(noticed, "the pause of the outgoing profile")
    finally:
        await stage.mail.start_smtp()
    await stage.mail.client.wait_for(DANIEL.address, lambda raw: b"Your visit on Thursday" in raw)

    async def sent() -> Any:
        now = await stage.crm.actions.activity(identifier)
        return now if now is not None and now["status"] == "Sent" else None

    activity = await stage.until(sent, "the CRM's status Sent")
    _must(activity["attempts"] == 1, f"{activity['attempts']} attempts were counted: a server that is away is none")
    copies = [raw for raw in await stage.mail.client.read(DANIEL.address) if b"Your visit on Thursday" in raw]
    _must(len(copies) == 1, f"{len(copies)} copies arrived")
    return StepResult(
        Step("", "", "", ""),
        ("SMTP refused connections, then took them again",),
        "sent: once, when the server was back",
        ("The profile was paused while the server was away; its mail waited in the ledger and was not counted.",),
    )


Act = Callable[[Stage, Memory], Awaitable[StepResult]]

_STEPS: tuple[tuple[Step, Act], ...] = (
    (
        Step(
            "A customer writes to the queue",
            "Carla of Fabrikam writes to support@contoso.example",
            "one activity on a new case, in the queue, from the contact Carla",
            "the activity, read from the CRM",
        ),
        _first_mail,
    ),
    (
        Step(
            "A stranger writes to a user",
            "Viktor writes to Bob, who tracks only replies",
            "not tracked, and untouched in Bob's mailbox",
            "the decision, and Bob's mailbox by IMAP",
        ),
        _cold_mail,
    ),
    (
        Step(
            "HTML, a picture, a PDF",
            "Jürgen sends an order to Anna, whose mailbox is read by POP3",
            "one activity with both attachments, bit by bit",
            "SHA-256 of the attachments in the CRM",
        ),
        _order,
    ),
    (
        Step(
            "The answer goes out",
            "Support answers Carla in the CRM",
            "Carla has it, with token and threading headers; Sent in the CRM",
            "Carla's mailbox by IMAP, and the CRM",
        ),
        _answer,
    ),
    (
        Step(
            "The customer replies", "Carla replies with Outlook", "on the same case", "the activity, read from the CRM"
        ),
        _reply,
    ),
    (
        Step(
            "One message, two mailboxes",
            "Daniel writes to support and to Anna",
            "one activity, received by both",
            "both decisions and the activity",
        ),
        _two_mailboxes,
    ),
    (
        Step(
            "The wrong order",
            "An answer arrives before its question, together with it",
            "both on one case",
            "both activities",
        ),
        _wrong_order,
    ),
    (
        Step(
            "A poison message",
            "The CRM refuses one message; another one waits behind it",
            "one is undeliverable with its raw bytes, the other is filed",
            "the undeliverable list, and the decision on the other",
        ),
        _poison,
    ),
    (
        Step(
            "A server is down",
            "The outgoing server is away while support writes to Daniel",
            "sent once, when it is back; no attempt is counted",
            "Daniel's mailbox by IMAP, and the CRM",
        ),
        _server_down,
    ),
)
