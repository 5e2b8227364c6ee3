"""Mail that is pushed, into a real database: the answer to the peer is what is durable, and nothing else."""

from __future__ import annotations

import asyncio
import smtplib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from email_router.crm.embedded.directory import Directory
from email_router.incoming import flow, pushed
from email_router.incoming.pushed import Intake
from email_router.mail.lmtp import CONNECTOR
from email_router.mail.lmtp.settings import LmtpSettings
from email_router.mail.lmtp.wire import PeerGone
from email_router.mime.parse import parse
from email_router.model.errors import Fenced, NeedsOperator, Permanent, RouterError, Transient
from email_router.model.mailbox import AccessMethod, FilterOption
from email_router.model.message import ParsedEmail
from email_router.model.receipt import Outcome
from email_router.net.spool import MemoryContent
from email_router.ports.mail import ListenerContext, Pushed
from email_router.store.retention import Retention
from tests.fixtures.company import PSEUDONYMS, Company, company, letter
from tests.fixtures.postfix import Postfix
from tests.integration.flows.test_incoming import FORWARD, Flaky, forwarded

pytestmark = pytest.mark.database

HELP, ANN = "help@pushed.test", "ann@pushed.test"


def message(raw: bytes) -> tuple[Pushed, ParsedEmail]:
    content = MemoryContent(raw)
    return Pushed(f"item-{hash(raw)}", content, datetime.now(UTC)), parse(content)


@asynccontextmanager
async def intake(acme: Company, address: str, **changes: Any) -> AsyncIterator[Intake]:
    async with acme.ways(address, source=None, folder="LMTP", **changes) as ways:
        yield Intake(ways)


async def push(acme: Company, address: str, raw: bytes) -> str | RouterError:
    async with intake(acme, address) as made:
        return await made.take(*message(raw), acme.term)


async def left_over(acme: Company, address: str) -> dict[Outcome, int]:
    async with intake(acme, address) as made:
        return (await made.left_over(acme.term)).outcomes


async def days_pass(acme: Company, days: int) -> None:
    """Everything that is remembered was so many days ago."""
    async with acme.engine.begin() as db:
        for table, column in (("receipt", "seen"), ("receipt", "next_attempt"), ("untracked_chunk", "created")):
            await db.execute(text(f"UPDATE router.{table} SET {column} = {column} - make_interval(days => {days})"))


async def opened(acme: Company) -> int:
    return int(await acme.scalar("SELECT count(*) FROM router.receipt WHERE closed IS NULL"))


# -- outcomes


async def test_the_answer_is_the_outcome(acme: Company) -> None:
    await acme.queue(HELP)
    await acme.user(ANN, FilterOption.IN_RESPONSE)
    assert await push(acme, HELP, letter(1, HELP)) == "filed"
    assert await push(acme, ANN, letter(1, HELP)) == "duplicate"
    assert await push(acme, ANN, letter(2, ANN)) == "not-tracked"
    [row] = await acme.timeline()
    assert row["subject"] == "letter 1"
    assert await opened(acme) == 0


async def test_what_is_concluded_already_is_only_answered(acme: Company) -> None:
    await acme.queue(HELP)
    await push(acme, HELP, letter(1, HELP))
    assert await push(acme, HELP, letter(1, HELP)) == "filed"
    assert len(await acme.timeline()) == 1
    assert len(await acme.decisions.search()) == 1


