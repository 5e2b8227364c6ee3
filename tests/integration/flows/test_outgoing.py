"""From the CRM to the recipients, with a real database and mail in memory."""

from __future__ import annotations

import asyncio
import email
import email.policy
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from email_router.crm.embedded.outbox import Outbox
from email_router.crm.embedded.writing import Draft
from email_router.model.errors import Fenced, NeedsOperator, Permanent, Transient
from email_router.model.mailbox import FilterOption
from email_router.model.message import Address, Content
from email_router.model.outgoing import AttachmentRef, Envelope, RecipientResult, RecipientState, SendState
from email_router.model.receipt import Outcome, Term
from email_router.model.settings import UncertainPolicy
from email_router.outgoing import flow
from email_router.ports.mail import Uncertain
from tests.fixtures.company import Company, letter

pytestmark = pytest.mark.database

HELP = "help@acme.test"
BOB = Address("Bob", "bob@customer.test")


def draft(**changes: Any) -> Draft:
    return replace(Draft(HELP, (BOB,), "Hello", "How are you?"), **changes)


async def status(acme: Company, identifier: UUID) -> str:
    found = await acme.actions.activity(identifier)
    assert found is not None
    return str(found["status"])


async def ledger(acme: Company) -> list[dict[str, Any]]:
    return await acme.outgoing.listing(list(SendState))


async def test_an_answer_goes_out_with_token_and_threading_and_is_sent(acme: Company) -> None:
    await acme.queue(HELP, makes_cases=True)
    acme.mail.deliver(HELP, letter(1, HELP))
    await acme.run(HELP)
    [asked] = await acme.timeline()
    answer = draft(subject="Re: letter 1", answers=asked["id"], attachments=(("a.txt", "text/plain", b"attached"),))
    identifier = await acme.actions.send(answer)
    assert await status(acme, identifier) == "Pending Send"
    assert (await acme.send([HELP])).states == {SendState.SENT: 1}
    [(envelope, raw)] = acme.mail.sent
    assert (envelope.sender, envelope.recipients) == (HELP, ("bob@customer.test",))
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message["Subject"] == "Re: letter 1 CRM:0001001"
    assert message["In-Reply-To"] == "<1@customer.test>"
    assert [part.get_content() for part in message.iter_attachments()] == ["attached"]  # type: ignore[attr-defined]
    assert await status(acme, identifier) == "Sent"
    found = await acme.actions.activity(identifier)
    assert found is not None
    assert found["message_id"] == str(message["Message-ID"]).strip("<>")
    assert found["regarding"] == asked["regarding_id"]


async def test_a_reply_finds_its_way_by_header_and_by_token(acme: Company) -> None:
    await acme.queue(HELP, makes_cases=True)
    case = await acme.actions.add_record("incident", "A case")
    await acme.actions.send(draft(regarding=case))
    await acme.send([HELP])
    [(_, raw)] = acme.mail.sent
    sent = str(email.message_from_bytes(raw)["Message-ID"]).strip("<>")
    acme.mail.deliver(HELP, letter("by-header", HELP, answers=sent))
    acme.mail.deliver(HELP, letter("by-token", HELP, subject="AW: Hello CRM:0001001"))
    acme.mail.deliver(HELP, letter("by-nothing", HELP, subject="Hello CRM:0009999"))
    assert (await acme.run(HELP)).outcomes == {Outcome.FILED: 3}
    rows = {row["message_id"].partition("@")[0]: row for row in await acme.timeline()}
    assert rows["by-header"]["regarding_id"] == case
    assert rows["by-token"]["regarding_id"] == case
    assert rows["by-nothing"]["regarding_id"] != case


async def test_bcc_is_in_the_envelope_and_nowhere_else(acme: Company) -> None:
    await acme.queue(HELP)
    await acme.actions.send(draft(cc=(Address("", "c@d.test"),), bcc=(Address("", "secret@d.test"),)))
    await acme.send([HELP])
    [(envelope, raw)] = acme.mail.sent
    assert envelope.recipients == ("bob@customer.test", "c@d.test", "secret@d.test")
    assert b"secret" not in raw


