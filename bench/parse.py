"""Parsing and composing alone, on one core: `python -m bench.parse`. Prints `name value` lines.

The archive and the corpus lie beside the repository; without them only the made messages are measured.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from email_router.mime.compose import compose
from email_router.mime.contents import BytesContent
from email_router.mime.parse import parse
from email_router.model.message import Address
from email_router.model.outgoing import OutgoingEmail, Stamps
from email_router.net.spool import FileContent

SHARED = Path(__file__).resolve().parents[2] / "shared"
ROUNDS = 3


def archive() -> list[bytes]:
    folder = SHARED / "threads" / "dev"
    if not folder.is_dir():
        return []
    data = gzip.decompress((folder / "usrp-users-2021.mbox.gz").read_bytes())
    lines = (folder / "usrp-users-2021.truth.jsonl").read_text().splitlines()
    starts = [json.loads(line)["mbox_offset"] for line in lines]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def per_second(action: Callable[[Any], object], items: Sequence[Any]) -> float:
    """Best of some rounds, by processor time."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for item in items:
            action(item)
        best = min(best, time.process_time() - started)
    return len(items) / best


def large_message(path: Path, megabytes: int) -> FileContent:
    """One base64 attachment that makes the message about `megabytes` large."""
    block = base64.encodebytes(os.urandom(57 * 1024)).replace(b"\n", b"\r\n")
    with path.open("wb") as file:
        file.write(
            b'From: a@example.com\r\nContent-Type: multipart/mixed; boundary="B"\r\n\r\n--B\r\n\r\nHello\r\n--B\r\n'
        )
        file.write(b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n")
        for _ in range(megabytes * 1024 * 1024 // len(block)):
            file.write(block)
        file.write(b"--B--\r\n")
    return FileContent(path, path.stat().st_size)


def rise_of_memory(megabytes: int) -> float:
    """MB by which parsing a large message and reading its attachment raise this process's peak."""
    with tempfile.TemporaryDirectory() as folder:
        content = large_message(Path(folder) / "spool", megabytes)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (attachment,) = parse(content).attachments
        digest = hashlib.sha256()
        with attachment.content.open() as source:
            while chunk := source.read(64 * 1024):
                digest.update(chunk)
        if digest.digest() != attachment.sha256:
            raise SystemExit("the attachment was not read back as it was parsed")
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def small_email() -> tuple[OutgoingEmail, Stamps]:
    email = OutgoingEmail(
        id=UUID(int=1),
        deployment="bench",
        from_=Address("Support", "support@example.com"),
        to=(Address("Jürgen Müller", "j@example.org"),),
        cc=(),
        bcc=(),
        subject="Ihr Angebot für Köln CRM:0001001",
        text="Guten Tag,\n\nanbei unser Angebot.\n" * 10,
        html="<p>Guten Tag,</p><p>anbei unser Angebot für Köln.</p>" * 10,
        in_reply_to="parent@example.org",
        references=("first@example.org", "parent@example.org"),
    )
    return email, Stamps("m1.bench@msgid.example.com", datetime(2026, 11, 2, tzinfo=UTC))


def main() -> None:
    print(f"parse_50_mb_peak_rise_mb {rise_of_memory(50):.1f}")
    if messages := archive():
        mean = sum(map(len, messages)) / len(messages) / 1024
        print(f"archive_messages {len(messages)} of {mean:.1f} KB on average")
        print(f"parse_archive_per_second {per_second(lambda m: parse(BytesContent(m)), messages):.0f}")
    email, stamps = small_email()
    print(f"compose_small_per_second {per_second(lambda _: compose(email, stamps, {}), range(2000)):.0f}")


if __name__ == "__main__":
    main()
