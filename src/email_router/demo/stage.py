"""Everything that the story needs, in one process and one directory: a mail system, a CRM, a router, its page.

What may fail: a port or the directory cannot be had; the error says so and nothing stays running.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from email_router.app import Crm, Router, opened
from email_router.demo.mailsystem import MailSystem, User
from email_router.demo.messages import ANNA, BOB, CARLA, DANIEL, DOMAINS, JÜRGEN, PEOPLE, REFUSED_BY_CRM, SUPPORT
from email_router.model.errors import Permanent
from email_router.model.evidence import RecordRef
from email_router.model.filing import FilingItem, FilingResult, NotFiled
from email_router.model.ids import new_id
from email_router.model.mailbox import FilterOption, MailboxKind, Receiver
from email_router.model.receipt import Term
from email_router.ports.crm import Filing
from email_router.settings.bootstrap import Bootstrap
from email_router.web.status import served

ORGANIZATION = "Contoso"
SERVICE = "router@contoso.example"
PATIENCE = 30.0
"""Seconds within which each thing of the story must have happened."""

SETTINGS = """\
# The settings of the demo, as an administrator would publish them.
[deployment.contoso]
organization = "Contoso"
incoming_profile = "imap"
outgoing_profile = "smtp"

[incoming.imap]
kind = "imap"
host = "127.0.0.1"
port = {imap}
ca_file = "{ca}"
username = "{{address}}"
password = "file:{passwords}/mailboxes"
poll_seconds = 5

[incoming.pop3]
kind = "pop3"
host = "127.0.0.1"
port = {pop3}
ca_file = "{ca}"
username = "{{address}}"
password = "file:{passwords}/mailboxes"
poll_seconds = 1

[outgoing.smtp]
kind = "smtp"
host = "127.0.0.1"
port = {smtp}
ca_file = "{ca}"
username = "router@contoso.example"
password = "file:{passwords}/service"

[mailbox."support@contoso.example"]
kind = "queue"

[mailbox."anna.lindholm@contoso.example"]
incoming_profile = "pop3"

[mailbox."bob.achebe@contoso.example"]
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the steps of the story play on."""

    mail: MailSystem
    router: Router
    crm: Crm
    page: str

    async def until(self, found: Callable[[], Awaitable[Any]], what: str) -> Any:
        """The first answer of `found` that is true. Raises TimeoutError that names `what`."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not (answer := await found()):  # noqa: ASYNC110 - the database cannot wake us
                    await asyncio.sleep(0.05)
                return answer
        except TimeoutError:
            raise TimeoutError(f"{what} did not happen within {PATIENCE:g} s") from None

    async def decisions(self, message_id: str, number: int = 1) -> list[dict[str, Any]]:
        """The decisions on a message, as soon as there are so many, oldest first."""

        async def found() -> list[dict[str, Any]]:
            rows = await self.router.decisions.search(message_id=message_id)
            return rows if len(rows) >= number else []

        rows: list[dict[str, Any]] = await self.until(found, f"a decision on {message_id}")
        return list(reversed(rows))

    async def activity(self, decision: dict[str, Any]) -> dict[str, Any]:
        found = await self.crm.actions.activity(decision["activity"])
        if found is None:
            raise LookupError(f"the CRM has no activity {decision['activity']}")
        return found


class Refusing:
    """The demo's CRM will not take messages that ask for it: how it looks when a CRM fails on one message."""

    def __init__(self, filing: Filing) -> None:
        self._filing = filing

    async def file(self, items: Sequence[FilingItem], term: Term) -> Sequence[FilingResult]:
        good = [item for item in items if item.incoming.email.header(REFUSED_BY_CRM) != "refuse"]
        filed = iter(await self._filing.file(good, term) if good else ())
        error = Permanent(
            "The CRM refuses this message",
            said=f"a plug-in of the demo does not take {REFUSED_BY_CRM}: refuse",
            cure="switch the plug-in off, then retry the message",
        )
        return [NotFiled(error) if item not in good else next(filed) for item in items]

    async def join(self, copies: Sequence[tuple[UUID, str]], term: Term) -> None:
        await self._filing.join(copies, term)

    async def relink(self, activity: UUID, record: RecordRef) -> None:
        await self._filing.relink(activity, record)


@asynccontextmanager
async def built(directory: Path) -> AsyncIterator[Stage]:
    """The whole system on `directory`, running."""
    password, service = secrets.token_urlsafe(12), secrets.token_urlsafe(12)
    users = [User(person.address, password) for person in PEOPLE] + [User(SERVICE, service, sends_as_all=True)]
    passwords = directory / "passwords"
    passwords.mkdir(mode=0o700)
    (passwords / "mailboxes").write_text(password)
    (passwords / "service").write_text(service)
    async with AsyncExitStack() as stack:
        mail = await stack.enter_async_context(MailSystem(DOMAINS, users, directory))
        router = await stack.enter_async_context(opened(Bootstrap(data=str(directory / "data"))))
        router.filing_through = Refusing
        text = SETTINGS.format(
            imap=mail.imap_port, pop3=mail.pop3_port, smtp=mail.smtp_port, ca=mail.ca_file, passwords=passwords
        )
        await router.publish(text, "demo", "the demo's settings")
        settings = await router.settings()
        crm = await router.crm(settings.deployments["contoso"])
        await _people(crm)
        page = await stack.enter_async_context(served(router.snapshot, router.alive, "127.0.0.1:8025"))
        stop = asyncio.Event()
        running = asyncio.create_task(router.run(stop))
        stack.push_async_callback(_ended, running, stop)
        yield Stage(mail, router, crm, page)


async def _ended(running: asyncio.Task[None], stop: asyncio.Event) -> None:
    stop.set()
    await running


async def _people(crm: Crm) -> None:
    """The company of the story: a queue that makes cases, two users, three customers."""
    actions = crm.actions
    await actions.add_receiver(
        Receiver(
            new_id(),
            MailboxKind.QUEUE,
            SUPPORT.name,
            SUPPORT.address,
            filter_option=FilterOption.ALL,
            makes_cases=True,
        )
    )
    known = FilterOption.FROM_LEADS_CONTACTS_ACCOUNTS
    await actions.add_receiver(Receiver(new_id(), MailboxKind.USER, ANNA.name, ANNA.address, filter_option=known))
    replies = FilterOption.IN_RESPONSE
    await actions.add_receiver(Receiver(new_id(), MailboxKind.USER, BOB.name, BOB.address, filter_option=replies))
    fabrikam = await actions.add_record("account", "Fabrikam Bakeries", ["office@fabrikam.example"])
    for person in (CARLA, DANIEL):
        await actions.add_record("contact", person.name, [person.address], customer=fabrikam)
    northwind = await actions.add_record("account", "Northwind Bakeries")
    await actions.add_record("contact", JÜRGEN.name, [JÜRGEN.address], customer=northwind)
