"""`make bench`: one run on this machine, as ratios to other people's programs. See docs/benchmarks.md.

Prints a table, and below it one line per figure, `name value`. Exit status 1 when a figure is void: when what the
router filed or sent was not exactly what was there.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from bench import idle, large, receive, send
from bench.figures import Outcome
from bench.letters import mixed
from bench.servers import dovecot, fill

WHAT = ("receive", "send", "idle", "large")


def main() -> int:
    given = _arguments()
    print(f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, {_machine()}", flush=True)
    figures: dict[str, str] = {}
    void = False
    for outcome in _measurements(given):
        print("", *outcome.rows, sep="\n", flush=True)
        figures |= outcome.figures
        void = void or outcome.void
    print("", *(f"{name} {value}" for name, value in figures.items()), sep="\n")
    return 1 if void else 0


def _measurements(given: argparse.Namespace) -> Iterator[Outcome]:
    """What was asked for, one after the other: nothing else runs beside a measurement."""
    with ExitStack() as stack:
        server = stack.enter_context(dovecot()) if set(given.what) != {"send"} else None
        if server is not None and "receive" in given.what:
            fill(server, receive.USER, mixed(given.messages, given.originals))
            for protocol in given.protocols:
                if given.profile:
                    yield receive.profile(server, protocol, given.messages)
                else:
                    yield receive.race(server, protocol, given.messages, given.rounds)
        if "send" in given.what:
            yield send.profile(given.messages) if given.profile else send.race(given.messages, given.rounds)
        if server is not None and "idle" in given.what:
            yield idle.measure(server, given.mailboxes)
        if server is not None and "large" in given.what:
            yield large.measure(server, given.megabytes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="FIGURE", help=f"which: {', '.join(WHAT)} (default: all)")
    parser.add_argument("--messages", type=int, default=5000, help="messages to receive and to send (5000)")
    parser.add_argument(
        "--originals", type=Path, metavar="DIRECTORY", help="messages to measure with: a Maildir or *.eml"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each program, in turns; medians count (3)")
    parser.add_argument("--protocols", nargs="+", choices=("imap", "pop3"), default=["imap", "pop3"])
    parser.add_argument("--mailboxes", type=int, default=1000, help="idle mailboxes (1000)")
    parser.add_argument("--megabytes", type=int, default=50, help="size of the large message (50)")
    parser.add_argument("--profile", action="store_true", help="where the time goes instead of ratios")
    given = parser.parse_args()
    if unknown := set(given.what) - set(WHAT):
        parser.error(f"no such figure: {', '.join(sorted(unknown))}; there are {', '.join(WHAT)}")
    given.what = given.what or (["receive", "send"] if given.profile else list(WHAT))
    return given


def _machine() -> str:
    where = Path(tempfile.gettempdir())
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, load {load:.1f}, {platform.machine()}, Python {platform.python_version()}, {where}"


if __name__ == "__main__":
    sys.exit(main())
