"""Commands about the settings: publish, and the revisions that were published."""

from __future__ import annotations

import getpass
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.text import Text

from email_router.app import KINDS, Router
from email_router.cli.common import DEFAULTS, HERE, SERVE, Common, router
from email_router.cli.output import FAILED, OK, print_json, print_rows, say, warn
from email_router.model.errors import NeedsOperator, said_by
from email_router.model.settings import Settings
from email_router.settings.difference import difference
from email_router.settings.problems import Invalid
from email_router.settings.read import read as read_settings

revisions = App(
    name="revisions",
    group=SERVE,
    default_parameter=DEFAULTS,
    help="The settings that were published: kept, shown, published again.",
)
Yes = Annotated[bool, Parameter(alias="-y")]
IN_A_LINE = 5
"""Changes of a revision that a list shows."""


async def publish(file: Path, /, *, yes: Yes = False, check: bool = False, common: Common = HERE) -> int:
    """Validate a settings file, show what it changes, and make it the active revision.

    Errors name the line and the cure, and nothing is changed. A running router follows at once. At a terminal it asks
    before it publishes; in a pipe it does not. Where nothing changes, nothing is published.

    Example: `email-router publish --check settings.toml`

    Parameters
    ----------
    file
        All settings as one TOML file; docs/settings.md lists each.
    yes
        Do not ask.
    check
        Only validate and show the difference.
    """
    text = _settings_text(file)
    new = _valid(text, str(file))
    async with router(common) as made:
        return await _offer(made, new, text, str(file), yes=yes, check=check, as_json=common.json)


def _valid(text: str, name: str) -> Settings:
    """What the settings say; warnings are told. Raises Invalid."""
    new, warnings = read_settings(text, KINDS, file=name)
    for warning in warnings:
        warn(Text(f"warning: {warning}", "yellow"))
    return new


async def _offer(
    made: Router, new: Settings, text: str, name: str, *, yes: bool, check: bool = False, as_json: bool
) -> int:
    """Show what these settings change, ask, and make them the active revision; the exit code."""
    active = await made.revisions.active()
    try:
        old = await made.settings() if active else None
    except Invalid as error:  # of another release: what cures it is to publish
        warn(Text(f"The active revision {active} cannot be read by this release: {error}", "yellow"))
        old = None
    changes = difference(old, new)
    if not as_json:
        for change in changes:
            say(Text(f"  {change}"))
    if check:
        if as_json:
            print_json({"changes": list(changes)})
        else:
            say("These settings may be published. Nothing was changed." if changes else "Nothing changes.")
        return OK
    if changes and not yes and sys.stdin.isatty() and not _confirmed("Publish this?"):
        warn("Nothing was published.")
        return FAILED
    number = active
    if changes or old is None:
        number, _ = await made.publish(text, _who(), name)
    if as_json:
        print_json({"revision": number, "changes": list(changes)})
    else:
        say(f"Revision {number} is active." if changes else f"Nothing changes: revision {number} stays active.")
    await tell_nobodys(made)
    return OK


@revisions.command(name="list")
async def revisions_list(*, limit: int = 20, common: Common = HERE) -> int:
    """What was published, newest first: when, by whom, from which file, and what it changed, in words.

    A list shows the first five changes of each revision; `email-router revisions show --changes 3` all of them, and so
    does --json. The one that is active is marked.

    Parameters
    ----------
    limit
        At most so many.
    """
    async with router(common) as made:
        rows = await made.revisions.listing(limit + 1)
    found = [row | {"changes": changes} for row, changes in zip(rows, _changes(rows), strict=True)][:limit]
    for row in found:
        del row["source"]
        if not common.json:
            row["changes"] = _in_a_line(row["changes"])
            row["active"] = "active" if row["active"] else ""
    columns = ("number", "created", "who", "comment", "active", "changes")
    print_rows(found, columns, as_json=common.json, empty="Nothing is published yet: email-router publish FILE")
    return OK


@revisions.command(name="show")
async def revisions_show(number: int, /, *, changes: bool = False, common: Common = HERE) -> int:
    """The text of a revision, as it was published; or what it changed. With --json both.

    Example: `email-router revisions show 3 > settings.toml`

    Parameters
    ----------
    number
        From `email-router revisions list`.
    changes
        What it changed against the revision before it, one line each.
    """
    async with router(common) as made:
        rows = await made.revisions.listing(2, number)
    row = _known(rows, number)
    words = _changes(rows)[0]
    if common.json:
        print_json(row | {"changes": words})
    elif changes:
        for change in words:
            say(Text(change))
    else:
        sys.stdout.buffer.write(row["source"].encode())
    return OK


@revisions.command(name="revert")
async def revisions_revert(number: int, /, *, yes: Yes = False, common: Common = HERE) -> int:
    """Publish the text of an earlier revision again, as a new one: validated, shown as a difference, active at once.

    Nothing is deleted: what was active meanwhile stays in the list, and may be gone back to as well. Stored passwords
    are as they are now, for they are in no revision.

    Example: `email-router revisions revert 3`

    Parameters
    ----------
    number
        From `email-router revisions list`.
    yes
        Do not ask.
    """
    async with router(common) as made:
        text = _known(await made.revisions.listing(1, number), number)["source"]
        name = f"revision {number}"
        return await _offer(made, _valid(text, name), text, name, yes=yes, as_json=common.json)


def _known(rows: list[dict[str, Any]], number: int) -> dict[str, Any]:
    """The first of these rows, if it is the revision of this number. Raises NeedsOperator."""
    if not rows or rows[0]["number"] != number:
        raise NeedsOperator(f"There is no revision {number}", cure="email-router revisions list")
    return rows[0]


def _changes(rows: list[dict[str, Any]]) -> list[list[str]]:
    """What each of these revisions, newest first, changed against the next; the last against nothing."""
    settings = [_readable(row) for row in rows]
    found: list[list[str]] = []
    for row, new, old in zip(rows, settings, [*settings, None][1:], strict=True):
        if new is None or (old is None and row is not rows[-1]):
            found.append(["this release cannot read it, or the one before it"])
        else:
            found.append(list(difference(old, new)))
    return found


def _readable(row: dict[str, Any]) -> Settings | None:
    """Settings of an older release may be no valid ones any more."""
    try:
        return read_settings(row["source"], KINDS, file=f"revision {row['number']}")[0]
    except Invalid:
        return None


def _in_a_line(changes: list[str]) -> str:
    more = len(changes) - IN_A_LINE
    return "; ".join([*changes[:IN_A_LINE], *([f"and {more:,} more"] if more > 0 else [])])


def _settings_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NeedsOperator(
            "The settings file is no UTF-8 text", where=str(file), said=said_by(error), cure="save it as UTF-8"
        ) from error
    except OSError as error:
        raise NeedsOperator(
            f"The settings file cannot be read: {error.strerror}",
            where=str(file),
            cure="correct the path or its rights",
        ) from error


def _who() -> str:
    """Whom the revision is from. A container's user often has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _confirmed(question: str) -> bool:
    """Only a plain yes is one; the end of the input is a no, and Ctrl-C ends the command at once."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the event loop's waits for the loop
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
    finally:
        signal.signal(signal.SIGINT, before)


async def tell_nobodys(made: Router) -> None:
    for deployment, address in await made.nobodys():
        what = f"{address} is no user's and no queue's mailbox in deployment {deployment}: its mail will not be tracked"
        warn(Text(f"warning: {what} - to cure it: email-router crm add-user NAME {address}, or add-queue", "yellow"))
