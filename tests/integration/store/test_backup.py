"""Backup and restore: everything comes back, all of it or nothing, and no mail goes out before somebody says so."""

from __future__ import annotations

import asyncio
import json
import os
import tarfile
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.app.router import Router, _migrate
from email_router.crm.embedded.writing import Draft
from email_router.model.errors import NeedsOperator
from email_router.model.message import Address
from email_router.model.outgoing import SendState
from email_router.net.postgres import open_engine
from email_router.settings.bootstrap import Bootstrap
from email_router.store import backup
from email_router.store.installation import Installation
from email_router.store.secrets import decoded, new_key
from tests.fixtures.company import Company, company, letter
from tests.fixtures.database import Server

pytestmark = pytest.mark.database

HELP = "help@acme.test"
SETTINGS = f"""\
[deployment.sales]
organization = "Acme sales"

[outgoing.relay]
kind = "smtp"
host = "smtp.example.com"

[mailbox."{HELP}"]
kind = "queue"
outgoing_profile = "relay"
"""
KEY = decoded(new_key(), "test")


@pytest.fixture
async def acme(engine: AsyncEngine, tmp_path: Path) -> Company:
    return await company(engine, tmp_path)


def made(engine: AsyncEngine, dsn: str, directory: Path) -> Router:
    return Router(Bootstrap(data=str(directory), dsn=dsn), engine, dsn, KEY, alone=False, name="test")


@pytest.fixture
async def original(acme: Company, dsn: str, tmp_path: Path) -> Router:
    """With mail filed, sent and waiting, a large attachment, a secret, and settings."""
    router = made(acme.engine, dsn, tmp_path)
    await router.installation.open("original")
    await router.publish(SETTINGS, "test", "settings.toml")
    await router.secrets.store("relay", "hush")
    await acme.queue(HELP, makes_cases=True)
    acme.mail.deliver(HELP, letter(1, HELP, body="x\\.\n\\N\t\\t \N{SNOWMAN}\r\n" + "y" * 100_000))
    acme.mail.deliver(HELP, letter(2, HELP, answers="1@customer.test"))
    await acme.run(HELP)
    attached = (("a.bin", "application/octet-stream", os.urandom(3_000_000)),)
    await acme.actions.send(Draft(HELP, (Address("", "bob@customer.test"),), "Sent", "one", attachments=attached))
    assert (await acme.send([HELP])).states == {SendState.SENT: 1}
    await acme.actions.send(Draft(HELP, (Address("", "bob@customer.test"),), "Waiting", "two"))
    return router


@pytest.fixture
async def elsewhere(postgres: Server, tmp_path: Path) -> AsyncIterator[Router]:
    """Another installation, without settings."""
    name = postgres.clone()
    dsn = postgres.named(name)
    engine = open_engine(dsn, 5)
    router = made(engine, dsn, tmp_path / "elsewhere")
    await router.installation.open("elsewhere")
    yield router
    await engine.dispose()
    postgres.drop(name)


