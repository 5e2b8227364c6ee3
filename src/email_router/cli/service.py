"""Commands about the service: run, demo, status, mailboxes, test-access, backup, restore, doctor."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from cyclopts import App, Parameter
from rich.text import Text

from email_router import __version__
from email_router import demo as story
from email_router.app import CONNECTORS, Router, opened
from email_router.app.process import serve_without_end
from email_router.cli import publishing, secret
from email_router.cli.common import HERE, KEEP, LOOK, SERVE, Common, published, router
from email_router.cli.output import (
    FAILED,
    NEEDS_OPERATOR,
    OK,
    counted,
    err,
    print_facts,
    print_json,
    print_rows,
    say,
    warn,
)
from email_router.cli.publishing import tell_nobodys
from email_router.model.errors import TO_CURE, RouterError
from email_router.model.settings import Credentials, Settings
from email_router.observe import maillog
from email_router.ports.mail import ProbeStep, SourceContext
from email_router.web.status import CALM, PROFILES, as_json, is_private, served, troubles


def register(app: App) -> None:
    for setting_up in (demo, publishing.publish, test_access, doctor, run):
        app.command(setting_up, group=SERVE)
    app.command(publishing.revisions)
    app.command(secret.app)
    for looking in (status, mailboxes):
        app.command(looking, group=LOOK)
    for keeping in (backup, restore):
        app.command(keeping, group=KEEP)


async def run(*, common: Common = HERE) -> int:
    """Serve all published mailboxes until SIGTERM or Ctrl-C; then finish what is begun and end.

    The log goes to standard error, one line per message and per change of a mailbox's state; in JSON with `--json`
    or `log = "json"` in router.toml. A status page is served where `listen` says (127.0.0.1:8025). What is published
    while it runs counts at once. Without published settings it runs and waits for some.
    """
    bootstrap = common.bootstrap()
    maillog.configure("json" if common.json else bootstrap.log)
    serve_without_end()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with opened(bootstrap) as made:
        settings = await made.settings()
        if settings.revision:
            mailboxes = counted(len(settings.mailboxes), "mailbox", "mailboxes")
            warn(f"Email Router {__version__} serves {mailboxes} (revision {settings.revision}).")
        else:
            warn(f"Email Router {__version__} waits for settings: email-router publish settings.toml")
        await tell_nobodys(made)
        hold = await made.ledger.held()
        if hold:
            warn(Text(f"Outgoing mail is held: {hold}. To let it go: email-router outgoing release", "bold red"))
        await _run_with_page(made, bootstrap.listen, stop)
    return OK


async def _run_with_page(made: Router, listen: str, stop: asyncio.Event) -> None:
    if not listen:
        await made.run(stop)
        return
    try:
        page = served(made.snapshot, made.alive, listen)
        address = await page.__aenter__()
    except (OSError, ValueError) as error:
        warn(Text(f"No status page: {listen} cannot be listened on ({error}). Correct `listen`.", "red"))
        await made.run(stop)
        return
    warn(f"Status page: {address}")
    if not is_private(urlsplit(address).hostname or ""):
        what = "the status page can be reached from other machines, and asks nobody for a password"
        warn(Text(f'warning: {what} - to cure it: listen = "127.0.0.1:8025", and a proxy that asks for one', "yellow"))
    try:
        await made.run(stop)
    finally:
        await page.__aexit__(None, None, None)


async def demo(*, once: bool = False) -> int:
    """Play a story on a complete local system: mail crosses the wire, is tracked, and an answer goes out.

    Everything runs on this machine, on free ports of 127.0.0.1 and in a directory that is removed afterwards: a small
    mail system, the embedded CRM, the router and its status page. After the story it stays up until Ctrl-C.

    Parameters
    ----------
    once
        End after the story, with exit code 0 only if each step was verified.
    """
    return await story.run(once=once)


async def status(*, common: Common = HERE) -> int:
    """How the router is: what was received and sent, what waits. Exit code 1 when something needs attention.

    Attention is needed when no router runs, when a mailbox or a profile has a problem, when outgoing mail is held, when
    a message is undeliverable, and when an email is uncertain. Each is told with its cure on standard error; in JSON,
    `attention` lists them. Works beside a running router, and without one.
    """
    async with router(common) as made:
        now = await made.snapshot()
    wrong = troubles(now)
    if common.json:
        print_json(as_json(now))
    else:
        print_facts(
            {
                "settings": f"revision {now.revision}" if now.revision else "none published",
                "routers": f"{now.routers} running" if now.routers else "none runs",
                "mailboxes": _how_many(now.mailboxes, profiles=False),
                "profiles": _how_many(now.mailboxes, profiles=True),
                "received in 24 h": _listed(now.outcomes),
                "undeliverable now": now.undeliverable_open,
                "sent in 24 h": _listed({name: n for name, n in now.outgoing.items() if name not in _NOW}),
                **{f"{name} now": now.outgoing.get(name, 0) for name in _NOW},
                "outgoing hold": now.hold or "no",
            }
        )
        for trouble in wrong:
            warn(Text(trouble.what, "red"))
            warn(Text(f"    to cure it: {trouble.cure}"))
    return FAILED if wrong else OK


_NOW = ("pending", "uncertain")
"""States of outgoing mail that are counted however old it is."""


def _listed(numbers: Mapping[str, int]) -> str:
    """The largest first."""
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    return ", ".join(f"{number:,} {name}" for name, number in ordered if number) or "nothing"


def _how_many(rows: Sequence[dict[str, Any]], *, profiles: bool) -> str:
    mine = [m for m in rows if m["name"].startswith(PROFILES) is profiles]
    bad = [m for m in mine if m["state"] not in CALM]
    return f"{len(mine)}, {len(bad) or 'none'} with a problem" if mine else "none"


async def mailboxes(*, common: Common = HERE) -> int:
    """Each mailbox and each profile in use with its state, when it was last looked at, and what is open.

    States: `new` not looked at yet, or nothing pushed into it yet; `ok`; `away` its server cannot be reached, tried
    again by itself; `needs operator` somebody must act, as the error says, tried again ever more gently; `broken` a
    fault of the router, see the log; `disabled` by the settings; `not read` since no incoming profile is set.
    `waiting` counts messages seen without an outcome yet, `older` those from before the mailbox was added
    (`email-router import` files them), `lag seconds` is the time from delivery to outcome.
    """
    async with router(common) as made:
        rows = await made.listing()
    columns = ("name", "state", "polled", "waiting", "older", "lag_seconds", "error")
    print_rows(rows, columns, as_json=common.json, empty="No mailbox is published yet: email-router publish FILE")
    return OK


async def test_access(
    names: Annotated[Sequence[str], Parameter(name="mailbox")] = (), /, *, common: Common = HERE
) -> int:
    """Test Access: prove step by step that mailboxes can be received from and sent for. Changes nothing.

    Each step tells what was tried, what the server said, and the cure. Exit code 1 when one failed.

    Example: `email-router test-access anna@example.com`

    Parameters
    ----------
    names
        Addresses of mailboxes; all of them when none is named.
    """
    async with router(common) as made:
        settings = await made.settings()
        wanted = list(names) or list(settings.mailboxes)
        failed = False
        for name in wanted:
            name = published(settings, name)
            for direction, steps in _probes(made, settings, name):
                async for step in steps:
                    failed = failed or not step.ok
                    _show_step(name, direction, step, as_json=common.json)
    return FAILED if failed else OK


def _probes(made: Router, settings: Settings, name: str) -> list[tuple[str, AsyncIterator[ProbeStep]]]:
    mailbox = settings.mailboxes[name]
    found: list[tuple[str, AsyncIterator[ProbeStep]]] = []
    incoming = settings.incoming.get(mailbox.incoming_profile)
    if incoming is not None:
        probe = CONNECTORS[incoming.kind].probe_source
        if probe is not None:
            folder = mailbox.folder or str(getattr(incoming.server, "folder", "")) or "INBOX"
            login = made.login(mailbox.credentials, incoming.credentials, name)
            context = SourceContext(name, folder, login, mailbox.threshold, made.spool)
            found.append(("incoming", probe(incoming.server, context).probe()))
    outgoing = settings.outgoing.get(mailbox.outgoing_profile)
    if outgoing is not None:
        send_probe = CONNECTORS[outgoing.kind].probe_sender
        if send_probe is not None:
            login = made.login(Credentials(), outgoing.credentials, f"outgoing profile {outgoing.name}")
            found.append(("outgoing", send_probe(outgoing.server, login).probe()))
    return found


def _show_step(name: str, direction: str, step: ProbeStep, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "mailbox": name,
                "direction": direction,
                "step": step.name,
                "ok": step.ok,
                "tried": step.tried,
                "said": step.said,
                "cure": step.cure,
            }
        )
        return
    mark = ("ok    ", "green") if step.ok else ("FAILED", "bold red")
    say(Text.assemble(mark, f" {name} {direction}: {step.tried}", (f"  {step.said}", "bright_black")))
    if step.cure:
        say(Text(f"       to cure it: {step.cure}"))


async def backup(file: Path, /, *, common: Common = HERE) -> int:
    """Write the whole database to one file. Stored secrets stay sealed: keep the key, which is not in it.

    The router may run meanwhile. A router with the embedded database also makes one each day by itself, in `backups`
    of its data directory, and keeps seven.

    Parameters
    ----------
    file
        Where to; it appears when it is whole. Only this user can read it: there is mail in it.
    """
    async with router(common) as made:
        with err.status("Writing the backup …"):
            manifest = await made.backup(file.absolute())
    if common.json:
        print_json(manifest | {"file": str(file), "bytes": file.stat().st_size})
        return OK
    say(f"{file}: {file.stat().st_size:,} bytes, taken {manifest['taken']}")
    if manifest["secrets"]:
        kept = counted(manifest["secrets"], "stored secret")
        say(f"Only the key {manifest['key'] or 'that they were sealed with'} opens its {kept}; the key is not in it.")
    return OK


async def restore(file: Path, /, *, replace: bool = False, common: Common = HERE) -> int:
    """Put a backup into this installation. Outgoing mail is held afterwards, and what was waiting is uncertain.

    The original may have sent mail since the backup was taken: settle the uncertain emails (`email-router outgoing
    list`), then let mail go (`email-router outgoing release`). The router must not run meanwhile.

    Parameters
    ----------
    file
        What `email-router backup` wrote.
    replace
        Throw away what the database holds now; without it only an installation without settings is restored into.
    """
    bootstrap = common.bootstrap()
    async with opened(bootstrap) as made:  # not beside a running router: it would go on with what it knows
        with err.status("Restoring …"):
            manifest, uncertain = await made.restore(file.absolute(), replace=replace)
    if common.json:
        print_json(manifest | {"uncertain": uncertain})
        return OK
    say(f"Restored the backup of {manifest['taken']} (from {manifest['host']}).")
    say("Outgoing mail is held: the original may have sent mail since. Make sure that it does not run any more,")
    settle = f"settle {counted(uncertain, 'uncertain email')} (email-router outgoing list), " if uncertain else ""
    say(f"{settle}then let mail go: email-router outgoing release")
    return OK


async def doctor(*, common: Common = HERE) -> int:
    """Look for what is wrong with this installation, and say the cure.

    Checks Python, disk, rights, database, settings, outgoing hold, that every password can be read, that the CRM knows
    whose each mailbox is, and the state of each mailbox. Exit code 3 when something is wrong. It contacts no mail
    server: `email-router test-access` does.
    """
    bootstrap = common.bootstrap()
    checks: list[dict[str, Any]] = []

    def note(name: str, ok: bool, found: str, cure: str = "") -> None:
        checks.append({"check": name, "ok": ok, "found": found, "cure": "" if ok else cure})

    version = ".".join(map(str, sys.version_info[:3]))
    note("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")
    place = bootstrap.data_directory
    parent = next(p for p in (place, *place.parents) if p.exists())
    free = shutil.disk_usage(parent).free
    note("disk", free > 1 << 30, f"{free >> 20:,} MB free for {place}", "free at least 1 GB")
    may = os.access(parent, os.W_OK)
    found = f"{parent} may {'' if may else 'not '}be written"
    note("rights", may, found, f"give this user the right to write {parent}")
    try:
        async with router(common) as made:
            note("database", True, "embedded" if not bootstrap.dsn else "shared")
            await _check_router(made, note)
    except RouterError as error:
        note("database", False, error.what + (f': "{error.said}"' if error.said else ""), error.cure)
    for check in checks:
        if common.json:
            print_json(check)
        else:
            mark = ("ok    ", "green") if check["ok"] else ("FAILED", "bold red")
            say(Text.assemble(mark, f" {check['check']}: {check['found']}"))
            if check["cure"]:
                say(Text(f"       to cure it: {check['cure']}"))
    return OK if all(check["ok"] for check in checks) else NEEDS_OPERATOR


async def _check_router(made: Router, note: Any) -> None:
    settings = await made.settings()
    revision = f"revision {settings.revision}" if settings.revision else "none are published"
    note("settings", settings.revision > 0, revision, "email-router publish settings.toml")
    hold = await made.ledger.held()
    note("outgoing", not hold, hold or "not held", "email-router outgoing release")
    kept = settings.incoming.values(), settings.outgoing.values(), settings.mailboxes.values()
    references = {p.credentials.secret for group in kept for p in group if p.credentials.secret}
    for reference in sorted(references):
        try:
            await made.login(Credentials("x", reference), Credentials(), "doctor").secret()
            note(f"secret {reference}", True, "can be read")
        except RouterError as error:
            note(f"secret {reference}", False, error.what, error.cure)
    for deployment, address in await made.nobodys():
        cure = f"email-router crm add-user NAME {address}, or add-queue, with --deployment {deployment}"
        note(f"owner of {address}", False, f"it is no user's and no queue's mailbox in deployment {deployment}", cure)
    for mailbox in await made.listing():
        what, _, cure = str(mailbox["error"]).partition(TO_CURE)
        found = f"{mailbox['state']}: {what}" if what else mailbox["state"]
        note(mailbox["name"], mailbox["state"] in CALM, found, cure or "email-router test-access shows more")
