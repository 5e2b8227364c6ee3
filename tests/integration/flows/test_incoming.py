"""From a mailbox to the CRM, with a real database and mail in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from email_router.crm.embedded.directory import Directory
from email_router.incoming import flow
from email_router.incoming.flow import GIVE_UP_AFTER
from email_router.mail.memory.server import Server
from email_router.mail.memory.source import MemorySource
from email_router.model.errors import Fenced, NeedsOperator, Permanent, Transient
from email_router.model.filing import FilingItem, FilingResult, NotFiled
from email_router.model.mailbox import AccessMethod, FilterOption, SourceAction
from email_router.model.message import DeliveryKey
from email_router.model.receipt import Outcome, Term
from email_router.net.spool import FileContent
from email_router.ports.mail import Login, SourceContext
from tests.fixtures.company import Company, at, company, letter, no_secret

pytestmark = pytest.mark.database

HELP = "help@acme.test"


async def outcomes(acme: Company) -> dict[str, str]:
    """Outcome by Message-ID, the newest decision of each."""
    rows = await acme.decisions.search(limit=1000)
    return {row["message_id"].partition("@")[0]: row["outcome"] for row in reversed(rows)}


async def test_a_message_becomes_an_activity_on_a_case(acme: Company) -> None:
    queue = await acme.queue(HELP, makes_cases=True)
    bob = await acme.actions.add_record("contact", "Bob", ["bob@customer.test"])
    acme.mail.deliver(HELP, letter(1, HELP, subject="Broken oven"), at(1))
    report = await acme.run(HELP)
    assert report.outcomes == {Outcome.FILED: 1}
    [row] = await acme.timeline()
    assert (row["status"], row["subject"], row["sender"]) == ("Received", "Broken oven", "bob@customer.test")
    assert (row["regarding_type"], row["regarding"]) == ("incident", "Broken oven")
    activity = await acme.actions.activity(row["id"])
    assert activity is not None
    assert activity["received_by"] == [HELP]
    assert activity["queues"] == ["help"]
    assert [(p["role"], p["address"], p["record"]) for p in activity["parties"]] == [
        ("from", "bob@customer.test", str(bob)),
        ("to", HELP, str(queue)),
    ]
    assert [chunk async for chunk in acme.actions.raw(row["id"])] == [letter(1, HELP, subject="Broken oven")]
    [case] = await acme.actions.records("incident")
    assert (case["customer"], case["fields"]["ticketnumber"]) == (bob, "CAS-00001")


async def test_what_was_handled_is_never_handled_again(acme: Company) -> None:
    await acme.queue(HELP)
    for n in range(5):
        acme.mail.deliver(HELP, letter(n, HELP), at(n))
    assert (await acme.run(HELP, limit=2)).messages == 5
    assert (await acme.run(HELP)).messages == 0
    async with acme.engine.begin() as db:
        await db.execute(text("DELETE FROM router.cursor"))  # as when UIDVALIDITY changed and all is listed again
    assert (await acme.run(HELP)).messages == 0
    assert len(await acme.timeline()) == 5


async def test_new_delivery_keys_for_old_mail_are_one_activity(acme: Company) -> None:
    await acme.queue(HELP)
    acme.mail.deliver(HELP, letter(1, HELP))
    await acme.run(HELP)
    acme.mail.deliver(HELP, letter(1, HELP))
    assert (await acme.run(HELP)).outcomes == {Outcome.DUPLICATE: 1}
    assert len(await acme.timeline()) == 1


async def test_two_mailboxes_hold_one_message(acme: Company) -> None:
    await acme.queue(HELP)
    await acme.user("ann@acme.test", FilterOption.ALL)
    both = letter(1, f"{HELP}, ann@acme.test")
    acme.mail.deliver(HELP, both)
    acme.mail.deliver("ann@acme.test", both)
    reports = await asyncio.gather(acme.run(HELP), acme.run("ann@acme.test"))
    found = sorted(outcome for report in reports for outcome in report.outcomes)
    assert found == [Outcome.DUPLICATE, Outcome.FILED]
    [row] = await acme.timeline()
    activity = await acme.actions.activity(row["id"])
    assert activity is not None
    assert activity["received_by"] == ["ann@acme.test", HELP]


async def test_identical_twins_in_one_mailbox_are_one_and_other_content_is_another(acme: Company) -> None:
    await acme.queue(HELP)
    acme.mail.deliver(HELP, letter(1, HELP))
    acme.mail.deliver(HELP, letter(1, HELP))
    acme.mail.deliver(HELP, letter(1, HELP, body="the same Message-ID, other words"))
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 2, Outcome.DUPLICATE: 1}
    assert len(await acme.timeline()) == 2


async def test_mail_without_message_id_gets_one_and_is_one_activity(acme: Company) -> None:
    await acme.queue(HELP)
    raw = letter(1, HELP).replace(b"Message-ID: <1@customer.test>\r\n", b"")
    acme.mail.deliver(HELP, raw)
    acme.mail.deliver(HELP, raw)
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 1, Outcome.DUPLICATE: 1}
    [row] = await acme.timeline()
    assert "@" in row["message_id"]


async def test_a_reply_and_its_parent_in_the_wrong_order_land_on_one_case(acme: Company) -> None:
    await acme.queue(HELP, makes_cases=True)
    acme.mail.deliver(HELP, letter("reply", HELP, answers="parent@customer.test"), at(1))
    acme.mail.deliver(HELP, letter("parent", HELP), at(2))
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 2}
    rows = await acme.timeline()
    assert len({row["regarding_id"] for row in rows}) == 1
    assert len(await acme.actions.records("incident")) == 1


async def test_two_messages_that_name_each_other_are_both_filed(acme: Company) -> None:
    await acme.queue(HELP)
    acme.mail.deliver(HELP, letter("a", HELP, answers="b@customer.test"), at(1))
    acme.mail.deliver(HELP, letter("b", HELP, answers="a@customer.test"), at(2))
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 2}


async def test_a_reply_that_was_not_tracked_is_judged_again_when_its_parent_comes(acme: Company) -> None:
    await acme.user("ann@acme.test", FilterOption.IN_RESPONSE)
    await acme.queue(HELP)
    acme.mail.deliver("ann@acme.test", letter("reply", "ann@acme.test", answers="parent@customer.test"))
    assert (await acme.run("ann@acme.test")).outcomes == {Outcome.NOT_TRACKED: 1}
    acme.mail.deliver(HELP, letter("parent", HELP))
    await acme.run(HELP)
    assert (await acme.run("ann@acme.test")).outcomes == {Outcome.FILED: 1}
    assert (await acme.run("ann@acme.test")).outcomes == {}
    assert await outcomes(acme) == {"reply": "filed", "parent": "filed"}


async def test_a_parent_and_reply_concluded_at_one_moment_are_found_by_the_sweep(acme: Company) -> None:
    await acme.user("ann@acme.test", FilterOption.IN_RESPONSE)
    await acme.queue(HELP)
    acme.mail.deliver(HELP, letter("parent", HELP))
    await acme.run(HELP)
    acme.mail.deliver("ann@acme.test", letter("reply", "ann@acme.test", answers="parent@customer.test"))
    async with acme.engine.begin() as db:  # the reply was judged before its parent was filed
        await db.execute(text("UPDATE crm.activity SET message_id = 'hidden'"))
    await acme.run("ann@acme.test")
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE crm.activity SET message_id = 'parent@customer.test'"))
    assert await acme.receipts.reopen_missed() == 1
    assert await acme.receipts.reopen_missed() == 0
    assert (await acme.run("ann@acme.test")).outcomes == {Outcome.FILED: 1}


class Flaky:
    """A CRM that fails as it is told."""

    def __init__(self, filing: Any) -> None:
        self.filing = filing
        self.whole: list[Exception] = []
        self.poison: dict[str, Exception] = {}
        self.before: Callable[[], Awaitable[object]] | None = None

    async def file(self, items: Sequence[FilingItem], term: Term) -> Sequence[FilingResult]:
        if self.before is not None:
            before, self.before = self.before, None
            await before()
        if self.whole:
            raise self.whole.pop(0)
        results: list[FilingResult] = []
        for item in items:
            error = self.poison.get(item.incoming.email.subject)
            if error is not None:
                assert isinstance(error, Permanent | Transient)
                results.append(NotFiled(error))
            else:
                results.extend(await self.filing.file([item], term))
        return results

    async def join(self, copies: Sequence[tuple[UUID, str]], term: Term) -> None:
        await self.filing.join(copies, term)


async def test_a_crm_that_is_away_postpones_and_nothing_is_lost(acme: Company) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.whole.append(Transient("the CRM is away", retry_after=0.0))
    for n in range(3):
        acme.mail.deliver(HELP, letter(n, HELP))
    report = await acme.run(HELP)
    assert (report.messages, report.again) == (0, 0.0)
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 3}
    assert await acme.scalar("SELECT max(attempts) FROM router.receipt") == 1


async def test_a_message_that_the_crm_refuses_is_kept_with_its_bytes_and_retried(acme: Company) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.poison["poison"] = Permanent("the CRM refuses it", cure="switch the plug-in off")
    poison = letter(2, HELP, subject="poison")
    for raw in (letter(1, HELP), poison, letter(3, HELP)):
        acme.mail.deliver(HELP, raw)
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 2, Outcome.UNDELIVERABLE: 1}
    [kept] = await acme.undeliverable.listing()
    assert (kept["subject"], kept["cure"], kept["size"]) == ("poison", "switch the plug-in off", len(poison))
    assert b"".join([data async for data in acme.undeliverable.raw(kept["id"])]) == poison
    assert (await acme.run(HELP)).messages == 0
    flaky.poison.clear()
    acme.mail.folder(HELP).clear()  # the mailbox does not even have it any more
    assert await acme.undeliverable.retry([kept["id"]]) == 1
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 1}
    assert await acme.undeliverable.listing() == []


async def test_an_item_that_fails_again_and_again_is_set_aside(acme: Company) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.poison["letter 1"] = Transient("strange", retry_after=0.0)
    acme.mail.deliver(HELP, letter(1, HELP))
    for _ in range(flow.TRIES):
        assert (await acme.run(HELP)).outcomes == {}
    assert (await acme.run(HELP)).outcomes == {Outcome.UNDELIVERABLE: 1}


class Forgetful(Flaky):
    """A CRM that files, and whose answer is lost."""

    async def file(self, items: Sequence[FilingItem], term: Term) -> Sequence[FilingResult]:
        await self.filing.file(items, term)
        raise Transient("the answer was lost", retry_after=0.0)


async def unconfirmed(acme: Company) -> None:
    """A parent is filed, and the only decision about it says that it was there already."""
    filing, acme.filing = acme.filing, Forgetful(acme.filing)
    acme.mail.deliver(HELP, letter("parent", HELP))
    assert (await acme.run(HELP)).outcomes == {}
    acme.filing = filing
    assert (await acme.run(HELP)).outcomes == {Outcome.DUPLICATE: 1}


async def test_a_reply_is_judged_again_though_the_filing_of_its_parent_was_never_confirmed(acme: Company) -> None:
    await acme.user("ann@acme.test", FilterOption.IN_RESPONSE)
    await acme.queue(HELP)
    acme.mail.deliver("ann@acme.test", letter("reply", "ann@acme.test", answers="parent@customer.test"))
    assert (await acme.run("ann@acme.test")).outcomes == {Outcome.NOT_TRACKED: 1}
    await unconfirmed(acme)
    assert (await acme.run("ann@acme.test")).outcomes == {Outcome.FILED: 1}


async def test_the_sweep_finds_replies_whose_parent_was_never_confirmed(acme: Company) -> None:
    await acme.user("ann@acme.test", FilterOption.IN_RESPONSE)
    await acme.queue(HELP)
    await unconfirmed(acme)
    async with acme.engine.begin() as db:  # the reply was judged before its parent was filed
        await db.execute(text("UPDATE crm.activity SET message_id = 'hidden'"))
    acme.mail.deliver("ann@acme.test", letter("reply", "ann@acme.test", answers="parent@customer.test"))
    assert (await acme.run("ann@acme.test")).outcomes == {Outcome.NOT_TRACKED: 1}
    assert await acme.receipts.reopen_missed() == 1


async def test_twins_that_another_mailbox_filed_meanwhile_are_copies_of_its_activity(acme: Company) -> None:
    await acme.queue(HELP)
    await acme.user("ann@acme.test", FilterOption.ALL)
    both = letter(1, f"{HELP}, ann@acme.test")
    for address in (HELP, HELP, "ann@acme.test"):
        acme.mail.deliver(address, both)
    acme.filing = between = Flaky(acme.filing)
    between.before = lambda: acme.run("ann@acme.test")
    assert (await acme.run(HELP)).outcomes == {Outcome.DUPLICATE: 2}
    [row] = await acme.timeline()
    assert await acme.scalar("SELECT array_agg(DISTINCT activity) FROM router.decision") == [row["id"]]


@pytest.mark.parametrize("error", [Permanent("the CRM refuses it"), Transient("not now", retry_after=0.0)])
async def test_a_twin_of_what_was_not_filed_is_no_duplicate(acme: Company, error: Permanent | Transient) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.poison["letter 1"] = error
    for _ in range(2):
        acme.mail.deliver(HELP, letter(1, HELP))
    transient = isinstance(error, Transient)
    assert (await acme.run(HELP)).outcomes == ({} if transient else {Outcome.UNDELIVERABLE: 2})
    flaky.poison.clear()
    if not transient:
        await acme.undeliverable.retry([row["id"] for row in await acme.undeliverable.listing()])
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 1, Outcome.DUPLICATE: 1}


async def test_our_own_bug_harms_only_its_message(acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    await acme.queue(HELP)
    judge = acme.records.judge

    async def broken(items: Any) -> Any:
        if any(item.email.subject == "letter 2" for item in items):
            raise ZeroDivisionError("a bug of ours")
        return await judge(items)

    monkeypatch.setattr(acme.records, "judge", broken)
    for n in range(1, 4):
        acme.mail.deliver(HELP, letter(n, HELP))
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 2, Outcome.UNDELIVERABLE: 1}
    [kept] = await acme.undeliverable.listing()
    shown = await acme.undeliverable.show(kept["id"])
    assert shown is not None
    assert "ZeroDivisionError: a bug of ours" in shown["traceback"]


async def test_a_router_without_its_shard_files_nothing(acme: Company) -> None:
    await acme.queue(HELP)
    acme.mail.deliver(HELP, letter(1, HELP))
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE router.shard SET epoch = 2 WHERE number = 3"))
    with pytest.raises(Fenced):
        await acme.run(HELP)
    assert await acme.timeline() == []
    assert await acme.scalar("SELECT count(*) FROM router.receipt") == 0


async def test_the_crm_refuses_an_older_epoch_than_it_has_seen(acme: Company) -> None:
    await acme.queue(HELP)
    acme.mail.deliver(HELP, letter(1, HELP))
    async with acme.engine.begin() as db:
        await db.execute(text("INSERT INTO crm.term VALUES (3, 2)"))
    with pytest.raises(Fenced):
        await acme.run(HELP)
    assert await acme.timeline() == []


@pytest.mark.parametrize(
    ("action", "left"),
    [(SourceAction.LEAVE, 2), (SourceAction.SEEN, 2), (SourceAction.DELETE, 1), (SourceAction.MOVE, 1)],
)
async def test_only_what_was_tracked_is_changed_in_peoples_mailboxes(
    acme: Company, action: SourceAction, left: int
) -> None:
    await acme.user("ann@acme.test", FilterOption.FROM_LEADS_CONTACTS_ACCOUNTS)
    acme.change("ann@acme.test", source_action=action, move_to="Tracked" if action is SourceAction.MOVE else "")
    await acme.actions.add_record("contact", "Bob", ["bob@customer.test"])
    acme.mail.deliver("ann@acme.test", letter(1, "ann@acme.test"))
    acme.mail.deliver("ann@acme.test", letter(2, "ann@acme.test", sender="stranger@else.test"))
    assert (await acme.run("ann@acme.test")).outcomes == {Outcome.FILED: 1, Outcome.NOT_TRACKED: 1}
    folder = acme.mail.folder("ann@acme.test")
    assert len(folder) == left
    assert folder[-1].raw == letter(2, "ann@acme.test", sender="stranger@else.test")
    assert [stored.seen for stored in folder] == [action is SourceAction.SEEN, False][-left:]
    moved = [stored.raw for stored in acme.mail.folder("ann@acme.test", "Tracked")]
    assert moved == ([letter(1, "ann@acme.test")] if action is SourceAction.MOVE else [])
    assert await acme.scalar("SELECT count(*) FROM router.receipt WHERE closed IS NULL") == 0


async def test_an_acknowledgement_that_failed_is_repeated_and_nothing_is_filed_twice(acme: Company) -> None:
    await acme.queue(HELP)
    acme.change(HELP, source_action=SourceAction.DELETE)
    acme.mail.deliver(HELP, letter(1, HELP))
    acme.mail.fail["acknowledge"] = [Transient("the server is away")]
    with pytest.raises(Transient):
        await acme.run(HELP)
    assert len(acme.mail.folder(HELP)) == 1
    assert len(await acme.timeline()) == 1
    await forget_waits(acme)
    await acme.run(HELP)
    assert acme.mail.folder(HELP) == []
    assert len(await acme.timeline()) == 1
    assert await acme.scalar("SELECT count(*) FROM router.receipt WHERE closed IS NULL") == 0


async def test_nobody_takes_over_a_conversation_by_using_its_id(acme: Company) -> None:
    """A stranger who knows the id of a message sends another one with it: replies go on to where they went."""
    await acme.queue(HELP, makes_cases=True)
    acme.mail.deliver(HELP, letter(1, HELP, subject="The oven"), at(1))
    await acme.run(HELP)
    acme.mail.deliver(HELP, letter(1, HELP, subject="Mine now", sender="eve@evil.test", body="x"), at(2))
    await acme.run(HELP)
    acme.mail.deliver(HELP, letter(2, HELP, answers="1@customer.test"), at(3))
    await acme.run(HELP)
    assert [row["regarding"] for row in await acme.timeline()] == ["The oven", "Mine now", "The oven"]


async def test_what_is_retried_lies_on_disk_and_not_in_memory(acme: Company, tmp_path: Path) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    large = letter(1, HELP, body="x" * 3_000_000)
    flaky.poison["letter 1"] = Permanent("refused")
    acme.mail.deliver(HELP, large)
    await acme.run(HELP)
    await acme.undeliverable.retry(None)
    [receipt] = await acme.receipts.waiting(HELP, "INBOX", 10)
    [content] = (await acme.undeliverable.kept([receipt])).values()
    assert isinstance(content, FileContent)
    assert content.path.parent == acme.directory
    with content.open() as stream:
        assert stream.read() == large
    content.discard()
    flaky.poison.clear()
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 1}


class Stubborn(MemorySource):
    """A mailbox that never lets the messages with these words be deleted, nor anything in one go with them."""

    words: tuple[bytes, ...] = ()
    asked = 0

    async def acknowledge(self, keys: Sequence[DeliveryKey], action: SourceAction, move_to: str = "") -> None:
        self.asked += 1
        stubborn = [s for s in self._folder if any(word in s.raw for word in self.words)]
        if {str(s.uid) for s in stubborn} & {key.item for key in keys}:
            raise NeedsOperator("the folder may only be read", cure="grant the right")
        await super().acknowledge(keys, action, move_to)


async def forget_waits(acme: Company) -> None:
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE router.receipt SET next_attempt = now()"))


async def test_what_the_mailbox_does_not_change_holds_up_nobody(acme: Company) -> None:
    """It has its outcome; what lies behind it must not wait for the mailbox to obey."""
    await acme.queue(HELP)
    acme.change(HELP, source_action=SourceAction.DELETE)
    context = SourceContext(HELP, "INBOX", Login("", no_secret), None, acme.spool)
    source = Stubborn(acme.mail, context)
    source.words = (b"letter 2.",)
    for n in (1, 2, 3):
        acme.mail.deliver(HELP, letter(n, HELP))
    with pytest.raises(Transient, match="may only be read"):
        await acme.run(HELP, source=source)
    assert len(acme.mail.folder(HELP)) == 3
    acme.mail.deliver(HELP, letter(4, HELP))
    with pytest.raises(Transient):  # new mail is read and filed although the first three wait
        await forget_waits(acme)
        await acme.run(HELP, source=source)
    assert [s.raw for s in acme.mail.folder(HELP)] == [letter(2, HELP)]
    assert len(await acme.timeline()) == 4
    assert await acme.scalar("SELECT count(*) FROM router.receipt WHERE closed IS NULL") == 1
    source.words = ()
    await forget_waits(acme)
    await acme.run(HELP, source=source)
    assert acme.mail.folder(HELP) == []
    assert await acme.scalar("SELECT count(*) FROM router.receipt WHERE closed IS NULL") == 0


async def test_a_mailbox_that_changes_nothing_is_not_asked_for_each_message(acme: Company) -> None:
    await acme.queue(HELP)
    acme.change(HELP, source_action=SourceAction.DELETE)
    context = SourceContext(HELP, "INBOX", Login("", no_secret), None, acme.spool)
    source = Stubborn(acme.mail, context)
    source.words = (b"This is letter",)
    for n in range(20):
        acme.mail.deliver(HELP, letter(n, HELP))
    for asked in (1, 1 + GIVE_UP_AFTER):
        with pytest.raises(Transient):
            await acme.run(HELP, source=source)
        assert source.asked == asked
        await forget_waits(acme)


async def test_an_item_of_another_folder_names_nothing_in_this_one(acme: Company) -> None:
    """The numbers of two folders may be the same: what is retried from kept bytes must not delete a stranger."""
    await acme.queue(HELP)
    acme.change(HELP, source_action=SourceAction.DELETE)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.poison["letter 1"] = Permanent("refused")
    acme.mail.deliver(HELP, letter(1, HELP))
    await acme.run(HELP)
    flaky.poison.clear()
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE router.receipt SET folder = 'Old'"))
        await db.execute(text("UPDATE router.undeliverable SET folder = 'Old'"))
    await acme.undeliverable.retry(None)
    assert (await acme.run(HELP)).outcomes[Outcome.FILED] == 1
    assert [s.raw for s in acme.mail.folder(HELP)] == [letter(1, HELP)]


async def test_a_message_that_vanished_before_it_was_read_again_is_told(acme: Company) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.whole.append(Transient("away", retry_after=0.0))
    acme.mail.deliver(HELP, letter(1, HELP))
    await acme.run(HELP)
    hidden = list(acme.mail.folder(HELP))
    acme.mail.folder(HELP).clear()
    assert (await acme.run(HELP)).outcomes == {Outcome.VANISHED: 1}
    item = str(hidden[0].uid)
    assert await acme.receipts.known(HELP, "INBOX", [item]) == frozenset()  # a server may list half of its mailbox
    acme.mail.folder(HELP).extend(hidden)
    async with acme.engine.begin() as db:
        await db.execute(text("DELETE FROM router.cursor"))
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 1}
    assert await acme.receipts.known(HELP, "INBOX", [item]) == {item}


async def elsewhere(acme: Company, folder: str) -> dict[Outcome, int]:
    """The flow of another, empty, folder of the same mailbox: an import beside the running router."""
    context = SourceContext(HELP, folder, Login("", no_secret), None, acme.spool)
    return (await acme.run(HELP, folder=folder, source=MemorySource(Server(), context))).outcomes


async def test_another_folder_of_the_mailbox_is_none_of_our_business(acme: Company) -> None:
    """Neither may call the other's open mail vanished."""
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.whole.append(Transient("away", retry_after=0.0))
    acme.mail.deliver(HELP, letter(1, HELP))
    assert (await acme.run(HELP)).outcomes == {}
    assert await elsewhere(acme, "import:/old") == {}
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 1}