async def test_only_the_addresses_named_may_send(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    assert (await acme.send(["other@acme.test"])).emails == 0
    assert await status(acme, identifier) == "Pending Send"


async def test_a_sender_that_is_nobody_and_an_email_to_nobody_are_refused(acme: Company) -> None:
    await acme.queue(HELP)
    with pytest.raises(Permanent, match="no user or queue"):
        await acme.actions.send(draft(sender="nobody@acme.test"))
    with pytest.raises(Permanent, match="no recipient"):
        await acme.actions.send(draft(to=()))


async def test_the_oldest_goes_first_and_senders_take_turns(acme: Company) -> None:
    await acme.queue(HELP)
    await acme.queue("sales@acme.test")
    for n in range(5):
        await acme.actions.send(draft(subject=f"help {n}"))
    await acme.actions.send(draft(sender="sales@acme.test", subject="sales 0"))
    claimed = await acme.outbox.claim([HELP, "sales@acme.test"], 2, acme.term)
    assert [e.subject.rpartition(" ")[0] for e in claimed] == ["help 0", "sales 0"]


async def test_a_server_that_is_away_pauses_and_counts_nothing(acme: Company) -> None:
    await acme.queue(HELP)
    identifiers = [await acme.actions.send(draft(subject=f"mail {n}")) for n in range(3)]
    acme.mail.fail["send"] = [Transient("away", retry_after=0.0)]
    with pytest.raises(Transient):
        await acme.send([HELP])
    assert [row["attempts"] for row in await ledger(acme)] == [0, 0, 0]
    assert [await status(acme, i) for i in identifiers] == ["Sending"] * 3
    assert (await acme.send([HELP])).states == {SendState.SENT: 3}
    assert len(acme.mail.sent) == 3


async def test_a_connection_lost_after_the_dot_is_uncertain_and_never_sent_again(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    acme.mail.fail["answer"] = [Uncertain("connection lost")]
    assert (await acme.send([HELP])).states == {SendState.UNCERTAIN: 1}
    for _ in range(3):
        assert (await acme.send([HELP])).emails == 0
    assert len(acme.mail.sent) == 1
    found = await acme.actions.activity(identifier)
    assert found is not None
    assert (found["status"], found["said"]) == ("Sending", "Uncertain: connection lost")


@pytest.mark.parametrize(
    ("verdict", "state", "copies"), [("sent", "Sent", 1), ("failed", "Failed", 1), ("again", "Sent", 2)]
)
async def test_a_person_settles_what_is_uncertain(acme: Company, verdict: str, state: str, copies: int) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    acme.mail.fail["answer"] = [Uncertain("connection lost")]
    await acme.send([HELP])
    [row] = await ledger(acme)
    assert await acme.outgoing.settle(row["id"], verdict)
    assert not await acme.outgoing.settle(row["id"], verdict)
    await acme.send([HELP])
    assert await status(acme, identifier) == state
    assert len(acme.mail.sent) == copies
    assert len({email.message_from_bytes(raw)["Message-ID"] for _, raw in acme.mail.sent}) == 1


async def uncertain(acme: Company, hours: float) -> UUID:
    """An email that was handed over so long ago, and never answered for."""
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    acme.mail.fail["answer"] = [Uncertain("connection lost")]
    await acme.send([HELP])
    assert (await status(acme, identifier), len(acme.mail.sent)) == ("Sending", 1)
    async with acme.engine.begin() as db:
        changed = "UPDATE router.ledger SET handed_over = now() - make_interval(secs => :seconds)"
        await db.execute(text(changed), {"seconds": hours * 3600})
    return identifier


@pytest.mark.parametrize(
    ("policy", "hours", "state", "copies", "said"),
    [
        (UncertainPolicy.ASK, 1000, "Sending", 1, "Uncertain: connection lost"),
        (UncertainPolicy.SENT, 23.9, "Sending", 1, "Uncertain: connection lost"),
        (
            UncertainPolicy.SENT,
            24.1,
            "Sent",
            1,
            "nothing was heard of it for 24 hours: taken for sent, as the settings say",
        ),
        (UncertainPolicy.AGAIN, 23.9, "Sending", 1, "Uncertain: connection lost"),
        (UncertainPolicy.AGAIN, 24.1, "Sent", 2, ""),
    ],
)
async def test_the_settings_may_settle_what_is_uncertain(
    acme: Company, policy: UncertainPolicy, hours: float, state: str, copies: int, said: str
) -> None:
    identifier = await uncertain(acme, hours)
    acme.profile = replace(acme.profile, uncertain_policy=policy)
    for _ in range(2):
        await acme.send([HELP])
        found = await acme.actions.activity(identifier)
        assert found is not None
        assert (found["status"], len(acme.mail.sent), found["said"]) == (state, copies, said)
    assert len({email.message_from_bytes(raw)["Message-ID"] for _, raw in acme.mail.sent}) == 1


@pytest.mark.parametrize("option", [FilterOption.ALL, FilterOption.NONE])
async def test_a_reply_proves_that_it_was_sent(acme: Company, option: FilterOption) -> None:
    identifier = await uncertain(acme, 1)
    [row] = await ledger(acme)
    await acme.user("ann@acme.test", option)
    acme.mail.deliver("ann@acme.test", letter(1, "ann@acme.test", answers=row["message_id"]))
    await acme.run("ann@acme.test")
    await acme.send([HELP])
    found = await acme.actions.activity(identifier)
    assert found is not None
    assert (found["status"], found["said"]) == ("Sent", "it was sent: a message from bob@customer.test names it")
    assert len(acme.mail.sent) == 1


async def test_our_own_email_proves_itself_and_not_what_it_answers(acme: Company) -> None:
    """A second email of ours names the first, whether or not anybody has got that."""
    identifier = await uncertain(acme, 1)
    [row] = await ledger(acme)
    await acme.user("ann@acme.test", FilterOption.ALL)
    second = await acme.actions.send(draft(to=(BOB, Address("", "ann@acme.test"))))
    await acme.send([HELP])
    _, raw = acme.mail.sent[-1]
    answer = raw.replace(b"\r\nMessage-ID:", f"\r\nIn-Reply-To: <{row['message_id']}>\r\nMessage-ID:".encode(), 1)
    assert answer != raw
    acme.mail.deliver("ann@acme.test", answer)
    await acme.run("ann@acme.test")
    await acme.send([HELP])
    assert (await status(acme, second), await status(acme, identifier)) == ("Sent", "Sending")

    _, first = acme.mail.sent[0]
    acme.mail.deliver("ann@acme.test", first)
    await acme.run("ann@acme.test")
    await acme.send([HELP])
    found = await acme.actions.activity(identifier)
    assert found is not None
    assert (found["status"], found["said"]) == ("Sent", "it was sent: it lies in a mailbox of ours")


@pytest.mark.parametrize(("verdict", "copies"), [("sent", 1), ("again", 2)])
async def test_a_router_that_ends_after_the_policy_was_applied_applies_it_once(
    acme: Company, verdict: str, copies: int
) -> None:
    identifier = await uncertain(acme, 25)
    acme.profile = replace(acme.profile, uncertain_policy=UncertainPolicy(verdict))
    assert await acme.ledger.settle_old("relay", verdict, 24 * 3600, acme.term) == 1  # and it ends
    assert await status(acme, identifier) == "Sending"
    assert await acme.ledger.settle_old("relay", verdict, 24 * 3600, acme.term) == 0
    for _ in range(2):
        await acme.send([HELP])
        assert (await status(acme, identifier), len(acme.mail.sent)) == ("Sent", copies)


async def test_a_reply_to_something_else_proves_nothing(acme: Company) -> None:
    identifier = await uncertain(acme, 1)
    acme.mail.deliver(HELP, letter(1, HELP, answers="other@acme.test"))
    await acme.run(HELP)
    await acme.send([HELP])
    assert await status(acme, identifier) == "Sending"


async def test_a_mark_without_a_result_is_uncertain_for_the_next_router(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    [claimed] = await acme.outbox.claim([HELP], 10, acme.term)
    [row] = await acme.ledger.open([claimed], "relay", acme.term)
    await acme.ledger.hand_over([row.id], acme.term)
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE router.shard SET epoch = 2 WHERE number = 3"))
    acme.term = Term(3, 2)
    assert (await acme.send([HELP])).emails == 0
    assert acme.mail.sent == []
    assert [r["state"] for r in await ledger(acme)] == ["uncertain"]
    assert await status(acme, identifier) == "Sending"


@pytest.mark.parametrize("after", ["claim", "ledger"])
async def test_a_router_that_died_between_claim_and_hand_over_loses_nothing(acme: Company, after: str) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    claimed = await acme.outbox.claim([HELP], 10, acme.term)
    if after == "ledger":
        await acme.ledger.open(claimed, "relay", acme.term)
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE router.shard SET epoch = 2 WHERE number = 3"))
    acme.term = Term(3, 2)
    assert (await acme.send([HELP])).states == {SendState.SENT: 1}
    assert len(acme.mail.sent) == 1
    assert await status(acme, identifier) == "Sent"


async def test_a_fenced_router_hands_nothing_over(acme: Company) -> None:
    await acme.queue(HELP)
    await acme.actions.send(draft())

    class Losing:
        async def send(
            self, content: Content, envelope: Envelope, handing_over: Callable[[], Awaitable[None]]
        ) -> Sequence[RecipientResult]:
            async with acme.engine.begin() as db:
                await db.execute(text("UPDATE router.shard SET epoch = 2 WHERE number = 3"))
            await handing_over()
            raise AssertionError("it was handed over")

    ways = flow.Ways(
        acme.profile,
        {"sales": flow.Sending(acme.outbox, (HELP,))},
        acme.ledger,
        acme.ledger,
        [Losing()],
        acme.spool,
    )
    with pytest.raises(Fenced):
        await flow.run(ways, acme.term)


class Answering:
    """A server that answers each recipient as it is told; what it took is in `took`."""

    def __init__(self, *answers: dict[str, int]) -> None:
        self.answers = list(answers)
        self.took: list[tuple[str, ...]] = []

    async def send(
        self, content: Content, envelope: Envelope, handing_over: Callable[[], Awaitable[None]]
    ) -> Sequence[RecipientResult]:
        await handing_over()
        codes = self.answers.pop(0)
        self.took.append(envelope.recipients)
        states = {2: RecipientState.ACCEPTED, 4: RecipientState.DEFERRED, 5: RecipientState.REFUSED}
        return [
            RecipientResult(a, states[codes[a] // 100], codes[a], "", f"{codes[a]} said") for a in envelope.recipients
        ]


async def rounds(acme: Company, server: Answering, number: int) -> None:
    for _ in range(number):
        ways = flow.Ways(
            replace(acme.profile, retry_seconds=0.0, attempts=3),
            {"sales": flow.Sending(acme.outbox, (HELP,))},
            acme.ledger,
            acme.ledger,
            [server],
            acme.spool,
        )
        await flow.run(ways, acme.term)


async def test_retries_go_to_the_deferred_only_and_sent_is_sent_when_one_accepted(acme: Company) -> None:
    await acme.queue(HELP)
    to = tuple(Address("", f"{name}@customer.test") for name in "abc")
    identifier = await acme.actions.send(draft(to=to))
    a, b, c = (person.address for person in to)
    server = Answering({a: 250, b: 451, c: 550}, {b: 250})
    await rounds(acme, server, 1)
    assert await status(acme, identifier) == "Sending"
    await rounds(acme, server, 1)
    assert server.took == [(a, b, c), (b,)]
    found = await acme.actions.activity(identifier)
    assert found is not None
    assert (found["status"], found["attempts"]) == ("Sent", 2)
    assert [(p["state"], p["said"]) for p in found["parties"][1:]] == [
        ("accepted", "250 said"),
        ("accepted", "250 said"),
        ("refused", "550 said"),
    ]


async def test_failed_says_the_servers_words(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    await rounds(acme, Answering({BOB.address: 550}), 1)
    found = await acme.actions.activity(identifier)
    assert found is not None
    assert (found["status"], found["said"]) == ("Failed", "bob@customer.test: 550 said")


async def test_greylisting_for_ever_is_given_up(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    server = Answering(*[{BOB.address: 450}] * 3)
    await rounds(acme, server, 5)
    assert len(server.took) == 3
    found = await acme.actions.activity(identifier)
    assert found is not None
    assert (found["status"], found["said"]) == ("Failed", "bob@customer.test: 450 said (given up after 3 attempts)")


async def test_a_login_that_is_refused_stops_the_profile_and_not_the_mail(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    acme.mail.fail["send"] = [NeedsOperator("wrong password", scope="profile")]
    with pytest.raises(NeedsOperator):
        await acme.send([HELP])
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE router.ledger SET next_attempt = now()"))
    await acme.send([HELP])
    assert await status(acme, identifier) == "Sent"


async def test_a_message_that_cannot_be_sent_fails_with_words_and_the_others_go(acme: Company) -> None:
    await acme.queue(HELP)
    first = await acme.actions.send(draft())
    second = await acme.actions.send(draft())
    acme.mail.fail["send"] = [Permanent("it is too large", cure="send it by pigeon")]
    await acme.send([HELP])
    assert [await status(acme, first), await status(acme, second)] == ["Failed", "Sent"]


async def test_a_cancelled_email_is_not_sent(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    await rounds(acme, Answering({BOB.address: 450}), 1)
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE crm.activity SET status = 5"))
    await acme.send([HELP])
    assert acme.mail.sent == []
    assert await status(acme, identifier) == "Canceled"


async def test_a_hold_holds_everything(acme: Company) -> None:
    await acme.queue(HELP)
    await acme.actions.send(draft())
    async with acme.engine.begin() as db:
        await db.execute(
            text(
                "INSERT INTO router.installation (id, host, outgoing_hold) VALUES (gen_random_uuid(), 'h', 'restored')"
            )
        )
    report = await acme.send([HELP])
    assert (report.held, report.emails, acme.mail.sent) == ("restored", 0, [])


async def test_many_senders_share_the_commits_and_send_each_once(acme: Company) -> None:
    await acme.queue(HELP)
    for n in range(60):
        await acme.actions.send(draft(subject=f"mail {n}"))
    assert (await acme.send([HELP], connections=8)).states == {SendState.SENT: 60}
    assert len({email.message_from_bytes(raw)["Message-ID"] for _, raw in acme.mail.sent}) == 60


async def test_two_routers_never_claim_one_email_twice(acme: Company) -> None:
    await acme.queue(HELP)
    for n in range(40):
        await acme.actions.send(draft(subject=f"mail {n}"))
    both = await asyncio.gather(acme.outbox.claim([HELP], 25, Term(3, 1)), acme.outbox.claim([HELP], 25, Term(4, 1)))
    ids = [e.id for claimed in both for e in claimed]
    assert len(ids) == len(set(ids)) >= 25


async def other_profile(acme: Company) -> None:
    """The mailbox is published with another profile, which lies in another shard, and some time passes."""
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE router.shard SET epoch = 1 WHERE number = 4"))
        await db.execute(text("UPDATE crm.activity SET claimed = claimed - interval '1 hour'"))
        await db.execute(text("UPDATE router.ledger SET next_attempt = now()"))
    acme.term, acme.profile = Term(4, 1), replace(acme.profile, name="other relay")


async def test_what_an_old_profile_did_not_finish_goes_out_through_the_new_one(acme: Company) -> None:
    """Its server is away for good; the administrator gives the mailbox another profile."""
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    acme.mail.fail["send"] = [Transient("the relay is away")]
    with pytest.raises(Transient):
        await acme.send([HELP])
    await other_profile(acme)
    assert (await acme.send([HELP])).states == {SendState.SENT: 1}
    assert await status(acme, identifier) == "Sent"
    assert len(acme.mail.sent) == 1


async def test_what_an_old_profile_handed_over_is_uncertain_in_the_new_one(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    [claimed] = await acme.outbox.claim([HELP], 10, acme.term)
    [row] = await acme.ledger.open([claimed], acme.profile.name, acme.term)
    await acme.ledger.hand_over([row.id], acme.term)
    await other_profile(acme)
    assert (await acme.send([HELP])).states == {}
    [uncertain] = await ledger(acme)
    assert (uncertain["state"], uncertain["profile"]) == ("uncertain", "other relay")
    assert await status(acme, identifier) == "Sending"
    assert acme.mail.sent == []


async def test_a_result_that_an_old_profile_did_not_tell_is_told_by_the_new_one(acme: Company) -> None:
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft())
    await acme.send([HELP])
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE router.ledger SET settled = false"))
        await db.execute(text("UPDATE crm.activity SET status = 7"))
    await other_profile(acme)
    await acme.send([HELP])
    assert await status(acme, identifier) == "Sent"
    assert len(acme.mail.sent) == 1


async def test_an_old_profile_that_comes_late_hands_nothing_over(acme: Company) -> None:
    await acme.queue(HELP)
    await acme.actions.send(draft())
    [claimed] = await acme.outbox.claim([HELP], 10, acme.term)
    [row] = await acme.ledger.open([claimed], acme.profile.name, acme.term)
    late = acme.term
    await other_profile(acme)
    assert (await acme.send([HELP])).states == {SendState.SENT: 1}
    with pytest.raises(Fenced):
        await acme.ledger.hand_over([row.id], late)
    assert len(acme.mail.sent) == 1


async def test_our_own_full_disk_fails_no_email_and_leaves_nothing_behind(acme: Company) -> None:
    """Nor does a database that goes away in the middle of an attachment."""
    await acme.queue(HELP)
    identifier = await acme.actions.send(draft(attachments=(("a.bin", "application/x", b"x" * 3_000_000),)))
    home, acme.directory = acme.directory, acme.directory / "full"
    with pytest.raises(Transient, match="could not be spooled"):
        await acme.send([HELP])
    acme.directory = home
    assert await status(acme, identifier) == "Sending"

    class Breaking(Outbox):
        async def attachment(self, email: UUID, ref: AttachmentRef) -> AsyncIterator[bytes]:
            yield b"x" * 2_000_000
            raise Transient("the database is away")

    working, acme.outbox = acme.outbox, Breaking(acme.engine, acme.organization, acme.deployment.name)
    await soon(acme)
    with pytest.raises(Transient, match="database"):
        await acme.send([HELP])
    assert list(acme.directory.glob("spool-*")) == []
    acme.outbox = working
    await soon(acme)
    assert (await acme.send([HELP])).states == {SendState.SENT: 1}


async def soon(acme: Company) -> None:
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE router.ledger SET next_attempt = now()"))


async def test_a_full_disk_postpones_and_no_email_fails(acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    await acme.queue(HELP)
    large = ("a.bin", "application/octet-stream", b"x" * 2_000_000)
    identifier = await acme.actions.send(draft(attachments=(large,)))

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("tempfile.mkstemp", full)
        with pytest.raises(Transient, match="could not be spooled"):
            await acme.send([HELP])
    assert await status(acme, identifier) == "Sending"
    async with acme.engine.begin() as db:
        await db.execute(text("UPDATE router.ledger SET next_attempt = now()"))
    assert (await acme.send([HELP])).states == {SendState.SENT: 1}
    assert [row["attempts"] for row in await ledger(acme)] == [1]
