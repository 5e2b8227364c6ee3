"""A whole router that mail is pushed to: published, listened for, filed, shown, handed over to the next router."""

from __future__ import annotations

import asyncio
import contextlib
import json
import smtplib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from email_router.app import Router, opened
from email_router.cli import run as cli
from email_router.mail.lmtp import errors
from email_router.mail.lmtp.settings import LmtpSettings
from email_router.model.errors import Transient
from email_router.model.ids import new_id
from email_router.model.mailbox import FilterOption, MailboxKind, Receiver
from email_router.model.receipt import Term
from email_router.settings.bootstrap import Bootstrap
from tests.fixtures.company import letter
from tests.fixtures.dovecot import free_ports
from tests.servers.lmtp import connected

pytestmark = pytest.mark.database

HELP, ANN = "help@acme.test", "ann@acme.test"
SETTINGS = """\
[deployment.sales]
organization = "Acme"
incoming_profile = "push"

[incoming.push]
kind = "lmtp"
port = {port}
poll_seconds = 1

[mailbox."help@acme.test"]
kind = "queue"

[mailbox."ann@acme.test"]

[mailbox."off@acme.test"]
enabled = false
"""


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@asynccontextmanager
async def router(dsn: str, directory: Path, port: int) -> AsyncIterator[Router]:
    async with opened(Bootstrap(data=str(directory / "data"), dsn=dsn)) as made:
        if not (await made.settings()).revision:
            await made.publish(SETTINGS.format(port=port), "test", "settings.toml")
            crm = await made.crm((await made.settings()).deployments["sales"])
            for address, kind, option in (
                (HELP, MailboxKind.QUEUE, FilterOption.ALL),
                (ANN, MailboxKind.USER, FilterOption.IN_RESPONSE),
            ):
                await crm.actions.add_receiver(Receiver(new_id(), kind, address, address, filter_option=option))
        yield made