async def test_kept_bytes_of_another_folder_are_retried(acme: Company) -> None:
    await acme.queue(HELP)
    acme.filing = flaky = Flaky(acme.filing)
    flaky.poison["letter 1"] = Permanent("refused")
    acme.mail.deliver(HELP, letter(1, HELP))
    assert (await acme.run(HELP)).outcomes == {Outcome.UNDELIVERABLE: 1}
    flaky.poison.clear()
    await acme.undeliverable.retry(None)
    assert await elsewhere(acme, "import:/old") == {Outcome.FILED: 1}


async def test_a_server_that_is_away_is_told_to_the_caller(acme: Company) -> None:
    await acme.queue(HELP)
    acme.mail.fail["receive"] = [NeedsOperator("wrong password")]
    with pytest.raises(NeedsOperator):
        await acme.run(HELP)


async def test_hostile_text_is_filed(acme: Company) -> None:
    await acme.queue(HELP)
    raw = letter(1, HELP, subject="nul \0 and \udcff".encode("utf-8", "surrogateescape").decode("latin-1"))
    huge = b"Message-ID: <" + b"x" * 20_000 + b"@customer.test>\r\nReferences: " + b"<y@z> " * 5000 + b"\r\n"
    acme.mail.deliver(HELP, raw)
    acme.mail.deliver(HELP, huge + b"From: a@b.test\r\nTo: help@acme.test\r\n\r\n\0\xff\xfe")
    acme.mail.deliver(HELP, b"")
    acme.mail.deliver(HELP, b"\0" * 5000)
    report = await acme.run(HELP)
    assert report.messages == 4
    assert Outcome.UNDELIVERABLE not in report.outcomes


