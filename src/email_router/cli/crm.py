"""`email-router crm`: the embedded CRM from the command line."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from cyclopts import App, Parameter

from email_router.cli.common import CUSTOMERS, DEFAULTS, HERE, Common, Deployment, crm_of, router
from email_router.cli.output import OK, print_facts, print_json, print_rows, say
from email_router.crm.embedded import organization
from email_router.crm.embedded.actions import TYPES
from email_router.crm.embedded.writing import Draft
from email_router.mime.addresses import parse as parse_addresses
from email_router.model.errors import NeedsOperator
from email_router.model.ids import new_id
from email_router.model.mailbox import AccessMethod, Approval, FilterOption, MailboxKind, Receiver
from email_router.model.message import Address

app = App(
    name="crm",
    group=CUSTOMERS,
    default_parameter=DEFAULTS,
    help="""The embedded CRM: users, queues, customers, cases, email.

Its organization is made by `email-router publish`; users and queues say whose mail is tracked and which.""",
)

Search = Annotated[str, Parameter(name="--search", help="Only those with this in a name or an address.")]
Filter = Annotated[FilterOption, Parameter(name="--filter", help="Which of the mail becomes an activity.")]
Forwarded = Annotated[
    bool, Parameter(name="--forward-mailbox", help="Mail comes by a forward mailbox instead of a mailbox of its own.")
]
Activity = Annotated[UUID, Parameter(name="id", help="From `email-router crm timeline`.")]

_WORDS = {"incident": "case", "systemuser": "user"}
LISTED = ("name", "addresses", "id")


@app.command(name="organization")
async def make_organization(name: str, /, *, common: Common = HERE) -> int:
    """Make an organization, if it is not there. `email-router publish` does so for each deployment.

    Parameters
    ----------
    name
        As `organization` in the deployment's settings names it.
    """
    async with router(common) as made:
        identifier = await organization.create(made.engine, name)
    if common.json:
        print_json({"id": identifier})
    else:
        say(f"{name}: {identifier}")
    return OK


@app.command
async def users(*, deployment: Deployment = "", search: Search = "", common: Common = HERE) -> int:
    """Users with their mailbox address and filter."""
    return await _list("systemuser", deployment, search, common, ("name", "mailbox", "tracks", "id"))


@app.command
async def queues(*, deployment: Deployment = "", search: Search = "", common: Common = HERE) -> int:
    """Queues with their mailbox address and filter."""
    return await _list("queue", deployment, search, common, ("name", "mailbox", "tracks", "makes_cases", "id"))


@app.command
async def contacts(*, deployment: Deployment = "", search: Search = "", common: Common = HERE) -> int:
    """Contacts with their addresses."""
    return await _list("contact", deployment, search, common, LISTED)


@app.command
async def cases(*, deployment: Deployment = "", search: Search = "", common: Common = HERE) -> int:
    """Cases, newest first."""
    return await _list("incident", deployment, search, common, ("ticket", "name", "customer_name", "created", "id"))


@app.command(name="records")
async def records(kind: str, /, *, deployment: Deployment = "", search: Search = "", common: Common = HERE) -> int:
    """Records of any type.

    Parameters
    ----------
    kind
        account, contact, lead, opportunity, case (incident), user (systemuser), queue, equipment or team.
    """
    return await _list(_kind(kind), deployment, search, common, LISTED)


async def _list(kind: str, deployment: str, search: str, common: Common, columns: Sequence[str]) -> int:
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        rows = await crm.actions.records(kind, search)
    if not common.json:
        rows = [row | {"ticket": row["fields"].get("ticketnumber", ""), "tracks": _tracks(row)} for row in rows]
    print_rows(rows, columns, as_json=common.json, empty=f"There is no {_WORDS.get(kind, kind)} here.")
    return OK


def _tracks(row: Mapping[str, Any]) -> str:
    option = row["filter_option"]
    return FilterOption(option).name.lower().replace("_", "-") if option is not None else ""


@app.command(name="add-user")
async def add_user(
    name: str,
    address: str,
    /,
    *,
    filter: Filter = FilterOption.IN_RESPONSE,
    forward_mailbox: Forwarded = False,
    approve: Annotated[bool, Parameter(negative="--no-approve")] = True,
    deployment: Deployment = "",
    common: Common = HERE,
) -> int:
    """A user with a mailbox; one that has the address already is changed.

    Example: `email-router crm add-user "Anna Lee" anna@example.com --filter from-leads-contacts-accounts`

    Parameters
    ----------
    name
        As people know the user.
    address
        The address of the mailbox, as in the settings.
    approve
        Whether the address is approved: without that nothing is tracked or sent, unless the deployment's settings say
        `approved_users_only = false`.
    """
    incoming = AccessMethod.FORWARD_MAILBOX if forward_mailbox else AccessMethod.ROUTER
    approval = Approval.APPROVED if approve else Approval.PENDING
    user = Receiver(new_id(), MailboxKind.USER, name, _one(address), incoming, approval=approval, filter_option=filter)
    return await _add_receiver(user, deployment, common)


@app.command(name="add-queue")
async def add_queue(
    name: str,
    address: str,
    /,
    *,
    filter: Filter = FilterOption.ALL,
    makes_cases: bool = False,
    case_title: str = "{subject}",
    forward_mailbox: Forwarded = False,
    deployment: Deployment = "",
    common: Common = HERE,
) -> int:
    """A queue with a mailbox; one that has the address already is changed.

    Example: `email-router crm add-queue Support support@example.com --makes-cases`

    Parameters
    ----------
    name
        As people know the queue.
    address
        The address of the mailbox, as in the settings.
    makes_cases
        Mail that belongs to no record yet makes a case.
    case_title
        Title of such a case; `{subject}` stands for the subject.
    """
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
    deployment: Deployment = "",
    common: Common = HERE,
) -> int:
    """A record with its email addresses, by which mail finds it.

    Example: `email-router crm add contact "Carla Mendes" carla@customer.example carla@home.example`

    Parameters
    ----------
    kind
        account, contact, lead, opportunity, case (incident), equipment or team.
    name
        What it is called.
    addresses
        Its email addresses.
    """
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        identifier = await crm.actions.add_record(_kind(kind), name, [_one(a) for a in addresses])
    return _made(kind, name, identifier, common)


def _made(kind: str, name: str, identifier: UUID, common: Common) -> int:
    if common.json:
        print_json({"id": identifier})
    else:
        say(f"{kind} {name}: {identifier}")
    return OK


@app.command
async def timeline(
    record: UUID | None = None, /, *, deployment: Deployment = "", limit: int = 50, common: Common = HERE
) -> int:
    """Email of a record (a case, a contact …), oldest first; of the whole organization without one.

    Parameters
    ----------
    record
        The id that `email-router crm cases` and the other lists show.
    limit
        The newest so many.
    """
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        rows = await crm.actions.timeline(record, limit)
    columns = ("created", "direction", "status", "sender", "recipients", "subject", "regarding", "id")
    print_rows(rows, columns, as_json=common.json, empty="There is no email yet.")
    return OK


@app.command
async def email(identifier: Activity, /, *, deployment: Deployment = "", common: Common = HERE) -> int:
    """One email activity, whole: parties, text, attachments, what it is regarding."""
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        found = await crm.actions.activity(identifier)
    if found is None:
        raise NeedsOperator(f"There is no email {identifier}", cure="email-router crm timeline")
    if common.json:
        print_json(found)
    else:
        print_facts({name: value for name, value in _readable(found).items() if value not in (None, "", [])})
    return OK


def _readable(found: Mapping[str, Any]) -> dict[str, Any]:
    """An activity in the order in which people read an email; all of it is in --json."""
    parties = found["parties"] or []
    people = {role: [_party(p) for p in parties if p["role"] == role] for role in ("from", "to", "cc", "bcc")}
    regarding = f"{_WORDS.get(found['regarding_type'], found['regarding_type'])} {found['regarding_name']}"
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


@app.command
async def send(
    *,
    sender: Annotated[str, Parameter(name="--from")],
    to: Sequence[str] = (),
    cc: Sequence[str] = (),
    bcc: Sequence[str] = (),
    subject: str = "",
    text: str = "",
    attach: Sequence[Path] = (),
    answers: UUID | None = None,
    regarding: UUID | None = None,
    deployment: Deployment = "",
    common: Common = HERE,
) -> int:
    """Write an email and send it as a user or queue.

    It goes to Pending Send; the router takes it from there, at once if it runs. The subject gets its tracking token,
    the headers its conversation.

    Example: `email-router crm send --from support@example.com --to carla@customer.example --subject Oven --text -`

    Parameters
    ----------
    sender
        Address of the user or queue.
    to
        Recipients, each as an address or `"Name" <address>`; may be given several times.
    cc
        Copies.
    bcc
        Blind copies: they are on no header.
    subject
        The subject.
    text
        The body; - reads it from standard input.
    attach
        Files to attach.
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
    found = {word: name for name, word in _WORDS.items()}.get(kind, kind)
    if found not in TYPES:
        types = ", ".join(_WORDS.get(name, name) for name in TYPES)
        raise NeedsOperator(f"{kind!r} is no type of record", cure=f"one of {types}")
    return found
