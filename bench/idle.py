"""A thousand idle IMAP mailboxes on IDLE in one process: memory for each, and how long a delivery takes to be filed."""

from __future__ import annotations

import asyncio
import smtplib
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles

from tests.fixtures.dovecot import Dovecot

from bench.figures import Outcome
from bench.installation import MAILBOX, SETTINGS, installed
from bench.memory import processor_seconds, resident
from bench.running import Running, running
from bench.servers import working_directory
from email_router.app import opened
from email_router.model.ids import new_id
from email_router.model.mailbox import FilterOption, MailboxKind, Receiver
from email_router.settings.bootstrap import Bootstrap

DELIVERIES = 200
PAUSE = 0.05
"""Seconds between two deliveries: no burst, so that the delay is that of a single message."""
QUIET = 20.0
"""Seconds without mail over which the idle processor time is measured."""
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
READY = "SELECT count(*) FROM router.mailbox WHERE state = 'ok' AND name LIKE '%@router.test'"
FILED = "SELECT count(*) FROM router.decision WHERE outcome = 'filed'"


def measure(server: Dovecot, count: int) -> Outcome:
    addresses = [f"idle{n}@router.test" for n in range(count)]
    with working_directory("bench-idle-") as directory:
        asyncio.run(_prepare(directory, server, addresses[:1]))
        with running(directory) as router:
            router.until(READY, 1, 60)
            before = _settled(router)
            asyncio.run(_publish(directory, server, addresses))
            started = time.monotonic()
            router.until(READY, count, 60 + count)
            connected = time.monotonic() - started
            each = (_settled(router) - before) / 1024 / (count - 1)
            busy = processor_seconds(router.pid)
            time.sleep(QUIET)
            busy = (processor_seconds(router.pid) - busy) / QUIET
            delays = sorted(_delays(router, server, addresses))
    middle, slowest = median(delays), quantiles(delays, n=100)[98]
    rows = [
        f"{count:,} mailboxes on IDLE in one process, {len(delays)} deliveries",
        f"  memory          {each:,.0f} KiB for each mailbox (growth of RSS)",
        f"  connecting      {connected:,.0f} s for all of them",
        f"  idle processor  {100 * busy:.1f} % of one core",
        f"  delivery to filed: median {middle:.2f} s, 99th percentile {slowest:.2f} s, worst {delays[-1]:.2f} s",
        *_inotify(count),
    ]
    figures = {
        "idle_kib_per_mailbox": f"{each:.0f}",
        "idle_delay_median_s": f"{middle:.2f}",
        "idle_delay_p99_s": f"{slowest:.2f}",
    }
    return Outcome(rows, figures)


def _inotify(count: int) -> Sequence[str]:
    """Dovecot notices mail at once only where the kernel lets it watch each mailbox; else it looks each second."""
    allowed = int(INOTIFY.read_text()) if INOTIFY.exists() else 0
    if allowed > count + 50:
        return ()
    words = f"the kernel allows {allowed} inotify instances a user: in the other mailboxes Dovecot looks once a second"
    return (f"  note: {words}", f"  (for all: sysctl fs.inotify.max_user_instances={count + 100})")


async def _prepare(directory: Path, server: Dovecot, addresses: Sequence[str]) -> None:
    async with installed(directory, addresses, incoming=server.ports.imap):
        pass


async def _publish(directory: Path, server: Dovecot, addresses: Sequence[str]) -> None:
    """The settings with all mailboxes, published beside the running router, as an administrator does it."""
    bootstrap = Bootstrap(data=str(directory / "data"), listen="")
    async with opened(bootstrap, beside=True) as router:
        crm = await router.crm((await router.settings()).deployments["bench"])
        for address in addresses:
            name = address.partition("@")[0]
            receiver = Receiver(new_id(), MailboxKind.QUEUE, name, address, filter_option=FilterOption.ALL)
            await crm.actions.add_receiver(receiver)
        text = SETTINGS.format(kind="imap", incoming=server.ports.imap, outgoing=25, connections=1)
        text += "".join(MAILBOX.format(address=address) for address in addresses)
        await router.publish(text, "bench", "settings.toml")


def _settled(router: Running) -> int:
    """RSS once it stays as it is for some seconds."""
    last, same = resident(router.pid), 0
    while same < 5:
        time.sleep(1)
        now = resident(router.pid)
        same = same + 1 if abs(now - last) < 256 * 1024 else 0
        last = now
    return last


def _delays(router: Running, server: Dovecot, addresses: Sequence[str]) -> list[float]:
    """Seconds from the mail server's answer to each delivery until its decision was written."""
    delivered: dict[str, float] = {}
    step = max(1, len(addresses) // DELIVERIES)
    [(before,)] = router.ask(FILED)
    with smtplib.LMTP("127.0.0.1", server.ports.lmtp) as lmtp:
        for n in range(DELIVERIES):
            to = addresses[n * step % len(addresses)]
            letter = (
                f"From: Customer <customer@sink.test>\r\nTo: {to}\r\nSubject: delivery {n}\r\n"
                f"Message-ID: <idle-{n}@sink.test>\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n\r\nHello {n}.\r\n"
            )
            lmtp.sendmail("customer@sink.test", [to], letter)
            delivered[f"idle-{n}@sink.test"] = time.time()
            time.sleep(PAUSE)
    router.until(FILED, before + DELIVERIES, 120)
    rows = router.ask("SELECT message_id, extract(epoch FROM created) FROM router.decision WHERE outcome = 'filed'")
    return [float(moment) - delivered[message_id] for message_id, moment in rows if message_id in delivered]
