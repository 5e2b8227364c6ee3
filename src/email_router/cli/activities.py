"""`email-router crm`: the email of the embedded CRM: a timeline, one email, writing, sending, canceling."""

from __future__ import annotations

import mimetypes
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from cyclopts import App, Parameter

from email_router.app import Crm
from email_router.cli.common import HERE, Common, Deployment, crm_of, router
from email_router.cli.crm import an_address, told
from email_router.cli.output import OK, print_facts, print_json, print_rows, say
from email_router.crm.embedded.writing import Draft
from email_router.mime.addresses import parse as parse_addresses
from email_router.model.errors import NeedsOperator
from email_router.model.evidence import word_for
from email_router.model.message import Address

Words = Annotated[str, Parameter(allow_leading_hyphen=True)]
Activity = Annotated[UUID, Parameter(name="id", help="From `email-router crm timeline`.")]


def register(app: App) -> None:
    for command in (timeline, email, send, submit, cancel):
        app.command(command)


async def timeline(record: str = "", /, *, deployment: Deployment = "", limit: int = 50, common: Common = HERE) -> int:
    """Email of a record (a case, a contact …), oldest first; of the whole organization without one.

    Parameters
    ----------
    record
        A case's ticket number, or the id that `email-router crm cases` and the other lists show.
    limit
        The newest so many.
    """
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        rows = await crm.actions.timeline(await crm.actions.record(record) if record else None, limit)
    columns = ("created", "direction", "status", "sender", "recipients", "subject", "regarding", "id")
    print_rows(rows, columns, as_json=common.json, empty="There is no email yet.")
    return OK


async def email(
    identifier: Activity, /, *, raw: bool = False, deployment: Deployment = "", common: Common = HERE
) -> int:
    """One email activity, whole: parties, text, attachments, what it is regarding.

    Parameters
    ----------
    raw
        The message itself, as it was received, to standard output.
    """
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        found = await crm.actions.activity(identifier)
        if found is None:
            raise NeedsOperator(f"There is no email {identifier}", cure="email-router crm timeline")
        if raw:
            return await _raw(crm, identifier)
    if common.json:
        print_json(found)
    else:
        print_facts({name: value for name, value in _readable(found).items() if value not in (None, "", [])})
    return OK


async def _raw(crm: Crm, identifier: UUID) -> int:
    size = 0
    async for data in crm.actions.raw(identifier):
        size += len(data)
        sys.stdout.buffer.write(data)
    if not size:
        raise NeedsOperator(
            f"The message behind the email {identifier} is not kept",
            cure="only received mail is, and only as long as keep_raw_days says",
        )
    return OK


def _readable(found: Mapping[str, Any]) -> dict[str, Any]:
    """An activity in the order in which people read an email; all of it is in --json."""
    parties = found["parties"] or []
    people = {role: [_party(p) for p in parties if p["role"] == role] for role in ("from", "to", "cc", "bcc")}
    regarding = f"{word_for(found['regarding_type'])} {found['regarding_name']}"
    return {
        "id": found["id"],
        "status": f"{found['status']} ({found['direction']})",
        "subject": found["subject"],
        **people,
        "date": found["date"] or found["sent"] or found["created"],
        "regarding": f"{regarding} ({found['regarding']})" if found["regarding"] else "",
        "received by": found["received_by"],
        "queues": found["queues"],
        "message-id": found["message_id"],
        "the server said": found["said"],
        "attachments": [f"{a['name']} ({a['size']:,} bytes)" for a in found["attachments"] or []],
        "text": f"\n{found['body_text'].strip()}" if found["body_text"] else "",
    }


def _party(party: Mapping[str, Any]) -> str:
    written = f"{party['name']} <{party['address']}>" if party["name"] else str(party["address"])
    state = f" ({party['state']})" if party["state"] else ""
    return written + state + ("" if party["record"] else ", no record")


