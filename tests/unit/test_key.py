"""Where the encryption key comes from, and what is said when it cannot be had."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from email_router.model.errors import NeedsOperator
from email_router.store.secrets import load_key, new_key

FIRST, SECOND, THIRD = b"1" * 32, b"2" * 32, b"3" * 32


def written(path: Path, key: bytes) -> Path:
    path.write_text(base64.b64encode(key).decode() + "\n")
    return path


def test_the_environment_goes_before_the_credential_and_that_before_the_file(tmp_path: Path) -> None:
    file = written(tmp_path / "key", THIRD)
    written(tmp_path / "email-router-key", SECOND)
    credential = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    variable = {"EMAIL_ROUTER_KEY": base64.b64encode(FIRST).decode()}
    assert load_key(variable | credential, file) == FIRST
    assert load_key(credential, file) == SECOND
    assert load_key({}, file) == THIRD
    assert load_key({"CREDENTIALS_DIRECTORY": str(tmp_path / "other")}, file) == THIRD
    assert load_key({}, None) is None


def test_a_new_key_can_be_used() -> None:
    assert len(load_key({"EMAIL_ROUTER_KEY": new_key()}, None) or b"") == 32


def test_a_key_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NeedsOperator) as told:
        load_key({}, tmp_path / "key")
    assert told.value.what == "The key file is not there"
    assert f"email-router secret new-key > {tmp_path / 'key'}" in told.value.cure


def test_a_key_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(NeedsOperator) as told:
        load_key({}, tmp_path)
    assert told.value.what == "The key file cannot be read"
    assert told.value.where == str(tmp_path)


@pytest.mark.parametrize("text", ["", "short", "not base64 !", base64.b64encode(b"1" * 31).decode()])
def test_a_key_of_another_length_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(NeedsOperator, match="not 32 bytes in base64"):
        load_key({}, file)