# -- forward mailboxes

FORWARD = "forward@acme.test"


def forwarded(original: bytes, sender: str = "ann@acme.test", results: str = "mx.acme.test; dmarc=pass") -> bytes:
    """What a rule that forwards as attachment makes of a message."""
    verdict = f"Authentication-Results: {results} header.from=acme.test\r\n" if results else ""
    return (
        (
            f"{verdict}From: {sender}\r\nTo: {FORWARD}\r\nSubject: FW\r\nMIME-Version: 1.0\r\n"
            'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n'
        ).encode()
        + original
        + b"\r\n--b--\r\n"
    )


async def forwarding(acme: Company, raw: bytes) -> dict[str, Any]:
    await acme.user("ann@acme.test", FilterOption.ALL, incoming=AccessMethod.FORWARD_MAILBOX)
    await acme.user("bea@acme.test", FilterOption.ALL)
    acme.forward_mailbox(FORWARD, trusted_authserv_id="mx.acme.test", source_action=SourceAction.DELETE)
    acme.mail.deliver(FORWARD, raw)
    await acme.run(FORWARD)
    [decision] = await acme.decisions.search()
    return decision


async def test_the_attached_message_becomes_the_message(acme: Company) -> None:
    decision = await forwarding(acme, forwarded(letter(1, "ann@acme.test")))
    assert (decision["outcome"], decision["message_id"]) == ("filed", "1@customer.test")
    assert decision["why"].startswith("Forwarded by ann@acme.test (dmarc passed for acme.test at mx.acme.test)")
    [row] = await acme.timeline()
    assert (row["sender"], row["subject"]) == ("bob@customer.test", "letter 1")
    activity = await acme.actions.activity(row["id"])
    assert activity is not None
    assert activity["received_by"] == ["ann@acme.test"]
    assert acme.mail.folder(FORWARD) == []