@asynccontextmanager
async def running(made: Router) -> AsyncIterator[asyncio.Event]:
    """The router at work until the block ends; it must end by itself then, and soon."""
    stop = asyncio.Event()
    working = asyncio.create_task(made.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(working, 30)


async def until(true: Callable[[], Awaitable[Any]], what: str, limit: float = 30) -> Any:
    deadline = time.monotonic() + limit
    while not (found := await true()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.05)
    return found


async def pushed(port: int, to: str | list[str], raw: bytes) -> list[str]:
    """The reply for each recipient."""

    def deliver() -> list[str]:
        recipients = [to] if isinstance(to, str) else to
        with smtplib.LMTP("127.0.0.1", port, timeout=20) as peer:
            peer.ehlo_or_helo_if_needed()
            peer.mail("bob@customer.test")
            replies = [peer.rcpt(one) for one in recipients]
            taken = sum(code == 250 for code, _ in replies)
            if taken:
                peer.docmd("DATA")
                peer.send(raw + b".\r\n")
            said = [reply if reply[0] != 250 else peer.getreply() for reply in replies]
            return [f"{code} {words.decode()}" for code, words in said]

    return await asyncio.to_thread(deliver)


def listens(port: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()
            return True
        return False

    return look


def state(made: Router, name: str) -> Callable[[], Awaitable[tuple[str, str]]]:
    async def look() -> tuple[str, str]:
        found = [row for row in await made.listing() if row["name"] == name]
        return (found[0]["state"], found[0]["error"]) if found else ("", "")

    return look


def shows(made: Router, name: str, wanted: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return (await state(made, name)())[0] == wanted

    return look


async def timeline(made: Router) -> list[str]:
    crm = await made.crm((await made.settings()).deployments["sales"])
    return sorted(row["message_id"].partition("@")[0] for row in await crm.actions.timeline(limit=100))


async def test_mail_is_pushed_filed_answered_and_shown(dsn: str, tmp_path: Path, port: int) -> None:
    async with router(dsn, tmp_path, port) as made, running(made):
        await until(listens(port), "listening")
        to = [HELP, "who@acme.test", "ann+x@acme.test", "off@acme.test"]
        replies = await pushed(port, to, letter(1, HELP))
        assert [" ".join(reply.split(" ")[:3]) for reply in replies] == [
            "250 2.0.0 filed",
            "550 5.1.1 <who@acme.test>:",
            "250 2.0.0 duplicate",
            "450 4.2.1 <off@acme.test>:",
        ]
        assert await pushed(port, HELP, letter(1, HELP)) == ["250 2.0.0 filed"]
        assert await timeline(made) == ["1"]
        await until(shows(made, "incoming push", "ok"), "the listener's state")
        await until(shows(made, HELP, "ok"), "the mailbox's state")
    assert not await listens(port)()


async def test_the_first_push_into_a_mailbox_is_shown_at_once(dsn: str, tmp_path: Path, port: int) -> None:
    """Not at the next round, before which the router may be gone."""
    async with router(dsn, tmp_path, port) as made:
        await made.publish(
            SETTINGS.format(port=port).replace("poll_seconds = 1", "poll_seconds = 3600"), "test", "s.toml"
        )
        async with running(made):
            await until(listens(port), "listening")
            await until(shows(made, "incoming push", "ok"), "the first round")
            assert (await state(made, HELP)())[0] == "new"
            assert await pushed(port, HELP, letter(1, HELP)) == ["250 2.0.0 filed"]
            await until(shows(made, HELP, "ok"), "the mailbox's state")


async def test_a_reply_that_was_pushed_before_its_parent_is_filed_without_its_peer(
    dsn: str, tmp_path: Path, port: int
) -> None:
    async with router(dsn, tmp_path, port) as made, running(made):
        await until(listens(port), "listening")
        reply = letter("reply", ANN, answers="parent@customer.test")
        assert await pushed(port, ANN, reply) == ["250 2.0.0 not-tracked"]
        assert await pushed(port, HELP, letter("parent", HELP)) == ["250 2.0.0 filed"]

        async def both() -> bool:
            return await timeline(made) == ["parent", "reply"]

        await until(both, "judging again")


async def test_a_port_that_is_taken_is_told_and_listened_on_when_it_is_free(
    dsn: str, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "LOOK_AGAIN", 0.1)
    async with router(dsn, tmp_path, port) as made:
        with socket.create_server(("127.0.0.1", port)):
            async with running(made):
                await until(shows(made, "incoming push", "needs operator"), "the state")
                _, error = await state(made, "incoming push")()
                assert f"the address is taken (127.0.0.1:{port})" in error
                assert "choose another port" in error
        async with running(made):
            await until(shows(made, "incoming push", "ok"), "recovery")
            assert await pushed(port, HELP, letter(1, HELP)) == ["250 2.0.0 filed"]


async def test_a_publication_changes_who_is_known(dsn: str, tmp_path: Path, port: int) -> None:
    async with router(dsn, tmp_path, port) as made, running(made):
        await until(listens(port), "listening")
        [refused] = await pushed(port, "new@acme.test", letter(1, HELP))
        assert refused.startswith("550 5.1.1")
        more = SETTINGS.format(port=port) + '[mailbox."new@acme.test"]\n'
        await made.publish(more, "test", "settings.toml")

        async def known() -> bool:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                return (await pushed(port, "new@acme.test", letter(1, HELP)))[0].startswith("250")
            return False

        await until(known, "the publication")


async def test_a_router_that_ends_hands_the_port_to_the_next(dsn: str, tmp_path: Path, port: int) -> None:
    async with router(dsn, tmp_path / "a", port) as first, router(dsn, tmp_path / "b", port) as second:
        async with running(first) as stop:
            await until(listens(port), "listening")
            assert await pushed(port, HELP, letter(1, HELP)) == ["250 2.0.0 filed"]
            async with running(second):
                stop.set()

                async def again() -> bool:
                    with contextlib.suppress(OSError, smtplib.SMTPException):
                        return (await pushed(port, HELP, letter(2, HELP)))[0] == "250 2.0.0 filed"
                    return False

                await until(again, "the next router")
                assert await pushed(port, HELP, letter(1, HELP)) == ["250 2.0.0 filed"]
        assert await timeline(second) == ["1", "2"]


async def test_while_the_database_is_away_the_listener_stays_and_tells_the_peer_to_come_again(
    dsn: str, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = dsn.partition("?")[0].rpartition("/")[2]
    failed = asyncio.Event()
    async with router(dsn, tmp_path, port) as made, running(made):
        check = made.shards.check

        async def checked(term: Term) -> None:
            try:
                await check(term)
            except Transient:
                failed.set()
                raise

        monkeypatch.setattr(made.shards, "check", checked)
        await until(listens(port), "listening")
        async with connected(LmtpSettings(port=port), "LHLO p", "MAIL FROM:<>") as peer:
            with psycopg.connect(dsn.replace(f"/{database}?", "/postgres?"), autocommit=True) as admin:
                admin.execute(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS false")
                admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
                try:
                    assert await pushed(port, HELP, letter(1, HELP)) == ["451 4.3.0 The database cannot be reached"]
                    await asyncio.wait_for(failed.wait(), 20)
                    assert await pushed(port, HELP, letter(1, HELP)) == ["451 4.3.0 The database cannot be reached"]
                finally:
                    admin.execute(f"ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true")

            async def filed() -> bool:
                return await pushed(port, HELP, letter(1, HELP)) == ["250 2.0.0 filed"]

            await until(filed, "recovery")
            assert await peer.asked("NOOP") == ["250 2.0.0"], "this connection was there all the time"
        assert await timeline(made) == ["1"]


# -- commands


async def test_test_access_doctor_and_mailboxes(
    dsn: str, tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAIL_ROUTER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("EMAIL_ROUTER_DSN", dsn)
    monkeypatch.delenv("EMAIL_ROUTER_CONFIG", raising=False)

    async def said(*words: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        await asyncio.to_thread(cli, [*words, "--json"])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]

    async with router(dsn, tmp_path, port) as made:
        before = await said("test-access", HELP)
        assert [(step["step"], step["ok"]) for step in before] == [("peers", True), ("listen", True)]
        assert "the router will when it runs" in before[1]["said"]
        async with running(made):
            await until(shows(made, "incoming push", "ok"), "listening")
            during = await said("test-access", HELP)
            assert [(step["step"], step["ok"]) for step in during] == [
                ("peers", True),
                ("listen", True),
                ("recipient", True),
            ]
            assert {row["name"]: row["state"] for row in await said("mailboxes")} == {
                HELP: "new",
                ANN: "new",
                "off@acme.test": "disabled",
                "incoming push": "ok",
            }
            assert ("incoming push", True) in [(check["check"], check["ok"]) for check in await said("doctor")]
