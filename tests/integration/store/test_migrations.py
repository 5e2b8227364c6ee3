"""Schema changes: from nothing to the newest, twice without harm, by two at once, and never backwards."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from email_router import store
from email_router.crm import embedded as crm
from email_router.model.errors import NeedsOperator
from email_router.store.migrate import migrate
from tests.fixtures.database import Server

pytestmark = pytest.mark.database

BOTH = ((store.MIGRATIONS, store.SCHEMA), (crm.MIGRATIONS, crm.SCHEMA))
SHAPE = """
SELECT table_schema, table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
WHERE table_schema IN ('router', 'crm') ORDER BY 1, 2, 3
"""


@pytest.fixture
def empty(postgres: Server) -> Iterator[str]:
    name = f"empty_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.named("postgres"), autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
    yield postgres.named(name)
    postgres.drop(name)


def shape(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as db:
        return db.execute(SHAPE).fetchall()


async def test_from_nothing_and_once_more(empty: str, dsn: str) -> None:
    for location, schema in BOTH:
        await migrate(empty, location, schema)
    made = shape(empty)
    assert made == shape(dsn) and len(made) > 100
    for location, schema in BOTH:
        await migrate(empty, location, schema)
    assert shape(empty) == made


async def test_routers_that_start_at_once_make_it_once(empty: str, dsn: str) -> None:
    await asyncio.gather(*(migrate(empty, location, schema) for _ in range(4) for location, schema in BOTH))
    assert shape(empty) == shape(dsn)


@pytest.mark.parametrize(("location", "schema"), BOTH, ids=["router", "crm"])
async def test_a_database_of_a_newer_release_is_left_alone(dsn: str, location: Any, schema: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"UPDATE {schema}.alembic_version SET version_num = '9999'".encode())
    before = shape(dsn)
    with pytest.raises(NeedsOperator) as told:
        await migrate(dsn, location, schema)
    assert told.value.what == f"The database (schema {schema}, revision 9999) was made by a newer release than this one"
    assert told.value.cure == "install that release or a newer one"
    assert shape(dsn) == before