async def test_the_original_and_its_forward_are_one_activity(acme: Company) -> None:
    await acme.queue(HELP)
    raw = letter(1, f"ann@acme.test, {HELP}")
    acme.mail.deliver(HELP, raw)
    await acme.run(HELP)
    await acme.user("ann@acme.test", FilterOption.ALL, incoming=AccessMethod.FORWARD_MAILBOX)
    acme.forward_mailbox(FORWARD, trusted_authserv_id="mx.acme.test")
    acme.mail.deliver(FORWARD, forwarded(raw))
    assert (await acme.run(FORWARD)).outcomes == {Outcome.DUPLICATE: 1}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (forwarded(letter(1, "ann@acme.test"), results=""), "nothing proves that ann@acme.test forwarded this"),
        (forwarded(letter(1, "ann@acme.test"), results="mx.evil.test; dmarc=pass"), "nothing proves"),
        (forwarded(letter(1, "ann@acme.test"), results="mx.acme.test; dmarc=fail"), "nothing proves"),
        (forwarded(letter(1, "bea@acme.test"), sender="bea@acme.test"), "does not have the incoming access method"),
        (forwarded(letter(1, "x@acme.test"), sender="x@acme.test"), "is no user or queue"),
        (letter(1, FORWARD, sender="ann@acme.test"), "it carries no attached message"),
    ],
)
async def test_a_forward_that_is_not_believed_is_invalid(acme: Company, raw: bytes, words: str) -> None:
    decision = await forwarding(acme, raw)
    assert (decision["outcome"], decision["reason"]) == ("not-tracked", "InvalidForwardMailItem")
    assert words in decision["why"]
    assert await acme.timeline() == []