def contents(dsn: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of ours, apart from who the installation is."""
    with psycopg.connect(dsn) as db:
        tables = db.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname = ANY(%s)",
            [["router", "crm", "work"]],
        ).fetchall()
        return {
            t: sorted(db.execute(f"SELECT * FROM {t}").fetchall(), key=repr)
            for (t,) in tables
            if "installation" not in t
        }


async def scalar(router: Router, query: str) -> Any:
    async with router.engine.begin() as db:
        return (await db.execute(text(query))).scalar()


async def test_everything_comes_back(original: Router, elsewhere: Router, tmp_path: Path) -> None:
    file = tmp_path / "whole.backup"
    manifest = await original.backup(file)
    assert (manifest["host"], manifest["secrets"], manifest["key"]) == ("original", 1, original.key_name)
    assert file.stat().st_mode & 0o777 == 0o600
    before = contents(original.dsn)
    assert len(before["crm.activity"]) == 4 and before["crm.content_chunk"]
    assert await backup.restore(elsewhere.engine, elsewhere.dsn, file, replace=False) == manifest
    assert contents(elsewhere.dsn) == before
    assert await elsewhere.secrets.read("relay") == "hush"


async def test_what_was_waiting_is_uncertain_and_nothing_goes_out(
    original: Router, elsewhere: Router, tmp_path: Path
) -> None:
    file = tmp_path / "whole.backup"
    taken = (await original.backup(file))["taken"]
    _, uncertain = await elsewhere.restore(file, replace=False)
    assert uncertain == 1
    assert (
        await scalar(elsewhere, "SELECT string_agg(state, ' ' ORDER BY state) FROM router.ledger") == "sent uncertain"
    )
    assert await scalar(elsewhere, "SELECT outgoing_hold FROM router.installation") == (
        f"the database was restored from a backup of {taken}; the original may have sent mail since"
    )
    assert (await elsewhere.settings()).revision == 1


async def test_a_restore_that_is_broken_off_holds_what_would_go_out(
    original: Router, elsewhere: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "whole.backup"
    await original.backup(file)

    async def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("email_router.app.router._migrate", killed)
        with pytest.raises(KeyboardInterrupt):
            await elsewhere.restore(file, replace=False)
    hold = await Installation(elsewhere.engine).open("elsewhere", shared=True)
    assert hold == "a restore was broken off before its end; run it again, with --replace"
    _, uncertain = await elsewhere.restore(file, replace=True)
    assert uncertain == 1


async def test_a_restore_is_all_or_nothing(original: Router, elsewhere: Router, tmp_path: Path) -> None:
    """Its connection is cut while rows are written: what was there is there."""
    file = tmp_path / "whole.backup"
    await original.backup(file)
    await elsewhere.secrets.store("mine", "own")
    before = contents(elsewhere.dsn)
    waiting = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DROP%'"
    )
    with psycopg.connect(elsewhere.dsn) as holding, psycopg.connect(elsewhere.dsn, autocommit=True) as cutting:
        holding.execute("LOCK TABLE router.secret IN ACCESS SHARE MODE")  # which DROP SCHEMA waits for
        restoring = asyncio.create_task(elsewhere.restore(file, replace=False))
        async with asyncio.timeout(30):
            while not cutting.execute(waiting).fetchall():
                await asyncio.wait([restoring], timeout=0.02)
        with pytest.raises(NeedsOperator, match=r"The backup could not be restored.*nothing was changed"):
            await restoring
    assert contents(elsewhere.dsn) == before


async def test_what_a_newer_release_made_is_gone_and_made_again(
    original: Router, elsewhere: Router, tmp_path: Path
) -> None:
    """A backup of an older release, restored by a newer one: tables that it does not know are in nobody's way."""
    file = tmp_path / "whole.backup"
    async with original.engine.begin() as db:
        await db.execute(text("UPDATE router.alembic_version SET version_num = '0002'"))
        await db.execute(
            text("ALTER TABLE router.decision DROP COLUMN class, DROP COLUMN class_line, DROP COLUMN hashed")
        )
        await db.execute(text("DROP INDEX router.ledger_message_id"))
    await original.backup(file)
    async with elsewhere.engine.begin() as db:
        await db.execute(text("CREATE TABLE router.of_tomorrow (id integer)"))
    await elsewhere.restore(file, replace=False)
    assert await scalar(elsewhere, "SELECT to_regclass('router.of_tomorrow')") is None
    assert await scalar(elsewhere, "SELECT count(*) FROM router.decision WHERE class = ''") == 2
    await _migrate(elsewhere.dsn)  # and it is at its head


async def test_settings_are_never_replaced_by_accident(original: Router, tmp_path: Path) -> None:
    file = tmp_path / "whole.backup"
    await original.backup(file)
    with pytest.raises(NeedsOperator, match=r"in use already.*--replace"):
        await original.restore(file, replace=False)


def broken(file: Path, whole: bytes, how: str) -> None:
    if how == "a text":
        file.write_text("hello")
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "cut off":
        file.write_bytes(whole[: len(whole) // 2])
    elif how == "another archive":
        with tarfile.open(file, "w"):
            pass
    elif how == "a dump that is damaged":
        file.write_bytes(whole[:3000] + bytes(2000) + whole[5000:])
    elif how == "of tomorrow":
        manifest = file.with_name("manifest.json")
        manifest.write_text(json.dumps({"format": 2}))
        with tarfile.open(file, "w") as out:
            out.add(manifest, "manifest.json")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("absent", "The backup cannot be read"),
        ("a text", "This file is no backup"),
        ("empty", "This file is no backup"),
        ("another archive", "This file is no backup"),
        ("cut off", "The backup is damaged"),
        ("a dump that is damaged", "pg_restore failed"),
        ("of tomorrow", "made by a newer release"),
    ],
)
async def test_a_file_that_is_no_backup_changes_nothing(
    original: Router, elsewhere: Router, tmp_path: Path, how: str, words: str
) -> None:
    file = tmp_path / "whole.backup"
    await original.backup(file)
    whole = file.read_bytes()
    file.unlink()
    broken(file, whole, how)
    before = contents(elsewhere.dsn)
    with pytest.raises(NeedsOperator, match=words) as told:
        await elsewhere.restore(file, replace=True)
    assert told.value.where == str(file) and told.value.cure
    assert contents(elsewhere.dsn) == before


async def test_a_copy_on_another_host_holds_outgoing_mail(engine: AsyncEngine) -> None:
    installation = Installation(engine)
    assert await installation.open("here") == ""
    assert await installation.open("here") == ""
    assert await installation.open("there", shared=True) == "", "a shared database serves many hosts"
    hold = await installation.open("there")
    assert hold == "this installation is known to run on here, and it was started on there"
    assert await installation.open("here") == hold, "until somebody says so"
    await installation.release("there")
    assert await installation.open("there") == ""


def test_of_the_daily_dumps_the_newest_seven_are_kept(tmp_path: Path) -> None:
    days = [date(2026, 10, 28 + n) if n < 4 else date(2026, 11, n - 3) for n in range(9)]
    for day in days:
        backup.daily_name(tmp_path, day).touch()
    (tmp_path / "mine.backup").touch()
    assert backup.expired(tmp_path) == [backup.daily_name(tmp_path, day) for day in (days[1], days[0])]


async def test_the_daily_dump_is_made_once_a_day_and_can_be_restored(
    original: Router, elsewhere: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = Router(
        Bootstrap(data=original.bootstrap.data), original.engine, original.dsn, KEY, alone=True, name="test"
    )
    taken: list[Path] = []
    plain = router.backup

    async def counted(file: Path) -> dict[str, Any]:
        taken.append(file)
        return await plain(file)

    monkeypatch.setattr(router, "backup", counted)
    await router._daily_dump()
    await router._daily_dump()
    [file] = taken
    assert list(file.parent.iterdir()) == [file]
    await elsewhere.restore(file, replace=False)
    assert (await elsewhere.settings()).revision == 1


async def test_a_backup_that_cannot_be_written_leaves_nothing_behind(original: Router, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NeedsOperator, match="directory for the backup cannot be made"):
        await original.backup(tmp_path / "file" / "whole.backup")
    (tmp_path / "taken").mkdir()
    with pytest.raises(NeedsOperator, match="The backup could not be written"):
        await original.backup(tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("tmp")) == []
