"""A router's settings and what its shards serve follow each publication."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.app import Router
from email_router.settings.bootstrap import Bootstrap
from email_router.work.shard import SHARDS, shard_of

pytestmark = pytest.mark.database

PROFILES = """\
[deployment.sales]
organization = "Acme"
incoming_profile = "office"
outgoing_profile = "relay"

[incoming.office]
kind = "imap"
host = "localhost"

[outgoing.relay]
kind = "smtp"
host = "localhost"

"""


def mailbox(address: str, more: str = "") -> str:
    return f'[mailbox."{address}"]\nkind = "queue"\n{more}\n'


@pytest.fixture
def router(engine: AsyncEngine, dsn: str, tmp_path: Path) -> Router:
    return Router(Bootstrap(data=str(tmp_path)), engine, dsn, None, alone=True)


async def served(router: Router) -> dict[str, int]:
    """Every unit's name and the shard that serves it."""
    return {unit.name: shard for shard in range(SHARDS) for unit in await router.units(shard)}


async def test_shards_serve_what_the_newest_revision_says(router: Router) -> None:
    assert await served(router) == {}
    await router.publish(PROFILES + mailbox("a@acme.test") + mailbox("b@acme.test"), "test", "settings.toml")
    names = ("a@acme.test", "b@acme.test", "outgoing relay")
    assert await served(router) == {name: shard_of(name) for name in names}
    text = PROFILES + mailbox("a@acme.test", "enabled = false") + mailbox("c@acme.test")
    await router.publish(text, "test", "settings.toml")
    assert set(await served(router)) == {"c@acme.test", "outgoing relay"}


async def test_only_a_change_reads_the_whole_text_again(router: Router) -> None:
    """Shards ask every two seconds; with ten thousand mailboxes the text has a megabyte."""
    asked: list[str] = []

    @event.listens_for(router.engine.sync_engine, "before_cursor_execute")
    def hear(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if "SELECT source" in statement:
            asked.append(statement)

    await router.publish(PROFILES + mailbox("a@acme.test"), "test", "settings.toml")
    await served(router)
    await served(router)
    assert len(asked) == 1
    await router.publish(PROFILES, "test", "settings.toml")
    await served(router)
    assert len(asked) == 2
