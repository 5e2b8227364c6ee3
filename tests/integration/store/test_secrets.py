"""Stored passwords: sealed with a key that is not beside them, each to its own name, and never shown."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.errors import NeedsOperator
from email_router.store.secrets import Secrets, decoded, key_id, load_key, new_key

pytestmark = pytest.mark.database

KEY = decoded(new_key(), "test")
OTHER = decoded(new_key(), "test")


async def rows(engine: AsyncEngine) -> list[Any]:
    async with engine.begin() as db:
        return list(await db.execute(text("SELECT * FROM router.secret ORDER BY name")))


async def test_what_is_stored_comes_back_and_lies_there_sealed(engine: AsyncEngine) -> None:
    secrets = Secrets(engine, KEY)
    await secrets.store("office", "hüsh")
    await secrets.store("relay", "hüsh")
    assert await secrets.read("office") == "hüsh"
    first, second = await rows(engine)
    assert "hüsh".encode() not in bytes(first.ciphertext)
    assert (first.nonce, first.ciphertext) != (second.nonce, second.ciphertext)
    await secrets.store("office", "new")
    assert [await secrets.read(name) for name in ("office", "relay")] == ["new", "hüsh"]
    assert [set(row) for row in await secrets.listing()] == [{"name", "key_id", "changed"}] * 2


async def test_a_value_that_is_moved_to_another_name_does_not_open(engine: AsyncEngine) -> None:
    secrets = Secrets(engine, KEY)
    await secrets.store("office", "hush")
    async with engine.begin() as db:
        await db.execute(text("UPDATE router.secret SET name = 'relay'"))
    with pytest.raises(NeedsOperator, match="The stored secret relay cannot be opened"):
        await secrets.read("relay")


@pytest.mark.parametrize("column", ["ciphertext", "nonce"])
async def test_a_value_that_was_changed_does_not_open(engine: AsyncEngine, column: str) -> None:
    secrets = Secrets(engine, KEY)
    await secrets.store("office", "hush")
    async with engine.begin() as db:
        await db.execute(
            text(f"UPDATE router.secret SET {column} = set_byte({column}, 0, 255 - get_byte({column}, 0))")
        )
    with pytest.raises(NeedsOperator, match="cannot be opened"):
        await secrets.read("office")


async def test_the_wrong_key_and_no_key_say_what_is_missing(engine: AsyncEngine) -> None:
    await Secrets(engine, KEY).store("office", "hush")
    with pytest.raises(NeedsOperator) as told:
        await Secrets(engine, OTHER).read("office")
    assert f"it was sealed with key {key_id(KEY)}, this is {key_id(OTHER)}" in told.value.what
    assert "give every router the key it was sealed with" in told.value.cure
    assert "hush" not in str(told.value)
    with pytest.raises(NeedsOperator, match=r"none is configured.*EMAIL_ROUTER_KEY"):
        await Secrets(engine, None).read("office")
    with pytest.raises(NeedsOperator, match="There is no stored secret named nothing"):
        await Secrets(engine, KEY).read("nothing")


async def test_a_new_key_seals_all_or_none(engine: AsyncEngine) -> None:
    secrets = Secrets(engine, KEY)
    for name in ("office", "relay"):
        await secrets.store(name, f"hush {name}")
    assert await secrets.rotate(OTHER) == 2
    assert await Secrets(engine, OTHER).read("relay") == "hush relay"
    await Secrets(engine, KEY).store("third", "of the old key")
    with pytest.raises(NeedsOperator, match="The stored secret third cannot be opened"):
        await Secrets(engine, OTHER).rotate(KEY)
    assert await Secrets(engine, OTHER).read("office") == "hush office"


def test_the_key_is_handed_over_or_lies_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(base64.b64encode(KEY).decode() + "\n")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "email-router-key").write_text(base64.b64encode(OTHER).decode())
    assert load_key({}, None) is None
    assert load_key({}, file) == KEY
    assert load_key({"CREDENTIALS_DIRECTORY": str(credentials)}, file) == OTHER
    assert load_key({"CREDENTIALS_DIRECTORY": str(tmp_path)}, file) == KEY
    assert load_key({"EMAIL_ROUTER_KEY": base64.b64encode(OTHER).decode()}, file) == OTHER


@pytest.mark.parametrize("written", [b"", b"short", b"not base64!", base64.b64encode(bytes(31)), b"\xff\xfe"])
def test_a_key_that_is_none_is_refused_without_being_shown(tmp_path: Path, written: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(written)
    with pytest.raises(NeedsOperator) as told:
        load_key({}, file)
    assert told.value.where == str(file) and told.value.cure
    assert not written or written.decode(errors="replace") not in str(told.value)


def test_a_key_file_that_is_absent_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NeedsOperator, match=r"The key file is not there.*email-router secret new-key > "):
        load_key({}, tmp_path / "key")
