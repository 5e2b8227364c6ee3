"""A router that lost its shard changes nothing any more: every write that carries a term is tried with an old one."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.crm.embedded.filing import Filing
from email_router.crm.embedded.outbox import Outbox
from email_router.crm.embedded.writing import Draft
from email_router.mime.contents import BytesContent
from email_router.mime.parse import parse
from email_router.model.errors import Fenced
from email_router.model.filing import FilingItem, IncomingEmail
from email_router.model.message import Address, DeliveryKey
from email_router.model.outgoing import RecipientResult, RecipientState, SendState, Settlement
from email_router.model.receipt import Decision, Outcome, Receipt, Term
from email_router.ports.store import Attempt, Bounce, Conclusion
from email_router.store.ledger import Ledger
from email_router.store.receipts import Receipts
from email_router.store.sent import Sent
from email_router.store.shards import Shards
from tests.fixtures.company import Company, at, company, letter
from tests.integration.store.test_backup import contents

pytestmark = pytest.mark.database

HELP = "help@acme.test"
OLD, NEW = Term(3, 1), Term(3, 2)
CLASSES = (Receipts, Ledger, Sent, Shards, Filing, Outbox)


@pytest.fixture
async def acme(engine: AsyncEngine, tmp_path: Path) -> Company:
    """With an open receipt, an email in Pending Send, one in the ledger, and one that was sent and is uncertain."""
    made = await company(engine, tmp_path)
    await made.queue(HELP)
    made.mail.deliver(HELP, letter(1, HELP))
    await made.run(HELP)
    for subject in ("uncertain", "in the ledger"):
        await made.actions.send(Draft(HELP, (Address("", "bob@customer.test"),), subject, "Hello"))
        claimed = await made.outbox.claim([HELP], 10, OLD)
        await made.ledger.open(claimed, "relay", OLD)
        if subject == "uncertain":
            [row] = await made.ledger.due("relay", 10, OLD)
            await made.ledger.hand_over([row.id], OLD)
            await made.ledger.due("relay", 10, OLD)
    await made.actions.send(Draft(HELP, (Address("", "bob@customer.test"),), "pending", "Hello"))
    await made.receipts.note(["sales"], HELP, "INBOX", [KEY], "7", OLD)
    async with made.engine.begin() as db:
        await db.exec_driver_sql(
            "INSERT INTO router.named_id (deployment, message_id, receipt) SELECT 'sales', 'parent@acme.test', id "
            "FROM router.receipt WHERE closed IS NULL"
        )
    return made


KEY = DeliveryKey(HELP, "INBOX", "77")


class Scene:
    """What the writes are about."""

    def __init__(self, acme: Company, receipt: Receipt, rows: dict[str, Any]) -> None:
        self.acme = acme
        self.receipt = receipt
        self.rows = rows

    def conclusion(self) -> Conclusion:
        return Conclusion(self.receipt, Decision(Outcome.FILED, "AcceptAll", ("why",)))

    def settlement(self) -> Settlement:
        row = self.rows["in the ledger"]
        return Settlement(row["email"], SendState.SENT, "x@y.test", 1, deployment="sales")

    def told(self) -> Settlement:
        row = self.rows["uncertain"]
        return Settlement(row["email"], SendState.UNCERTAIN, "", row["attempts"], deployment="sales")

    def attempt(self) -> Attempt:
        result = RecipientResult("bob@customer.test", RecipientState.ACCEPTED)
        return Attempt(self.rows["in the ledger"]["id"], SendState.SENT, (result,))

    def bounce(self) -> Bounce:
        return Bounce(self.rows["uncertain"]["id"], "", "bob@customer.test", "5.1.1", "No such user")

    async def item(self) -> FilingItem:
        raw = BytesContent(letter(9, HELP))
        incoming = IncomingEmail(parse(raw), at(9), HELP)
        [verdict] = await self.acme.records.judge([incoming])
        return FilingItem(incoming, verdict, raw)


Write = Callable[[Scene, Term], Awaitable[object]]


async def _file(s: Scene, t: Term) -> object:
    return await s.acme.filing.file([await s.item()], t)


async def _join(s: Scene, t: Term) -> object:
    [activity] = [row["id"] for row in await s.acme.timeline() if row["message_id"] == "1@customer.test"]
    return await s.acme.filing.join([(activity, "other@acme.test")], t)


WRITES: dict[str, Write] = {
    "Receipts.note": lambda s, t: s.acme.receipts.note(
        ["sales"], HELP, "INBOX", [DeliveryKey(HELP, "INBOX", "9")], "9", t
    ),
    "Receipts.postpone": lambda s, t: s.acme.receipts.postpone([s.receipt], 60, "away", t),
    "Receipts.conclude": lambda s, t: s.acme.receipts.conclude([s.conclusion()], t, close=True),
    "Receipts.close": lambda s, t: s.acme.receipts.close([s.receipt], t),
    "Receipts.reopen_waiting_for": lambda s, t: s.acme.receipts.reopen_waiting_for("sales", ["parent@acme.test"], t),
    "Ledger.open": lambda s, t: s.acme.ledger.open([], "relay", t),
    "Ledger.due": lambda s, t: s.acme.ledger.due("relay", 10, t),
    "Ledger.hand_over": lambda s, t: s.acme.ledger.hand_over([s.rows["in the ledger"]["id"]], t),
    "Ledger.record": lambda s, t: s.acme.ledger.record([s.attempt()], t),
    "Ledger.settle_old": lambda s, t: s.acme.ledger.settle_old("relay", "sent", -60.0, t),
    "Ledger.doubt": lambda s, t: s.acme.ledger.doubt("relay", "a restore", t),
    "Ledger.settled": lambda s, t: s.acme.ledger.settled([s.told()], t),
    "Sent.bounced": lambda s, t: Sent(s.acme.engine).bounced([s.bounce()], t),
    "Sent.proved": lambda s, t: Sent(s.acme.engine).proved("sales", {s.rows["uncertain"]["message_id"]: "seen"}, t),
    "Shards.check": lambda s, t: Shards(s.acme.engine).check(t),
    "Filing.file": _file,
    "Filing.join": _join,
    "Outbox.claim": lambda s, t: s.acme.outbox.claim([HELP], 10, t),
    "Outbox.settle": lambda s, t: s.acme.outbox.settle([s.settlement()], t),
}
CHANGES_NOTHING = {"Shards.check", "Receipts.close", "Ledger.open", "Ledger.due"}
"""Not even with a good term, as the scene is."""


def of_a_term() -> Iterator[str]:
    for cls in CLASSES:
        for name, method in inspect.getmembers(cls, inspect.iscoroutinefunction):
            if "term" in inspect.signature(method).parameters and not name.startswith("_"):
                yield f"{cls.__name__}.{name}"


def test_every_write_that_carries_a_term_is_tried() -> None:
    assert set(WRITES) == set(of_a_term())


@pytest.mark.parametrize("name", WRITES)
async def test_an_old_term_changes_nothing(acme: Company, dsn: str, name: str) -> None:
    scene = await _scene(acme)
    await Shards(acme.engine).take(3, "another router")  # epoch 2
    await acme.outbox.claim([], 1, NEW)  # of which the CRM has heard
    before = contents(dsn)
    if name == "Ledger.open":
        emails = await acme.outbox.load([scene.rows["in the ledger"]["email"]])
        with pytest.raises(Fenced):
            await acme.ledger.open(emails, "relay", OLD)
    else:
        with pytest.raises(Fenced):
            await WRITES[name](scene, OLD)
    assert contents(dsn) == before
    await WRITES[name](scene, NEW)
    assert (contents(dsn) == before) is (name in CHANGES_NOTHING)


async def _scene(acme: Company) -> Scene:
    [receipt] = await acme.receipts.note(["sales"], HELP, "INBOX", [KEY], "7", OLD)
    listing = await acme.outgoing.listing(list(SendState))
    async with acme.engine.begin() as db:
        emails = {r.id: r.email for r in await db.exec_driver_sql("SELECT id, email FROM router.ledger")}
    rows = {row["subject"].partition(" CRM:")[0]: row | {"email": emails[row["id"]]} for row in listing}
    return Scene(acme, receipt, rows)
