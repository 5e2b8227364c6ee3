"""Commands about mail: explain, import, undeliverable, outgoing, decisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from cyclopts import App, Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from email_router.admin import explain as explaining
from email_router.app import Router
from email_router.cli.common import DEFAULTS, HERE, LOOK, Common, crm_of, published, router
from email_router.cli.output import FAILED, OK, counted, err, print_facts, print_json, print_rows, say, warn
from email_router.incoming import flow
from email_router.model.errors import NeedsOperator, RouterError
from email_router.model.mailbox import FilterOption
from email_router.model.outgoing import SendState
from email_router.model.receipt import Outcome
from email_router.model.settings import MailboxSettings

undeliverable = App(
    name="undeliverable",
    group=LOOK,
    default_parameter=DEFAULTS,
    help="Messages that could not be filed: kept, shown, retried.",
)
outgoing = App(
    name="outgoing",
    group=LOOK,
    default_parameter=DEFAULTS,
    help="Mail on its way out: what waits, what failed, what is uncertain.",
)


def register(app: App) -> None:
    app.command(decisions, group=LOOK)
    app.command(explain, group=LOOK)
    app.command(undeliverable)
    app.command(outgoing)
    app.command(import_mail, name="import", group=LOOK)


async def explain(
    files: Annotated[Sequence[Path], Parameter(name="file")],
    /,
    *,
    mailbox: str = "",
    deployment: str = "",
    filter: FilterOption = FilterOption.ALL,
    common: Common = HERE,
) -> int:
    """What would be decided for messages, and why. Files nothing.

    Without --deployment no settings and no database are needed: the message is judged alone. With it, the
    deployment's CRM is asked, and the answer is the one that the running router would give.

    Exit code 1 when a file cannot be read; the others are explained.

    Example: `email-router explain --deployment contoso --mailbox support@example.com message.eml`

    Parameters
    ----------
    files
        Messages (RFC 5322) as files.
    mailbox
        The mailbox that received them; else their first recipient. With --deployment, one that is published.
    deployment
        The deployment whose CRM is asked.
    filter
        Which filter option the mailbox's user has; only without --deployment, for the CRM knows it.
    """
    failed = False
    async for file, found in _explained(files, mailbox, deployment, filter, common):
        if isinstance(found, Exception):
            failed = True
            cause = getattr(found, "strerror", None) or str(found) or type(found).__name__
            if common.json:
                print_json({"file": str(file), "error": cause})
            else:
                warn(Text.assemble((f"{file}: ", "bold"), (f"cannot be explained: {cause}", "red")))
        elif common.json:
            print_json(found.as_json())
        else:
            _show_explained(found)
    return FAILED if failed else OK


async def _explained(
    files: Sequence[Path], mailbox: str, deployment: str, option: FilterOption, common: Common
) -> AsyncIterator[tuple[Path, explaining.Explained | Exception]]:
    if not deployment:
        for file in files:
            try:
                yield file, explaining.alone(file, mailbox, option)
            except Exception as error:  # a file that is no file; never a traceback
                yield file, error
        return
    async with router(common) as made:
        crm = await crm_of(made, deployment)
        mailbox = published(await made.settings(), mailbox) if mailbox else ""
        for file in files:
            try:
                yield file, await explaining.asked(file, mailbox, deployment, crm.records, made.sent)
            except RouterError:
                raise
            except Exception as error:
                yield file, error


def _show_explained(found: explaining.Explained) -> None:
    email, verdict = found.email, found.verdict
    style = "bold green" if verdict.accept else "bold yellow"
    say(Text.assemble((f"{found.file}: ", "bold"), ("tracked" if verdict.accept else "not tracked", style),
                            f" ({verdict.reason.label})"))  # fmt: skip
    for line in verdict.why:
        say(Text(f"  {line}"))
    for line in verdict.losing:
        say(Text(f"  not taken: {line}", "bright_black"))
    facts: dict[str, Any] = {
        "from": [a.address for a in email.from_],
        "to": [a.address for a in email.to],
        "subject": email.subject,
        "message-id": email.message_id or "none; one is made from the identity",
        "identity": email.identity.hex(),
        "attachments": [f"{a.name} ({a.size:,} bytes)" for a in email.attachments],
        "repaired": [f"{d.code}: {d.detail}" for d in email.defects],
        "viewpoint": found.viewpoint,
    }
    print_facts({f"  {name}": value for name, value in facts.items() if value})


async def import_mail(path: Path, /, *, mailbox: str, since: str = "", common: Common = HERE) -> int:
    """Backfill old mail from a Maildir or a directory of *.eml files, with its original times.

    What was imported before is not imported again, so that an import that was broken off is simply run again. Nothing
    is changed in the directory. The router may run meanwhile. Exit code 1 when a message became undeliverable.

    Example: `email-router import --mailbox anna@example.com --since 2025-01-01 /home/anna/Maildir`

    Parameters
    ----------
    path
        The Maildir (with cur and new), or a directory of *.eml files.
    mailbox
        The published mailbox whose mail it is: its user or queue decides what is tracked.
    since
        Leave older mail alone: a date such as 2026-01-31.
    """
    async with router(common) as made:
        settings = await made.settings()
        target = settings.mailboxes[published(settings, mailbox)]
        report, total = await _import(made, path.absolute(), target, since, quiet=common.json)
    counts = {outcome.value: number for outcome, number in report.outcomes.items()}
    if common.json:
        print_json({"messages": report.messages, "older": report.older, **counts})
    else:
        say(_imported(report, total))
    return FAILED if counts.get("undeliverable") else OK


def _imported(report: flow.Report, total: int) -> str:
    if report.outcomes:
        words = ", ".join(f"{number:,} {outcome.value}" for outcome, number in sorted(report.outcomes.items()))
        return f"{counted(report.messages, 'message')}: {words}"
    if total:
        return f"Nothing new: {counted(total, 'message')}, imported before or older than asked for."
    return "There is no message there."


async def _import(
    made: Router, path: Path, mailbox: MailboxSettings, since: str, *, quiet: bool
) -> tuple[flow.Report, int]:
    try:
        threshold = datetime.fromisoformat(since).replace(tzinfo=UTC) if since else None
    except ValueError as error:
        raise NeedsOperator(f"{since!r} is no date", cure="write it as 2026-01-31") from error
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    report = flow.Report()
    async with made.backfill(path, mailbox, threshold) as backfill:
        with Progress(*columns, console=err, disable=quiet) as progress:
            bar = progress.add_task("importing", total=backfill.total)
            running = asyncio.create_task(backfill.run(report))
            try:
                while not running.done():
                    progress.update(bar, completed=report.messages)
                    await asyncio.wait((running,), timeout=0.2)
                await running
                progress.update(bar, completed=backfill.total)  # with what was imported before
                return report, backfill.total
            finally:  # Ctrl-C: what is begun ends before its mailbox and its database are closed
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


async def decisions(
    *,
    message_id: str = "",
    sender: str = "",
    subject: str = "",
    mailbox: str = "",
    outcome: Outcome | None = None,
    limit: int = 50,
    common: Common = HERE,
) -> int:
    """What was decided and why, newest first; every condition given must hold.

    One line for each message and deployment, and again when it was tried again. With --json the whole of it: all of
    the reasons, the candidates that were not taken, what was odd about the message.

    Example: `email-router decisions --sender carla@ --outcome not-tracked`

    Parameters
    ----------
    message_id
        The message's Message-ID, with or without angle brackets.
    sender
        A part of the sender's address; the whole of it for mail that was not tracked and is older than
        `keep_untracked_days`, of which only hashes are kept.
    subject
        A part of the subject; the whole of it where only hashes are kept.
    mailbox
        The mailbox's address.
    outcome
        What became of it. `vanished`: gone from the mailbox before it was read; `too-old`: from before the mailbox was
        added, where the server must be remembered of it (POP3).
    limit
        At most so many.
    """
    async with router(common) as made:
        rows = await made.decisions.search(
            message_id=message_id, sender=sender, subject=subject, mailbox=mailbox, outcome=outcome or "", limit=limit
        )
    if not common.json:
        rows = [row | {"why": str(row["why"]).partition("\n")[0]} for row in rows]
    columns = ("created", "mailbox", "sender", "subject", "outcome", "reason", "why")
    print_rows(rows, columns, as_json=common.json, empty="No decision fits.")
    return OK


@undeliverable.command(name="list")
async def undeliverable_list(*, common: Common = HERE) -> int:
    """What is undeliverable now, with its cause and the cure.

    Each message is kept whole, unless the mail server would not give it (size 0): then it still lies in its mailbox.
    Everything behind it was handled. Cure the cause, then retry.
    """
    async with router(common) as made:
        rows = await made.undeliverable.listing()
    columns = ("id", "created", "mailbox", "sender", "subject", "cause", "cure")
    print_rows(rows, columns, as_json=common.json, empty="Nothing is undeliverable.")
    return OK


@undeliverable.command(name="show")
async def undeliverable_show(
    identifier: Annotated[UUID, Parameter(name="id")], /, *, raw: bool = False, common: Common = HERE
) -> int:
    """One message with its cause, or its bytes.

    Example: `email-router undeliverable show --raw ID > message.eml`

    Parameters
    ----------
    identifier
        From `email-router undeliverable list`.
    raw
        The message itself, as it came, to standard output.
    """
    import sys

    async with router(common) as made:
        row = await made.undeliverable.show(identifier)
        if row is None:
            raise NeedsOperator(
                f"There is no undeliverable message {identifier}", cure="email-router undeliverable list"
            )
        if raw and not row["size"]:
            raise NeedsOperator(
                "This message could not be read, so that there are no bytes of it here",
                where=f"{row['mailbox']}, {row['folder']}",
                cure=row["cure"],
            )
        if raw:
            async for data in made.undeliverable.raw(identifier):
                sys.stdout.buffer.write(data)
            return OK
    if common.json:
        print_json(row)
    else:
        print_facts({name: value for name, value in row.items() if value not in (None, "")})
    return OK


@undeliverable.command(name="retry")
async def undeliverable_retry(
    identifiers: Annotated[Sequence[UUID], Parameter(name="id")] = (), /, *, all: bool = False, common: Common = HERE
) -> int:
    """Try these messages again at the router's next round, from the bytes that were kept.

    What fails again is listed again.

    Parameters
    ----------
    identifiers
        From `email-router undeliverable list`.
    all
        All that are open.
    """
    if not identifiers and not all:
        raise NeedsOperator("No message is named", cure="name ids from `email-router undeliverable list`, or use --all")
    async with router(common) as made:
        number = await made.undeliverable.retry(None if all else list(identifiers))
    if common.json:
        print_json({"retried": number})
    else:
        say(f"{counted(number, 'message')} will be tried again." if number else "None of these is open.")
    return OK if number else FAILED


@outgoing.command(name="list")
async def outgoing_list(*, every: bool = False, common: Common = HERE) -> int:
    """What waits, failed or is uncertain, and what the server said.

    States: `pending` waits for its first or next attempt; `failed` no recipient accepted it; `uncertain` it was handed
    over and the answer was never seen: look whether it arrived, then `email-router outgoing settle`; `sent`; `canceled`
    in the CRM before it was sent.

    Parameters
    ----------
    every
        Also what was sent and what was canceled.
    """
    states = [SendState.PENDING, SendState.UNCERTAIN, SendState.FAILED]
    async with router(common) as made:
        hold = await made.ledger.held()
        rows = await made.outgoing.listing(list(SendState) if every else states)
    if hold:
        waits = "What is written meanwhile waits in the CRM (email-router crm timeline)"
        warn(Text(f"Outgoing mail is held: {hold}. {waits}.", "bold red"))
    columns = ("id", "created", "sender", "recipients", "subject", "state", "attempts", "last_error")
    print_rows(rows, columns, as_json=common.json, empty="Nothing waits, nothing failed, nothing is uncertain.")
    return OK


@outgoing.command(name="settle")
async def outgoing_settle(
    identifier: Annotated[UUID, Parameter(name="id")],
    verdict: Literal["sent", "again", "failed"],
    /,
    *,
    common: Common = HERE,
) -> int:
    """Decide an uncertain email: was it sent, shall it be sent again, or has it failed?

    Look in the recipient's mailbox, in the log of your mail server (the Message-ID is in `--json`), or ask.

    Example: `email-router outgoing settle 01a21106-0fcd-75a6-8136-cde43c48c7e0 sent`

    Parameters
    ----------
    identifier
        From `email-router outgoing list`.
    verdict
        What you found, or want.
    """
    async with router(common) as made:
        done = await made.outgoing.settle(identifier, verdict)
    if not done:
        raise NeedsOperator(f"There is no uncertain email {identifier}", cure="email-router outgoing list")
    if common.json:
        print_json({"id": identifier, "verdict": verdict})
    else:
        say({"sent": "It counts as sent.", "again": "It will be sent again.", "failed": "It has failed."}[verdict])
    return OK


@outgoing.command(name="release")
async def outgoing_release(*, common: Common = HERE) -> int:
    """Let outgoing mail go again after a restore or on a new host. Make sure that the original does not run.

    Mail is held when an installation wakes up where it may be a copy: after `email-router restore`, or when the
    embedded database is started on another host. From now on this host is the one that is known. Its
    name is what `host` in router.toml says, if it says something: in a container it should.
    """
    async with router(common) as made:
        hold = await made.ledger.held()
        await made.installation.release(made.host)
    if common.json:
        print_json({"released": hold})
    else:
        say(f"Released: {hold}" if hold else "Nothing was held.")
    return OK