async def test_authentication_results_inside_the_original_are_not_believed(acme: Company) -> None:
    inside = b"Authentication-Results: mx.acme.test; dmarc=pass header.from=acme.test\r\n" + letter(1, "ann@acme.test")
    decision = await forwarding(acme, forwarded(inside, results=""))
    assert decision["reason"] == "InvalidForwardMailItem"


# -- several deployments


async def test_each_deployment_gets_the_message_and_one_that_is_away_holds_up_only_itself(
    acme: Company, tmp_path: Path
) -> None:
    await acme.queue(HELP)
    other = await company(acme.engine, tmp_path, "service")
    await other.queue(HELP)
    flaky = Flaky(other.filing)
    flaky.whole = [Transient("away", retry_after=0.0)]
    acme.change(HELP, deployments=("sales", "service"), source_action=SourceAction.DELETE)
    acme.mail.deliver(HELP, letter(1, HELP))
    async with acme.ways(HELP) as ways:
        directory = Directory(other.engine, other.organization)
        service = flow.Deployed(other.deployment, other.records, flaky, directory)
        both = replace(ways, deployments={**ways.deployments, "service": service})
        assert (await flow.run(both, acme.term)).outcomes == {Outcome.FILED: 1}
        assert len(acme.mail.folder(HELP)) == 1, "the source is changed when the last of them has its outcome"
        report = await flow.run(both, acme.term)
    assert report.outcomes == {Outcome.FILED: 1}
    assert acme.mail.folder(HELP) == []
    assert [len(await one.timeline()) for one in (acme, other)] == [1, 1]


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("code", ["23514", "54000", "XX000"])
async def test_what_the_database_will_not_store_is_set_aside_alone(acme: Company, others: int, code: str) -> None:
    """A constraint, a limit of the server, a fault of the server: never a reason to hold up the mailbox."""
    async with acme.engine.begin() as db:
        await db.execute(
            text(
                "CREATE FUNCTION crm.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.subject = 'poison' "
                f"THEN RAISE EXCEPTION 'no room for this' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$"
            )
        )
        await db.execute(
            text("CREATE TRIGGER refuse BEFORE INSERT ON crm.activity FOR EACH ROW EXECUTE FUNCTION crm.refuse()")
        )
    await acme.queue(HELP)
    for n in range(others):
        acme.mail.deliver(HELP, letter(n, HELP))
    acme.mail.deliver(HELP, letter("p", HELP, subject="poison"))
    report = await acme.run(HELP)
    assert report.outcomes.get(Outcome.FILED, 0) == others
    [kept] = await acme.undeliverable.listing()
    assert "no room for this" in kept["cause"]
    assert await acme.scalar("SELECT count(*) FROM router.receipt WHERE closed IS NULL") == 0
