"""`email-router crm`: users, queues and records of the embedded CRM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal
from uuid import UUID

from cyclopts import App, Parameter

from email_router.app import Crm
from email_router.cli.common import CUSTOMERS, DEFAULTS, HERE, Common, Deployment, crm_of, router
from email_router.cli.output import OK, print_json, print_rows, say
from email_router.crm.embedded import organization
from email_router.crm.embedded.actions import TYPES
from email_router.model.errors import NeedsOperator
from email_router.model.evidence import WORDS, word_for
from email_router.model.ids import new_id
from email_router.model.mailbox import AccessMethod, Approval, FilterOption, MailboxKind, Receiver

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
Sends = Annotated[bool, Parameter(name="--send", negative="--no-send", help="Whether its mail goes out by the router.")]
Enabled = Annotated[bool, Parameter(name="--enable", negative="--disable", help="Whether it is in use.")]
Approved = Annotated[
    bool,
    Parameter(
        name="--approve",
        negative="--no-approve",
        help="Whether the address is approved: without that nothing is tracked or sent, unless the deployment's "
        "settings say `approved_users_only = false` (or `approved_queues_only`).",
    ),
]

_TYPES = {word: name for name, word in WORDS.items()}
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
    print_rows(rows, columns, as_json=common.json, empty=f"There is no {word_for(kind)} here.")
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
    approve: Approved = True,
    send: Sends = True,
    enable: Enabled = True,
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
    """
    user = Receiver(
        new_id(),
        MailboxKind.USER,
        name,
        an_address(address),
        _incoming(forward_mailbox),
        _outgoing(send),
        _approval(approve),
        filter,
        enabled=enable,
    )
    return await _add_receiver(user, deployment, common)


@app.command(name="add-queue")
async def add_queue(
    name: str,
    address: str,
    /,
    *,
    filter: Filter = FilterOption.ALL,
    makes_cases: bool = False,
    machines_make_cases: bool = False,
    case_title: str = "{subject}",
    case_priority: Literal["high", "normal", "low"] = "normal",
    owner: str = "",
    forward_mailbox: Forwarded = False,
    approve: Approved = True,
    send: Sends = True,
    enable: Enabled = True,
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
    machines_make_cases
        Also automatic messages and list mail do, of monitors, shops and forms. Automatic replies and bounces never.
    case_title
        Title of such a case; `{subject}` stands for the subject, `{sender}` for the sender's address.
    case_priority
        Priority of such a case.
    owner
        Address of the user who owns what is filed for the queue, and its cases.
    """
    queue = Receiver(
        new_id(),
        MailboxKind.QUEUE,
        name,
        an_address(address),
        _incoming(forward_mailbox),
        _outgoing(send),
        _approval(approve),
        filter,
        enabled=enable,
        makes_cases=makes_cases,
        machines_make_cases=machines_make_cases,
        case_title=case_title,
        case_priority={"high": 1, "normal": 2, "low": 3}[case_priority],
    )
    return await _add_receiver(queue, deployment, common, owner)


def _incoming(forward_mailbox: bool) -> AccessMethod:
    return AccessMethod.FORWARD_MAILBOX if forward_mailbox else AccessMethod.ROUTER


def _outgoing(send: bool) -> AccessMethod:
    return AccessMethod.ROUTER if send else AccessMethod.NONE


def _approval(approve: bool) -> Approval:
    return Approval.APPROVED if approve else Approval.PENDING


async def _add_receiver(receiver: Receiver, deployment: str, common: Common, owner: str = "") -> int:
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        if owner:
            receiver = replace(receiver, owner=await _user(crm, owner))
        identifier = await crm.actions.add_receiver(receiver)
    return told(receiver.kind.value, receiver.name, identifier, common)


async def _user(crm: Crm, address: str) -> UUID:
    for known in await crm.directory.receivers():
        if known.kind is MailboxKind.USER and known.address.casefold() == address.casefold():
            return known.id
    raise NeedsOperator(f"There is no user {address}", cure="email-router crm users")


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
        identifier = await crm.actions.add_record(_kind(kind), name, [an_address(a) for a in addresses])
    return told(kind, name, identifier, common)


@app.command(name="change")
async def change(
    record: str,
    /,
    *,
    name: str = "",
    address: Sequence[str] | None = None,
    enable: Annotated[bool | None, Parameter(name="--enable", negative="--disable")] = None,
    deployment: Deployment = "",
    common: Common = HERE,
) -> int:
    """Change a record; what is not named stays as it is.

    Parameters
    ----------
    record
        The id that the lists show, or a case's ticket number.
    name
        What it is called from now on.
    address
        All of its addresses from now on; may be given several times.
    enable
        Whether it is in use. Of several records with a sender's address those in use come first.
    """
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        addresses = [an_address(a) for a in address] if address is not None else None
        identifier = await crm.actions.record(record)
        await crm.actions.change_record(identifier, name=name, addresses=addresses, active=enable)
    return told("changed", name, identifier, common)


def told(kind: str, name: str, identifier: UUID, common: Common) -> int:
    if common.json:
        print_json({"id": identifier})
    else:
        say(f"{kind} {name}".rstrip() + f": {identifier}")
    return OK


def an_address(value: str) -> str:
    if "@" not in value:
        raise NeedsOperator(f"{value!r} is no email address", cure="write name@example.com")
    return value


def _kind(kind: str) -> str:
    found = _TYPES.get(kind, kind)
    if found not in TYPES:
        types = ", ".join(map(word_for, TYPES))
        raise NeedsOperator(f"{kind!r} is no type of record", cure=f"one of {types}")
    return found