async def send(
    *,
    sender: Annotated[str, Parameter(name="--from")],
    to: Sequence[str] = (),
    cc: Sequence[str] = (),
    bcc: Sequence[str] = (),
    subject: Words = "",
    text: Words = "",
    attach: Sequence[Path] = (),
    answers: UUID | None = None,
    regarding: str = "",
    draft: bool = False,
    deployment: Deployment = "",
    common: Common = HERE,
) -> int:
    """Write an email and send it as a user or queue.

    It goes to Pending Send; the router takes it from there, at once if it runs. The subject gets its tracking token,
    the headers its conversation.

    Examples: `email-router crm send --from support@example.com --to carla@customer.example --subject Oven --text -` ·
    `email-router crm send --from support@example.com --answers ID --text "We come tomorrow."`

    Parameters
    ----------
    sender
        Address of the user or queue.
    to
        Recipients, each as an address or `"Name" <address>`; may be given several times. An answer goes to who wrote
        the email, unless others are named.
    cc
        Copies.
    bcc
        Blind copies: they are on no header.
    subject
        The subject; an answer has that of the email, with RE: before it, unless another is given.
    text
        The body; - reads it from standard input.
    attach
        Files to attach.
    answers
        The email activity that it answers: it joins that conversation and record.
    regarding
        The record that it belongs to: a case's ticket number, or the id of any record.
    draft
        Keep it as a draft; `email-router crm submit` sends it.
    """
    body = sys.stdin.read() if text == "-" else text
    written = Draft(
        an_address(sender),
        tuple(_people(to)),
        subject,
        body,
        tuple(_people(cc)),
        tuple(_people(bcc)),
        answers=answers,
        attachments=tuple(_attached(path) for path in attach),
    )
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        if regarding:
            written = replace(written, regarding=await crm.actions.record(regarding))
        if answers is not None:
            written = await _answering(crm, answers, written)
        identifier = await (crm.actions.save(written) if draft else crm.actions.send(written))
    return told("draft" if draft else "Pending Send", f'"{written.subject}"', identifier, common)


async def _answering(crm: Crm, answers: UUID, written: Draft) -> Draft:
    """What an answer has from the email that it answers, where nothing else is said."""
    asked = await crm.actions.activity(answers)
    if asked is None:
        return written  # saving it says so
    subject = asked["subject"] if _ANSWER.match(asked["subject"]) else f"RE: {asked['subject']}"
    back = [Address("", asked["sender"])]
    if asked["direction"] == "outgoing":  # our own: the answer is one more word to the same people
        back = [Address(p["name"], p["address"]) for p in asked["parties"] if p["role"] == "to"]
    nobody = not (written.to or written.cc or written.bcc)
    return replace(written, subject=written.subject or subject, to=tuple(back) if nobody else written.to)


_ANSWER = re.compile(r"(re|aw|sv|antw)\s*:", re.IGNORECASE)


async def submit(identifier: Activity, /, *, deployment: Deployment = "", common: Common = HERE) -> int:
    """Send a draft, or an email that failed."""
    return await _do(identifier, deployment, common, lambda crm: crm.actions.submit, "It is in Pending Send.")


async def cancel(identifier: Activity, /, *, deployment: Deployment = "", common: Common = HERE) -> int:
    """Send an email not, or not again. What was handed over to the mail server already is sent all the same."""
    return await _do(identifier, deployment, common, lambda crm: crm.actions.cancel, "It is canceled.")


async def _do(
    identifier: UUID,
    deployment: str,
    common: Common,
    action: Callable[[Crm], Callable[[UUID], Awaitable[None]]],
    words: str,
) -> int:
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        await action(crm)(identifier)
    if common.json:
        print_json({"id": identifier})
    else:
        say(words)
    return OK


def _attached(path: Path) -> tuple[str, str, bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NeedsOperator(
            f"The attachment cannot be read: {error.strerror}", where=str(path), cure="correct the path"
        ) from error
    return path.name, mimetypes.guess_type(path.name)[0] or "application/octet-stream", data


def _people(values: Sequence[str]) -> list[Address]:
    found: list[Address] = []
    for value in values:
        people = parse_addresses(value)
        for person in people:
            an_address(person.address or value)
        found.extend(people)
    return found