async def test_what_comes_meanwhile_is_a_batch_and_a_reply_finds_its_parent_in_it(
    acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    await acme.queue(HELP, makes_cases=True)
    raws = [letter("first", HELP), letter("reply", HELP, answers="parent@customer.test"), letter("parent", HELP)]
    raws += [letter(n, HELP) for n in range(20)] + [letter(0, HELP)] * 3
    batches: list[int] = []
    note = acme.receipts.note

    async def counted(deployments: Any, mailbox: str, folder: str, keys: Sequence[Any], *rest: Any) -> Any:
        batches.append(len(keys))
        return await note(deployments, mailbox, folder, keys, *rest)

    monkeypatch.setattr(acme.receipts, "note", counted)
    async with intake(acme, HELP) as made:
        answers = await asyncio.gather(*(made.take(*message(raw), acme.term) for raw in raws))
    assert answers == ["filed"] * 26
    assert batches == [1, 22], "twins are one"
    cases = {row["message_id"].partition("@")[0]: row["regarding_id"] for row in await acme.timeline()}
    assert len(cases) == 23
    assert cases["reply"] == cases["parent"]
    assert cases["reply"] != cases["first"]


async def test_a_poison_message_is_taken_and_kept_and_retried_without_its_peer(acme: Company) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.poison["poison"] = Permanent("the CRM refuses it", cure="switch the plug-in off")
    poison = letter(2, HELP, subject="poison")
    assert await push(acme, HELP, poison) == "undeliverable"
    [kept] = await acme.undeliverable.listing()
    assert b"".join([data async for data in acme.undeliverable.raw(kept["id"])]) == poison
    assert await push(acme, HELP, poison) == "undeliverable"
    flaky.poison.clear()
    assert await acme.undeliverable.retry(None) == 1
    assert await left_over(acme, HELP) == {Outcome.FILED: 1}
    assert await push(acme, HELP, poison) == "filed"
    assert len(await acme.timeline()) == 1


async def test_our_own_bug_harms_only_its_message(acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    await acme.queue(HELP)
    judge = acme.records.judge

    async def broken(items: Any) -> Any:
        if any(item.email.subject == "letter 2" for item in items):
            raise ZeroDivisionError("a bug of ours")
        return await judge(items)

    monkeypatch.setattr(acme.records, "judge", broken)
    async with intake(acme, HELP) as made:
        answers = await asyncio.gather(*(made.take(*message(letter(n, HELP)), acme.term) for n in range(1, 5)))
    assert answers == ["filed", "undeliverable", "filed", "filed"]


async def test_a_bug_around_it_is_no_outcome_and_harms_only_its_message(
    acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    await acme.queue(HELP)

    async def broken(ways: Any, seen: Sequence[Any], *rest: Any) -> None:
        if any(one.email.subject == "letter 2" for one in seen):
            raise ZeroDivisionError("a bug of ours")
        await flow.handle(ways, seen, *rest)

    monkeypatch.setattr(pushed, "handle", broken)
    async with intake(acme, HELP) as made:
        answers = await asyncio.gather(*(made.take(*message(letter(n, HELP)), acme.term) for n in range(1, 5)))
    assert [str(answer) for answer in answers] == ["filed", "a fault of the router", "filed", "filed"]
    monkeypatch.undo()
    assert await push(acme, HELP, letter(2, HELP)) == "filed"
    assert len(await acme.timeline()) == 4


# -- forward mailboxes


async def test_a_forward_mailbox_that_is_pushed_to(acme: Company) -> None:
    await acme.user("ann@acme.test", FilterOption.ALL, incoming=AccessMethod.FORWARD_MAILBOX)
    acme.forward_mailbox(FORWARD, trusted_authserv_id="mx.acme.test")
    raw = forwarded(letter(1, "ann@acme.test"))
    assert await push(acme, FORWARD, raw) == "filed"
    [row] = await acme.timeline()
    assert (row["sender"], row["subject"]) == ("bob@customer.test", "letter 1")
    assert await push(acme, FORWARD, forwarded(letter(2, "ann@acme.test"), results="")) == "not-tracked"
    [kept] = [r for r in await kept_bytes(acme) if r]
    assert kept == forwarded(letter(2, "ann@acme.test"), results="")


# -- a CRM or database that is away


async def test_a_crm_that_is_away_is_told_and_the_message_comes_again(acme: Company) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.whole = [Transient("the CRM is away"), NeedsOperator("the CRM's licence has expired")]
    for words in ("the CRM is away", "the CRM's licence has expired"):
        answer = await push(acme, HELP, letter(1, HELP))
        assert isinstance(answer, Transient | NeedsOperator)
        assert answer.what == words
    assert await opened(acme) == 1
    assert await left_over(acme, HELP) == {}
    assert await push(acme, HELP, letter(1, HELP)) == "filed"
    assert await opened(acme) == 0
    assert len(await acme.timeline()) == 1


async def test_one_deployment_that_is_away_is_waited_for_and_the_other_has_it_once(
    acme: Company, tmp_path: Path
) -> None:
    await acme.queue(HELP)
    other = await company(acme.engine, tmp_path, "service")
    await other.queue(HELP)
    flaky = Flaky(other.filing)
    flaky.whole = [Transient("away")]
    acme.change(HELP, deployments=("sales", "service"))
    async with acme.ways(HELP, source=None, folder="LMTP") as ways:
        directory = Directory(other.engine, other.organization)
        service = flow.Deployed(other.deployment, other.records, flaky, directory)
        both = Intake(replace(ways, deployments={**ways.deployments, "service": service}))
        assert str(await both.take(*message(letter(1, HELP)), acme.term)) == "away"
        assert [len(await one.timeline()) for one in (acme, other)] == [1, 0]
        assert await both.take(*message(letter(1, HELP)), acme.term) == "filed"
    assert [len(await one.timeline()) for one in (acme, other)] == [1, 1]


async def test_a_database_that_is_away_is_told(acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    await acme.queue(HELP)

    async def away(*_: Any, **__: Any) -> None:
        raise Transient("The database cannot be reached")

    for call in ("note", "conclude", "outcomes"):
        with monkeypatch.context() as patch:
            patch.setattr(acme.receipts, call, away)
            assert str(await push(acme, HELP, letter(call, HELP))) == "The database cannot be reached"
        assert await push(acme, HELP, letter(call, HELP)) in ("filed", "duplicate")
    assert len(await acme.timeline()) == 3


async def test_a_router_without_its_shard_takes_nothing(acme: Company) -> None:
    await acme.queue(HELP)
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE router.shard SET epoch = 2 WHERE number = 3"))
    assert isinstance(await push(acme, HELP, letter(1, HELP)), Fenced)
    assert await acme.timeline() == []
    assert await acme.scalar("SELECT count(*) FROM router.receipt") == 0


async def test_an_item_that_fails_again_and_again_is_set_aside(acme: Company) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.poison["letter 1"] = Transient("strange", retry_after=0.0)
    for _ in range(flow.TRIES):
        assert isinstance(await push(acme, HELP, letter(1, HELP)), Transient)
    assert await push(acme, HELP, letter(1, HELP)) == "undeliverable"


async def test_a_peer_that_gives_up_is_told_after_six_days_and_not_before(acme: Company) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.whole = [Transient("away"), Transient("away")]
    await push(acme, HELP, letter(1, HELP))
    await days_pass(acme, 5)
    assert await left_over(acme, HELP) == {}
    await push(acme, HELP, letter(1, HELP))  # five days later it still tries
    await days_pass(acme, 5)
    assert await left_over(acme, HELP) == {}
    await days_pass(acme, 1)
    assert await left_over(acme, HELP) == {Outcome.VANISHED: 1}
    [decision] = await acme.decisions.search()
    assert decision["reason"] == "given up by its mail server"
    assert await opened(acme) == 0
    assert await push(acme, HELP, letter(1, HELP)) == "filed", "and if it comes after all, it is taken"
    assert len(await acme.timeline()) == 1


async def test_a_receipt_that_a_killed_router_left_waits_for_the_peer(acme: Company) -> None:
    await acme.queue(HELP)
    raw = letter(1, HELP)
    async with intake(acme, HELP) as made:
        [pushed_message, _] = message(raw)
        keys = [flow.DeliveryKey(HELP, "LMTP", pushed_message.item)]
        await acme.receipts.note(("sales",), HELP, "LMTP", keys, "", acme.term)
        assert (await made.left_over(acme.term)).outcomes == {}
        await days_pass(acme, 5)
        assert (await made.left_over(acme.term)).outcomes == {}
    assert await push(acme, HELP, raw) == "filed"


# -- what is not tracked


async def kept_bytes(acme: Company) -> list[bytes]:
    async with acme.engine.begin() as db:
        rows = await db.execute(
            text("SELECT string_agg(data, '' ORDER BY n) FROM router.untracked_chunk GROUP BY receipt")
        )
        return [bytes(data) for data in rows.scalars()]


async def test_not_tracked_mail_is_kept_and_judged_again_when_its_parent_comes(acme: Company) -> None:
    await acme.user(ANN, FilterOption.IN_RESPONSE)
    await acme.queue(HELP)
    reply = letter("reply", ANN, answers="parent@customer.test", body="x" * 600_000)
    assert await push(acme, ANN, reply) == "not-tracked"
    assert await kept_bytes(acme) == [reply]
    assert await push(acme, HELP, letter("parent", HELP)) == "filed"
    assert await left_over(acme, ANN) == {Outcome.FILED: 1}
    assert sorted(row["message_id"] for row in await acme.timeline()) == [
        "parent@customer.test",
        "reply@customer.test",
    ]
    assert await push(acme, ANN, reply) == "filed"


async def test_a_crm_that_is_away_then_is_asked_again_without_the_peer(acme: Company) -> None:
    await acme.user(ANN, FilterOption.IN_RESPONSE)
    await acme.queue(HELP)
    await push(acme, ANN, letter("reply", ANN, answers="parent@customer.test"))
    await push(acme, HELP, letter("parent", HELP))
    acme.filing = flaky = Flaky(acme.filing)
    flaky.whole = [Transient("away", retry_after=0.0)]
    assert await left_over(acme, ANN) == {}
    assert await left_over(acme, ANN) == {Outcome.FILED: 1}


async def test_what_is_not_tracked_is_kept_thirty_days_and_no_longer(acme: Company) -> None:
    await acme.user(ANN, FilterOption.IN_RESPONSE)
    await acme.queue(HELP)
    reply = letter("reply", ANN, answers="parent@customer.test")
    await push(acme, ANN, reply)
    await days_pass(acme, 29)
    assert await Retention(acme.engine, PSEUDONYMS).forget_pushed() == 0
    assert await kept_bytes(acme) == [reply]
    await days_pass(acme, 2)
    assert await Retention(acme.engine, PSEUDONYMS).forget_pushed() == 1
    assert await kept_bytes(acme) == []
    assert await Retention(acme.engine, PSEUDONYMS).forget_pushed() == 0


async def test_what_is_judged_again_is_not_forgotten_under_way_and_not_kept_longer(acme: Company) -> None:
    await acme.user(ANN, FilterOption.IN_RESPONSE)
    await acme.queue(HELP)
    await push(acme, ANN, letter("reply", ANN, answers="parent@customer.test"))
    await days_pass(acme, 29)
    await push(acme, HELP, letter("parent", HELP))
    await days_pass(acme, 2)
    assert await Retention(acme.engine, PSEUDONYMS).forget_pushed() == 0, "its parent is here: it is open again"
    async with acme.engine.begin() as db:  # and its parent is gone before it is judged
        await db.execute(text("UPDATE crm.activity SET message_id = 'hidden'"))
    assert await left_over(acme, ANN) == {Outcome.NOT_TRACKED: 1}
    assert await Retention(acme.engine, PSEUDONYMS).forget_pushed() == 1


async def test_mail_that_lies_in_a_mailbox_is_not_kept(acme: Company) -> None:
    await acme.user(ANN, FilterOption.IN_RESPONSE)
    acme.mail.deliver(ANN, letter(1, ANN))
    assert (await acme.run(ANN)).outcomes == {Outcome.NOT_TRACKED: 1}
    assert await kept_bytes(acme) == []


# -- a real Postfix


class Door:
    """Whom Postfix talks to: the listener, with what the router does behind it. `cut` hangs up instead of replying."""

    def __init__(self, acme: Company, intakes: dict[str, Intake]) -> None:
        self._acme = acme
        self._intakes = intakes
        self.cut = 0
        self.answers: list[str] = []

    async def push(self, message: Pushed, mailboxes: Sequence[str]) -> AsyncGenerator[str | RouterError, None]:
        email = await flow.parsed(message.content)
        for mailbox in mailboxes:
            answer = await self._intakes[mailbox].take(message, email, self._acme.term)
            self.answers.append(str(answer))
            if self.cut:
                self.cut -= 1
                raise PeerGone
            yield answer


@asynccontextmanager
async def door(acme: Company, postfix: Postfix, *addresses: str) -> AsyncIterator[Door]:
    async with AsyncExitStack() as stack:
        made = Door(acme, {a: await stack.enter_async_context(intake(acme, a)) for a in addresses})
        context = ListenerContext(addresses, (), made.push, acme.spool)
        assert CONNECTOR.listener is not None
        await stack.enter_async_context(CONNECTOR.listener(LmtpSettings(port=postfix.pushed), context))
        yield made


def hand_in(postfix: Postfix, recipients: Sequence[str], message: bytes) -> None:
    with smtplib.SMTP("127.0.0.1", postfix.smtp) as client:
        client.sendmail("bob@router.test", list(recipients), message)


async def until(true: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        found = true()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


@pytest.mark.servers
class TestPostfix:
    @pytest.fixture(autouse=True)
    def nothing_waits(self, postfix: Postfix) -> None:
        postfix.empty()

    async def test_one_unknown_one_filed_one_poison(self, acme: Company, postfix: Postfix) -> None:
        await acme.queue(HELP)
        await acme.user(ANN, FilterOption.IN_RESPONSE)
        acme.filing = flaky = Flaky(acme.filing)
        raw = letter(1, HELP, subject="poison")
        async with door(acme, postfix, HELP, ANN) as here:
            await asyncio.to_thread(hand_in, postfix, [HELP, ANN, "who@pushed.test"], raw)
            await until(lambda: postfix.queued() == [], "the delivery")
            assert sorted(here.answers) == ["duplicate", "filed"]
            flaky.poison["poison"] = Permanent("the CRM refuses it")
            again = raw.replace(b"This is", b"That was")
            await asyncio.to_thread(hand_in, postfix, [HELP, "who@pushed.test"], again)
            await until(lambda: postfix.queued() == [], "the second delivery")
        assert here.answers[2:] == ["undeliverable"]
        [kept] = await acme.undeliverable.listing()
        raw = b"".join([data async for data in acme.undeliverable.raw(kept["id"])])
        assert raw.endswith(again.partition(b"\r\n\r\n")[2])
        assert "250 2.0.0 undeliverable" in postfix.log()
        assert "550 5.1.1 <who@pushed.test>" in postfix.log()
        assert len(await acme.timeline()) == 1

    async def test_a_crm_that_is_away_leaves_the_mail_in_postfix_until_it_is_back(
        self, acme: Company, postfix: Postfix
    ) -> None:
        await acme.queue(HELP)
        acme.filing = flaky = Flaky(acme.filing)
        flaky.whole = [Transient("the CRM is away")] * 3
        async with door(acme, postfix, HELP) as here:
            await asyncio.to_thread(hand_in, postfix, [HELP], letter(1, HELP))
            for number in (1, 2, 3):
                await until(lambda number=number: len(here.answers) == number, "a try")  # type: ignore[misc]
                await until(lambda: list(postfix.deferred()) == [HELP], "Postfix has put it off")
                assert await acme.timeline() == []
                postfix.flush()
            await until(lambda: postfix.queued() == [], "the delivery")
        assert here.answers == ["the CRM is away"] * 3 + ["filed"]
        assert len(await acme.timeline()) == 1
        assert await opened(acme) == 0

    async def test_a_reply_that_was_lost_is_a_message_that_is_not_filed_twice(
        self, acme: Company, postfix: Postfix
    ) -> None:
        await acme.queue(HELP)
        async with door(acme, postfix, HELP) as here:
            here.cut = 1
            await asyncio.to_thread(hand_in, postfix, [HELP], letter(1, HELP))
            await until(lambda: list(postfix.deferred()) == [HELP], "Postfix has put it off")
            assert len(await acme.timeline()) == 1
            postfix.flush()
            await until(lambda: postfix.queued() == [], "the second delivery")
        assert here.answers == ["filed", "filed"]
        assert len(await acme.timeline()) == 1
        assert len(await acme.decisions.search()) == 1
