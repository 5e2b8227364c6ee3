"""Sending what waits in the CRM, against Postfix draining its queue and smtp-source, all into the same smtp-sink.

`python -m bench.send` is one run of ours in a process of its own; `race` runs it and the others in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.fixtures.postfix import Postfix

from bench.figures import OURS, Outcome, Race, Run, of_race
from bench.installation import in_a_process, installed, unit_of
from bench.rooms import Sampler
from bench.servers import Sink, program, sink, working_directory
from email_router.app import Crm
from email_router.crm.embedded.writing import Draft
from email_router.model.message import Address

SENDER = "support@router.test"
RECIPIENT = "customer@sink.test"
BYTES = 5120
"""Of the text of each message."""
CONNECTIONS = 20
"""Of ours, as many as Postfix makes to one destination by default."""
LIMIT = 300.0
POSTFIX = "Postfix"
SMTP_SOURCE = "smtp-source"
WRITERS = 16


def race(count: int, rounds: int) -> Outcome:
    result = Race(f"Sending {count:,} messages of {BYTES / 1024:.0f} KB into smtp-sink")
    if not program("smtp-sink"):
        result.skipped |= dict.fromkeys((OURS, POSTFIX, SMTP_SOURCE), "smtp-sink is not installed (make servers)")
    elif not program("postfix") or os.geteuid() != 0:
        result.skipped[POSTFIX] = "not installed, or not root: Postfix starts as root only"
    for _ in range(0 if OURS in result.skipped else rounds):
        with working_directory("bench-send-") as directory:
            run, problems = ours(directory, count)
            result.add(OURS, run)
            result.void += problems
        with working_directory("bench-send-") as directory, sink(directory) as taker:
            result.add(SMTP_SOURCE, _source(taker, count))
        if POSTFIX not in result.skipped:
            with working_directory("bench-postfix-") as directory:
                result.add(POSTFIX, _postfix(directory, count))
    return of_race(result, "send", (("postfix", POSTFIX), ("smtp_source", SMTP_SOURCE)))


def profile(count: int) -> Outcome:
    with working_directory("bench-send-") as directory, sink(directory) as taker:
        found = _process(directory, taker, count, "--profile")
    return Outcome([f"Where the time goes: sending {count:,} messages", *found["rooms"]], {})


def ours(directory: Path, count: int) -> tuple[Run, list[str]]:
    """Our run, and why it does not count."""
    with sink(directory) as taker:
        found = _process(directory, taker, count)
        problems = list(found["problems"])
        if not taker.wait_for(count, 10) or taker.count != count:
            problems.append(f"smtp-sink took {taker.count:,} messages instead of {count:,}")
    return Run(count, float(found["seconds"])), problems


def _process(directory: Path, taker: Sink, count: int, *more: str) -> dict[str, Any]:
    return in_a_process("bench.send", str(directory), str(taker.port), str(count), *more, directory=directory)


def _source(taker: Sink, count: int) -> Run:
    started = time.perf_counter()
    _inject(taker.port, count)
    return Run(count, time.perf_counter() - started)


def _inject(port: int, count: int) -> None:
    flags = ["-d", "-s", "10", "-l", str(BYTES), "-m", str(count), "-f", SENDER, "-t", RECIPIENT]
    subprocess.run([program("smtp-source"), *flags, f"127.0.0.1:{port}"], check=True)


def _postfix(directory: Path, count: int) -> Run:
    """Postfix as it comes, its queue full before the clock starts."""
    with sink(directory) as taker, _relay(directory / "postfix", taker.port) as server:
        _inject(server.smtp, count)
        config = ["-c", str(server.directory / "etc")]
        subprocess.run([program("postsuper"), *config, "-H", "ALL"], check=True, capture_output=True)
        started = time.perf_counter()
        subprocess.run([program("postqueue"), *config, "-f"], check=True, capture_output=True)
        if not taker.wait_for(count, LIMIT):
            raise SystemExit(f"Postfix sent {taker.count:,} of {count:,} messages:\n{server.log()}")
        return Run(count, time.perf_counter() - started)


@contextmanager
def _relay(directory: Path, port: int) -> Iterator[Postfix]:
    """A Postfix that relays everything to `port` and holds what comes in until it is told to let it go."""
    directory.mkdir()
    server = Postfix(directory, program("postfix"), 0, directory / "no-sasl")
    settings = {
        "relayhost": f"[127.0.0.1]:{port}",
        "default_transport": "smtp",
        "virtual_mailbox_domains": "",
        "smtpd_sasl_auth_enable": "no",
        "smtpd_recipient_restrictions": "check_client_access static:HOLD, permit_mynetworks, reject",
        "queue_run_delay": "1h",
        "in_flow_delay": "0",
    }
    command = [program("postconf"), "-c", str(directory / "etc"), "-e"]
    subprocess.run([*command, *(f"{name}={value}" for name, value in settings.items())], check=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


async def measured(directory: Path, port: int, count: int, *, profiled: bool) -> dict[str, Any]:
    """Rounds of the profile, as the engine runs them, until nothing is left; then the books."""
    sampler = Sampler() if profiled else None
    async with installed(directory, [SENDER], outgoing=port, connections=CONNECTIONS) as (router, crm):
        await _write(crm, count)
        unit, term = await unit_of(router, "outgoing out")
        async with unit.open() as rounds:
            if sampler is not None:
                sampler.start()
            started = time.perf_counter()
            while not await rounds.run(term):
                pass
            seconds = time.perf_counter() - started
            if sampler is not None:
                sampler.stop()
        problems = await _problems(router.engine, count)
    return {"seconds": seconds, "problems": problems, "rooms": sampler.rows() if sampler is not None else []}


async def _write(crm: Crm, count: int) -> None:
    line = "This is an answer of the size that answers usually have.\n"
    body = (line * (BYTES // len(line) + 1))[:BYTES]
    numbers = iter(range(count))

    async def write() -> None:
        for n in numbers:
            await crm.actions.send(Draft(SENDER, (Address("", RECIPIENT),), f"answer {n}", body))

    await asyncio.gather(*(write() for _ in range(WRITERS)))


async def _problems(engine: AsyncEngine, count: int) -> list[str]:
    """Why the figure is void: not each email is sent once and known as sent in the CRM."""
    async with engine.connect() as db:
        found = await db.execute(
            text(
                "SELECT (SELECT count(*) FROM router.ledger WHERE state = 'sent' AND settled AND attempts = 1) AS sent,"
                "(SELECT count(*) FROM crm.activity WHERE direction = 'outgoing' AND status = 3) AS known"
            )
        )
        row = found.one()
    return [
        f"{number:,} {words} instead of {count:,}"
        for number, words in ((row.sent, "sent in the ledger"), (row.known, "sent in the CRM"))
        if number != count
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    json.dump(asyncio.run(measured(given.directory, given.port, given.count, profiled=given.profile)), sys.stdout)


if __name__ == "__main__":
    main()
