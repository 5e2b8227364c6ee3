"""The router is killed at every seam while Postfix hands mail over: nothing lost, doubled or forgotten."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import smtplib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from email_router.app import opened
from email_router.model.ids import new_id
from email_router.model.mailbox import FilterOption, MailboxKind, Receiver
from email_router.settings.bootstrap import Bootstrap
from email_router.store.embedded import EmbeddedPostgres
from tests.fixtures.company import letter
from tests.fixtures.postfix import Postfix
from tests.kill.seams import PUSHED

pytestmark = [pytest.mark.kill, pytest.mark.servers, pytest.mark.database]

LIMIT = 60.0
HELP, ANN, MUTE = "help@pushed.test", "ann@pushed.test", "mute@pushed.test"
SETTINGS = """\
[deployment.sales]
organization = "Acme"
incoming_profile = "push"

[incoming.push]
kind = "lmtp"
port = {port}
poll_seconds = 1

[mailbox."help@pushed.test"]
kind = "queue"
[mailbox."ann@pushed.test"]
[mailbox."mute@pushed.test"]
"""


class Installation:
    """A router on an embedded database, with a queue and a user that track everything, and one that tracks replies."""

    def __init__(self, directory: Path, postfix: Postfix) -> None:
        self.directory = directory
        self.postfix = postfix
        self.letters: list[bytes] = []
        self.untracked: list[bytes] = []
        self.routers: list[subprocess.Popen[bytes]] = []
        self._numbers = itertools.count(1)

    async def prepare(self) -> None:
        async with opened(Bootstrap(data=str(self.directory / "data"), listen="")) as router:
            await router.publish(SETTINGS.format(port=self.postfix.pushed), "test", "settings.toml")
            crm = await router.crm((await router.settings()).deployments["sales"])
            for address, kind, option in (
                (HELP, MailboxKind.QUEUE, FilterOption.ALL),
                (ANN, MailboxKind.USER, FilterOption.ALL),
                (MUTE, MailboxKind.USER, FilterOption.IN_RESPONSE),
            ):
                await crm.actions.add_receiver(Receiver(new_id(), kind, address, address, filter_option=option))

    def start(self, armed: str = "") -> subprocess.Popen[bytes]:
        failpoints = self.directory / "failpoints"
        failpoints.write_text(armed)
        environment = os.environ | {
            "EMAIL_ROUTER_DATA": str(self.directory / "data"),
            "EMAIL_ROUTER_LISTEN": "",
            "EMAIL_ROUTER_FAILPOINTS": str(failpoints),
        }
        with (self.directory / f"router-{len(self.routers)}.log").open("wb") as log:
            command = [sys.executable, "-m", "email_router", "run"]
            self.routers.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return self.routers[-1]

    def end(self) -> None:
        for process in self.routers:
            if process.poll() is None:
                process.kill()
                process.wait(LIMIT)

    def hand_in(self) -> None:
        """Letters for two who track them, and one for somebody who does not."""
        with smtplib.SMTP("127.0.0.1", self.postfix.smtp) as client:
            for to, letters in (([HELP, ANN], self.letters), ([MUTE], self.untracked), ([HELP, ANN], self.letters)):
                raw = letter(next(self._numbers), ", ".join(to))
                client.sendmail("bob@router.test", to, raw)
                letters.append(raw)

    def until_all_is_handed_over(self) -> None:
        deadline = time.monotonic() + LIMIT
        while self.postfix.queued():
            assert time.monotonic() < deadline, self.logs()
            self.postfix.flush()  # whoever was cut off would come again only after minutes
            time.sleep(0.2)

    def check(self) -> None:
        """One activity for each letter, with its bytes, for both; each copy concluded; what is not tracked is kept."""
        with psycopg.connect(EmbeddedPostgres(self.directory / "data").dsn) as db:
            filed = db.execute(
                "SELECT (SELECT string_agg(c.data, '' ORDER BY c.n) FROM crm.raw_chunk c WHERE c.activity = a.id), "
                "(SELECT array_agg(r.address ORDER BY r.address) FROM crm.received_by r WHERE r.activity = a.id) "
                "FROM crm.activity a"
            ).fetchall()
            kept = db.execute("SELECT string_agg(data, '' ORDER BY n) FROM router.untracked_chunk GROUP BY receipt")
            assert sorted(_body(raw) for raw, _ in filed) == sorted(_body(raw) for raw in self.letters)
            assert [who for _, who in filed] == [[ANN, HELP]] * len(self.letters)
            assert sorted(_body(raw) for (raw,) in kept) == sorted(_body(raw) for raw in self.untracked)
            receipts = db.execute("SELECT mailbox, outcome, closed IS NULL FROM router.receipt").fetchall()
        counts = Counter((mailbox, outcome in ("filed", "duplicate"), still) for mailbox, outcome, still in receipts)
        assert counts == {
            (HELP, True, False): len(self.letters),
            (ANN, True, False): len(self.letters),
            (MUTE, False, False): len(self.untracked),
        }

    def logs(self) -> str:
        newest = sorted(self.directory.glob("router-*.log"), key=lambda p: p.stat().st_mtime)[-2:]
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in newest) + self.postfix.log()


def _body(raw: bytes) -> bytes:
    return bytes(raw).partition(b"\r\n\r\n")[2]


@pytest.fixture(scope="module")
def installation(postfix: Postfix) -> Iterator[Installation]:
    directory = Path(tempfile.mkdtemp(prefix="kill-", dir="/tmp"))
    directory.chmod(0o711)
    made = Installation(directory, postfix)
    try:
        postfix.empty()
        asyncio.run(made.prepare())
        yield made
    finally:
        made.end()
        with suppress(subprocess.CalledProcessError):
            postfix.empty()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("seam", PUSHED)
def test_killed_while_mail_is_handed_over(installation: Installation, seam: str) -> None:
    killed = installation.start(f"{seam}:2:kill")  # the second time: something was handed over already
    installation.hand_in()
    deadline = time.monotonic() + LIMIT
    while killed.poll() is None:
        assert time.monotonic() < deadline, "the seam was not passed"
        installation.postfix.flush()
        time.sleep(0.2)
    assert killed.returncode == -signal.SIGKILL, installation.logs()
    again = installation.start()
    installation.until_all_is_handed_over()
    installation.check()
    again.send_signal(signal.SIGTERM)
    assert again.wait(LIMIT) == 0
