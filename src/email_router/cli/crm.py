"""`email-router crm`: the embedded CRM from the command line."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from cyclopts import App, Parameter

from email_router.cli.common import HERE, Common, crm_of, router
from email_router.cli.output import OK, out, print_facts, print_json, print_rows
from email_router.crm.embedded import organization
from email_router.crm.embedded.actions import TYPES, Draft
from email_router.mime.addresses import parse as parse_addresses
from email_router.model.errors import NeedsOperator
from email_router.model.ids import new_id
from email_router.model.mailbox import AccessMethod, Approval, FilterOption, MailboxKind, Receiver
from email_router.model.message import Address

app = App(name="crm", help="The embedded CRM: users, queues, customers, cases, email.")

LISTED = ("name", "addresses", "id")


@app.command(name="organization")
async def make_organization(name: str, *, common: Common = HERE) -> int:
    """Make an organization, if it is not there."""
    async with router(common) as made:
        identifier = await organization.create(made.engine, name)
    if common.json:
        print_json({"id": identifier})
    else:
        out.print(f"{name}: {identifier}")
    return OK


@app.command
async def users(*, deployment: str = "", search: str = "", common: Common = HERE) -> int:
    """Users with their mailbox address and filter."""
    return await _list("systemuser", deployment, search, common, ("name", "mailbox", "tracks", "id"))


@app.command
async def queues(*, deployment: str = "", search: str = "", common: Common = HERE) -> int:
    """Queues with their mailbox address and filter."""
    return await _list("queue", deployment, search, common, ("name", "mailbox", "tracks", "makes_cases", "id"))


@app.command
async def contacts(*, deployment: str = "", search: str = "", common: Common = HERE) -> int:
    """Contacts with their addresses."""
    return await _list("contact", deployment, search, common, LISTED)


@app.command
async def cases(*, deployment: str = "", search: str = "", common: Common = HERE) -> int:
    """Cases, newest first."""
    return await _list("incident", deployment, search, common, ("ticket", "name", "customer_name", "created", "id"))


@app.command(name="records")
async def records(kind: str, *, deployment: str = "", search: str = "", common: Common = HERE) -> int:
    """Records of any type: account, lead, opportunity, incident …"""
    return await _list(_kind(kind), deployment, search, common, LISTED)


async def _list(kind: str, deployment: str, search: str, common: Common, columns: Sequence[str]) -> int:
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        rows = await crm.actions.records(kind, search)
    if not common.json:
        rows = [row | {"ticket": row["fields"].get("ticketnumber", ""), "tracks": _tracks(row)} for row in rows]
    print_rows(rows, columns, as_json=common.json, empty=f"There is no {kind} here.")
    return OK


def _tracks(row: Mapping[str, Any]) -> str:
    option = row["filter_option"]
    return FilterOption(option).name.lower().replace("_", "-") if option is not None else ""


@app.command(name="add-user")
async def add_user(
    name: str,
    address: str,
    *,
    filter: FilterOption = FilterOption.IN_RESPONSE,
    forward_mailbox: bool = False,
    approve: bool = True,
    deployment: str = "",
    common: Common = HERE,
) -> int:
    """A user with a mailbox; one that has the address already is changed."""
    incoming = AccessMethod.FORWARD_MAILBOX if forward_mailbox else AccessMethod.ROUTER
    approval = Approval.APPROVED if approve else Approval.PENDING
    user = Receiver(new_id(), MailboxKind.USER, name, _one(address), incoming, approval=approval, filter_option=filter)
    return await _add_receiver(user, deployment, common)


@app.command(name="add-queue")
async def add_queue(
    name: str,
    address: str,
    *,
    filter: FilterOption = FilterOption.ALL,
    makes_cases: bool = False,
    case_title: str = "{subject}",
    forward_mailbox: bool = False,
    deployment: str = "",
    common: Common = HERE,
) -> int:
    """A queue with a mailbox; with --makes-cases mail that belongs to nothing makes a case."""
    incoming = AccessMethod.FORWARD_MAILBOX if forward_mailbox else AccessMethod.ROUTER
    queue = Receiver(
        new_id(),
        MailboxKind.QUEUE,
        name,
        _one(address),
        incoming,
        filter_option=filter,
        makes_cases=makes_cases,
        case_title=case_title,
    )
    return await _add_receiver(queue, deployment, common)


async def _add_receiver(receiver: Receiver, deployment: str, common: Common) -> int:
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        identifier = await crm.actions.add_receiver(receiver)
    return _made(receiver.kind.value, receiver.name, identifier, common)


@app.command(name="add")
async def add(
    kind: str,
    name: str,
    addresses: Annotated[Sequence[str], Parameter(name="address")] = (),
    /,
    *,
    deployment: str = "",
    common: Common = HERE,
) -> int:
    """A record with its email addresses: `crm add contact "Ann Lee" ann@example.com`."""
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        identifier = await crm.actions.add_record(_kind(kind), name, [_one(a) for a in addresses])
    return _made(kind, name, identifier, common)


def _made(kind: str, name: str, identifier: UUID, common: Common) -> int:
    if common.json:
        print_json({"id": identifier})
    else:
        out.print(f"{kind} {name}: {identifier}")
    return OK


@app.command
async def timeline(record: UUID | None = None, *, deployment: str = "", limit: int = 50, common: Common = HERE) -> int:
    """Email of a record (a case, a contact …), oldest first; of the whole organization without one."""
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        rows = await crm.actions.timeline(record, limit)
    columns = ("created", "direction", "status", "sender", "recipients", "subject", "regarding", "id")
    print_rows(rows, columns, as_json=common.json, empty="There is no email yet.")
    return OK


@app.command
async def email(identifier: UUID, *, deployment: str = "", common: Common = HERE) -> int:
    """One email activity, whole."""
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        found = await crm.actions.activity(identifier)
    if found is None:
        raise NeedsOperator(f"There is no email {identifier}", cure="email-router crm timeline")
    if common.json:
        print_json(found)
    else:
        print_facts({name: value for name, value in found.items() if value not in (None, "", [])})
    return OK


@app.command
async def send(
    *,
    sender: Annotated[str, Parameter(name="--from")] = "",
    to: Sequence[str] = (),
    cc: Sequence[str] = (),
    bcc: Sequence[str] = (),
    subject: str = "",
    text: str = "",
    attach: Sequence[Path] = (),
    answers: UUID | None = None,
    regarding: UUID | None = None,
    deployment: str = "",
    common: Common = HERE,
) -> int:
    """Write an email and send it as a user or queue.

    Parameters
    ----------
    sender
        Address of the user or queue.
    text
        The body; - reads it from standard input.
    answers
        The email activity that it answers: it joins that conversation and record.
    regarding
        The record that it belongs to.
    """
    import sys

    body = sys.stdin.read() if text == "-" else text
    draft = Draft(
        _one(sender),
        tuple(_people(to)),
        subject,
        body,
        tuple(_people(cc)),
        tuple(_people(bcc)),
        regarding=regarding,
        answers=answers,
        attachments=tuple(_attached(path) for path in attach),
    )
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        identifier = await crm.actions.send(draft)
    return _made("email in Pending Send", subject, identifier, common)


def _attached(path: Path) -> tuple[str, str, bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NeedsOperator(
            f"The attachment cannot be read: {error.strerror}", where=str(path), cure="correct the path"
        ) from error
    return path.name, mimetypes.guess_type(path.name)[0] or "application/octet-stream", data


def _people(values: Sequence[str]) -> list[Address]:
    found = [address for value in values for address in parse_addresses(value)]
    for address in found:
        _one(address.address)
    return found


def _one(value: str) -> str:
    if "@" not in value:
        raise NeedsOperator(f"{value!r} is no email address", cure="write name@example.com")
    return value


def _kind(kind: str) -> str:
    names = {"case": "incident", "user": "systemuser"}
    found = names.get(kind, kind)
    if found not in TYPES:
        raise NeedsOperator(f"{kind!r} is no type of record", cure=f"one of {', '.join(TYPES)}")
    return found
