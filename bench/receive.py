"""Receiving a full mailbox into the embedded CRM, against programs that only copy it.

`python -m bench.receive` is one run of ours in a process of its own; `race` runs it and the peers in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.fixtures.dovecot import Dovecot

from bench import books, peers
from bench.figures import OURS, Outcome, Race, Run, of_race
from bench.installation import in_a_process, installed, unit_of
from bench.letters import mixed, total
from bench.rooms import Sampler
from bench.servers import program, working_directory

USER = "bench"
ADDRESS = f"{USER}@router.test"


def race(server: Dovecot, protocol: str, count: int, rounds: int) -> Outcome:
    """Ours and the peers in turns; the mailbox is full already."""
    size = total(mixed(count)) / 1e6
    result = Race(f"Receiving {count:,} messages ({size:.0f} MB) by {protocol.upper()}")
    with_us = [peer for peer in peers.PEERS if protocol in peer.protocols]
    for peer in with_us:
        if not program(peer.program):
            result.skipped[peer.name] = "not installed (make servers)"
    for turn in range(rounds):
        found = ours(server, protocol, count)
        result.add(OURS, Run(count, found["seconds"]))
        result.void += found["problems"]
        for peer in with_us:
            if peer.name not in result.skipped and turn < peer.rounds:
                with working_directory("bench-peer-") as directory:
                    result.add(peer.name, peers.run(peer, directory, server, USER, protocol, count))
    names = [(peer.name.replace("-", "_"), peer.name) for peer in with_us]
    return of_race(result, f"receive_{protocol}", names)


def profile(server: Dovecot, protocol: str, count: int) -> Outcome:
    """Where the time goes, room by room."""
    found = ours(server, protocol, count, "--profile")
    return Outcome([f"Where the time goes: receiving {count:,} messages by {protocol.upper()}", *found["rooms"]], {})


def ours(server: Dovecot, protocol: str, count: int, *more: str) -> dict[str, Any]:
    port = server.ports.imap if protocol == "imap" else server.ports.pop3
    with working_directory("bench-router-") as directory:
        arguments = (str(directory), protocol, str(port), str(count), *more)
        return in_a_process("bench.receive", *arguments, directory=directory)


async def measured(directory: Path, protocol: str, port: int, count: int, *, profiled: bool) -> dict[str, Any]:
    """One round of the mailbox, as the engine runs it; then the books."""
    sampler = Sampler() if profiled else None
    async with installed(directory, [ADDRESS], kind=protocol, incoming=port) as (router, _):
        unit, term = await unit_of(router, ADDRESS)
        async with unit.open() as rounds:
            if sampler is not None:
                sampler.start()
            started = time.perf_counter()
            await rounds.run(term)
            seconds = time.perf_counter() - started
            if sampler is not None:
                sampler.stop()
        found, problems = await books.filed(router.engine)
    problems += books.differences(books.expected(mixed(count)), found)
    return {"seconds": seconds, "problems": problems, "rooms": sampler.rows() if sampler is not None else []}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("protocol", choices=("imap", "pop3"))
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    result = asyncio.run(measured(given.directory, given.protocol, given.port, given.count, profiled=given.profile))
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
