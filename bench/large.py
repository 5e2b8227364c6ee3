"""By how much one very large message raises the peak memory of the router and its PostgreSQL together."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.dovecot import Dovecot

from bench.figures import Outcome
from bench.installation import installed
from bench.memory import highest, peak_of
from bench.running import Running, running
from bench.servers import working_directory

USER = "large"
ADDRESS = f"{USER}@router.test"
SMALL = 20 * 1024
FILED = "SELECT count(*) FROM router.receipt WHERE outcome = 'filed' AND closed IS NOT NULL"
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rise:
    """Peaks in bytes while a small and a large message were received and filed.

    `small` and `large` are of the router and PostgreSQL, looked at again and again; `own` is by how much the large one
    raised the highest RSS of the router's process, which the kernel itself remembers.
    """

    small: int
    large: int
    own: int

    @property
    def mib(self) -> float:
        return (self.large - self.small) / MIB


def measure(server: Dovecot, megabytes: int) -> Outcome:
    with working_directory("bench-large-") as directory:
        found = rise(directory, server, megabytes)
    rows = [
        f"A message of {megabytes} MB, received by IMAP and filed: peak memory (PSS) of the router and PostgreSQL",
        f"  with a small one {found.small / MIB:.0f} MiB, with the large one {found.large / MIB:.0f} MiB; "
        f"the router's own process: {found.own / MIB:.0f} MiB more",
    ]
    return Outcome(rows, {"large_message_mib": f"{found.mib:.0f}"})


def rise(directory: Path, server: Dovecot, megabytes: int) -> Rise:
    """Receive a small message, then a large one, and see what the peaks were. Raises SystemExit if it is not whole."""
    asyncio.run(_prepare(directory, server))
    with running(directory) as router:
        router.until("SELECT count(*) FROM router.mailbox WHERE state = 'ok'", 1, 60)
        peaks, own = [], []
        for number, size in enumerate((SMALL, megabytes * 1_000_000), 1):
            message, digest = letter(number, size)
            with peak_of(router.pid) as peak:
                server.deliver(USER, message)
                router.until(FILED, number, 120)
            _must_be_there(router, digest)
            peaks.append(peak.bytes)
            own.append(highest(router.pid))
    return Rise(*peaks, own[1] - own[0])


def letter(number: int, size: int) -> tuple[bytes, bytes]:
    """A message of about `size` bytes with one attachment, and the hash of the attachment."""
    attachment = os.urandom(size * 3 // 4)
    head = (
        f"From: Customer <customer@sink.test>\r\nTo: {ADDRESS}\r\nSubject: letter {number}\r\n"
        f"Message-ID: <large-{number}@sink.test>\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/mixed; boundary="B"\r\n\r\n--B\r\nContent-Type: text/plain\r\n\r\nPlease see the file.'
        '\r\n--B\r\nContent-Type: application/pdf; name="plan.pdf"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    )
    encoded = base64.encodebytes(attachment).replace(b"\n", b"\r\n")
    return head.encode() + encoded + b"--B--\r\n", hashlib.sha256(attachment).digest()


def _must_be_there(router: Running, digest: bytes) -> None:
    stored = router.ask(f"SELECT n, data FROM crm.content_chunk WHERE sha256 = '\\x{digest.hex()}' ORDER BY n")
    if hashlib.sha256(b"".join(bytes(data) for _, data in stored)).digest() != digest:
        raise SystemExit("the attachment in the CRM is not the one that was sent")


async def _prepare(directory: Path, server: Dovecot) -> None:
    async with installed(directory, [ADDRESS], incoming=server.ports.imap):
        pass
