"""A router with its database as in production (fsync on), in a process of its own: what the benchmarks measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from email_router.app import Crm, Router, opened
from email_router.app.process import serve_without_end
from email_router.model.ids import new_id
from email_router.model.mailbox import FilterOption, MailboxKind, Receiver
from email_router.model.receipt import Term
from email_router.observe import maillog
from email_router.settings.bootstrap import Bootstrap
from email_router.store.shards import Shards
from email_router.work.shard import shard_of
from email_router.work.units import Unit

PASSWORD = "BENCH_PASSWORD"
"""The environment variable with the mailboxes' password."""

SETTINGS = """\
[deployment.bench]
organization = "Bench"
incoming_profile = "in"
outgoing_profile = "out"

[incoming.in]
kind = "{kind}"
host = "127.0.0.1"
port = {incoming}
tls = "none"
username = "{{address}}"
password = "env:BENCH_PASSWORD"

[outgoing.out]
kind = "smtp"
host = "127.0.0.1"
port = {outgoing}
tls = "none"
connections = {connections}
"""
MAILBOX = """
[mailbox."{address}"]
kind = "queue"
threshold = 1980-01-01T00:00:00Z
"""


@asynccontextmanager
async def installed(
    directory: Path,
    addresses: Sequence[str],
    *,
    kind: str = "imap",
    incoming: int = 143,
    outgoing: int = 25,
    connections: int = 5,
) -> AsyncIterator[tuple[Router, Crm]]:
    """A router on a new database; each address is a queue that takes all email messages.

    Raises SystemExit when the database would not write through to the disk: nothing measured would count.
    """
    maillog.configure("json")  # to standard error, as it runs in production
    serve_without_end()
    async with opened(Bootstrap(data=str(directory / "data"), listen="")) as router:
        await _must_be_durable(router)
        text = SETTINGS.format(kind=kind, incoming=incoming, outgoing=outgoing, connections=connections)
        text += "".join(MAILBOX.format(address=address) for address in addresses)
        await router.publish(text, "bench", "settings.toml")
        crm = await router.crm((await router.settings()).deployments["bench"])
        for address in addresses:
            name = address.partition("@")[0]
            receiver = Receiver(new_id(), MailboxKind.QUEUE, name, address, filter_option=FilterOption.ALL)
            await crm.actions.add_receiver(receiver)
        yield router, crm


async def _must_be_durable(router: Router) -> None:
    async with router.engine.connect() as db:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            value = (await db.exec_driver_sql(f"SHOW {name}")).scalar_one()
            if value != "on":
                raise SystemExit(f"PostgreSQL runs with {name} = {value}: such a figure would not count")


async def unit_of(router: Router, name: str) -> tuple[Unit, Term]:
    """A mailbox or profile as the engine serves it, and the ownership of its shard."""
    shard = shard_of(name)
    unit = next(unit for unit in await router.units(shard) if unit.name == name)
    return unit, await Shards(router.engine).take(shard, "bench")


def in_a_process(module: str, *arguments: str, directory: Path) -> dict[str, Any]:
    """Run `python -m module` and read what it prints as JSON; its log lies in `directory`. Raises SystemExit."""
    with (directory / "router.log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=os.environ | {PASSWORD: "secret"},
            cwd=Path(__file__).resolve().parents[1],
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
    if done.returncode:
        said = (directory / "router.log").read_text(errors="replace")[-3000:]
        raise SystemExit(f"{module} ended with {done.returncode}:\n{said}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
