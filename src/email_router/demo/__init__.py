"""`email-router demo`: a complete local system in one process, and a story with mail that really crosses the wire."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from email_router.demo.messages import CARLA, SUPPORT
from email_router.demo.stage import Stage, built
from email_router.demo.steps import StepResult, console_for, show
from email_router.demo.story import play
from email_router.observe import maillog

NOT_VERIFIED = 1


async def run(*, once: bool) -> int:
    """Play the story; then stay up until Ctrl-C, unless `once`. Returns the exit code: 0 when all was verified."""
    maillog.configure(level=os.environ.get("EMAIL_ROUTER_LOG_LEVEL", "critical"))
    console = console_for(sys.stdout)
    with tempfile.TemporaryDirectory(prefix="email-router-demo-") as directory:
        os.chmod(directory, 0o711)  # noqa: PTH101, S103 - as root the database is another user, who must get through
        console.print("Starting a mail system, a CRM with its database, and the router, all on this machine …")
        async with built(Path(directory)) as stage:
            results = await _played(stage, console)
            show(results, console)
            verified = all(result.ok for result in results)
            if not once:
                await _stay(stage, console)
    return 0 if verified else NOT_VERIFIED


async def _played(stage: Stage, console: Console) -> list[StepResult]:
    results: list[StepResult] = []
    with console.status("…") as status:
        async for result in play(stage):
            results.append(result)
            status.update(f"{len(results)} steps played; the last one: {result.step.title}")
    return results


async def _stay(stage: Stage, console: Console) -> None:
    mail = stage.mail
    program = sys.argv[0] if sys.argv[0].endswith("email-router") else "email-router"  # .venv/bin/… for `make demo`
    sender, queue = CARLA.address, SUPPORT.address
    console.print("\nThe system stays up. Look at it:")
    for what, where in (
        ("the status page", stage.page),
        ("a command, in another terminal", f"{program} decisions --data {stage.router.bootstrap.data}"),
        ("a mail of your own", rf"printf 'From: {sender}\nSubject: Hello\n\nHi.' |"),
        ("", f"  curl -sS --crlf -T - --mail-from {sender} --mail-rcpt {queue} smtp://{mail.host}:{mail.smtp_port}"),
        ("its mail system", f"IMAP port {mail.imap_port}, POP3 port {mail.pop3_port}, SMTP port {mail.smtp_port}"),
    ):
        console.print(f"  {what:32}{where}", soft_wrap=True, markup=False)
    console.print("Ctrl-C ends it and removes everything.")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    console.print("Ending …")
