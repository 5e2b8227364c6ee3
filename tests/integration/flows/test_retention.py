"""What is kept only for some days goes after them, and nothing else with it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.app.router import LONG_AGO, Router
from email_router.model.mailbox import FilterOption
from email_router.settings.bootstrap import Bootstrap
from email_router.store.decisions import Decisions
from email_router.store.pseudonyms import Pseudonyms
from email_router.store.retention import Retention
from tests.fixtures.company import PSEUDONYMS, Company, at, company, letter

pytestmark = pytest.mark.database

HELP = "help@acme.test"
ANNA = "anna@acme.test"


async def filled(acme: Company) -> None:
    """One message that is tracked, and one reply to something unknown that is not."""
    await acme.queue(HELP)
    await acme.user(ANNA, FilterOption.IN_RESPONSE)
    acme.mail.deliver(HELP, letter(1, HELP), at(1))
    acme.mail.deliver(ANNA, letter(2, ANNA, subject="private", answers="earlier@customer.test"), at(2))
    await acme.run(HELP)
    await acme.run(ANNA)


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=1)


async def test_without_a_key_only_the_decision_stays_of_untracked_mail(acme: Company) -> None:
    await filled(acme)
    before = {row["outcome"]: row for row in await acme.decisions.search()}
    assert before["not-tracked"]["subject"] == "private"
    assert await acme.scalar("SELECT count(*) FROM router.named_id") == 1

    await Retention(acme.engine, Pseudonyms(None)).forget_untracked("sales", LONG_AGO, soon())
    after = {row["outcome"]: row for row in await acme.decisions.search()}
    assert after["filed"] == before["filed"]
    kept = after["not-tracked"]
    assert (kept["sender"], kept["recipients"], kept["subject"], kept["losing"]) == ("", "", "", "")
    assert (kept["reason"], kept["message_id"]) == ("NoCorrelationMatch", "2@customer.test")
    assert "tracks only replies" in kept["why"]
    assert "bob@customer.test" not in kept["why"]
    assert await acme.scalar("SELECT count(*) FROM router.named_id") == 0


async def test_hashes_stay_of_untracked_mail_and_whoever_knows_an_address_finds_it(acme: Company) -> None:
    await filled(acme)
    acme.mail.deliver(ANNA, letter(3, ANNA, sender="carla@customer.test", answers="earlier@customer.test"), at(3))
    await acme.run(ANNA)
    for _ in range(2):  # what is hashed already is left alone
        await Retention(acme.engine, PSEUDONYMS).forget_untracked("sales", LONG_AGO, soon())
    carla, bob, filed = await acme.decisions.search()
    assert [row["message_id"] for row in (carla, bob, filed)] == [f"{n}@customer.test" for n in (3, 2, 1)]
    assert filed["sender"] == "bob@customer.test", "what was tracked is kept"
    hashed = re.compile(r"hash:[0-9a-f]{32}")
    for row in (carla, bob):
        assert hashed.fullmatch(row["sender"]) and hashed.fullmatch(row["recipients"])
        assert hashed.fullmatch(row["subject"])
        assert not re.search("bob@|carla@|private", str(row))
    assert carla["sender"] != bob["sender"] and carla["recipients"] == bob["recipients"]

    search = acme.decisions.search
    assert await search(sender="Bob@customer.test") == [bob, filed]
    assert await search(sender="bob@") == [filed], "a part of an address is in no hash"
    assert await search(sender=bob["sender"][5:9]) == []
    assert await search(subject="Private") == [bob]
    assert await search(message_id="2@customer.test") == [bob]
    assert await Decisions(acme.engine, Pseudonyms(b"k" * 32)).search(sender="carla@customer.test") == []
    assert await Decisions(acme.engine, Pseudonyms(None)).search(sender="carla@customer.test") == []


async def test_what_is_younger_or_of_another_deployment_stays(acme: Company) -> None:
    await filled(acme)
    before = await acme.decisions.search()
    retention = Retention(acme.engine, PSEUDONYMS)
    await retention.forget_untracked("sales", LONG_AGO, datetime.now(UTC) - timedelta(minutes=1))
    await retention.forget_untracked("service", LONG_AGO, soon())
    await retention.forget_untracked("sales", soon(), soon() + timedelta(days=1))
    assert await acme.decisions.search() == before


async def test_raw_messages_go_and_activities_stay(acme: Company, engine: AsyncEngine, tmp_path: Path) -> None:
    other = await company(engine, tmp_path, "service")
    await filled(acme)
    await other.queue("orders@acme.test")
    other.mail.deliver("orders@acme.test", letter(3, "orders@acme.test"), at(3))
    await other.run("orders@acme.test")
    [mine], [theirs] = await acme.timeline(), await other.timeline()
    assert await acme.actions.forget_raw(datetime.now(UTC) - timedelta(minutes=1)) == 0
    assert await acme.actions.forget_raw(soon()) == 1
    assert await acme.timeline() == [mine]
    assert [chunk async for chunk in acme.actions.raw(mine["id"])] == []
    assert [chunk async for chunk in other.actions.raw(theirs["id"])] == [letter(3, "orders@acme.test")]


async def test_each_deployment_is_kept_as_long_as_its_settings_say(acme: Company, dsn: str, tmp_path: Path) -> None:
    await filled(acme)
    [activity] = await acme.timeline()
    router = Router(Bootstrap(data=str(tmp_path), dsn=dsn), acme.engine, dsn, None, alone=False)
    long = f'[deployment.sales]\norganization = "{acme.deployment.organization}"\n'
    await router.publish(long, "test", "settings.toml")
    await router.forget()
    assert len([chunk async for chunk in acme.actions.raw(activity["id"])]) == 1
    assert {row["subject"] for row in await acme.decisions.search()} == {"letter 1", "private"}

    async with acme.engine.begin() as db:  # a month goes by
        await db.execute(text("UPDATE router.decision SET created = created - interval '31 days'"))
    await router.forget()  # looked at less than an hour ago
    assert {row["subject"] for row in await acme.decisions.search()} == {"letter 1", "private"}
    await router.publish(long + "keep_raw_days = 0\nkeep_untracked_days = 30\n", "test", "settings.toml")
    await router.forget()
    assert [chunk async for chunk in acme.actions.raw(activity["id"])] == []
    assert {row["subject"] for row in await acme.decisions.search()} == {"letter 1", ""}
