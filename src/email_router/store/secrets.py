"""Secrets at rest: AES-256-GCM with the row's name as associated data: a value moved to another row is refused.

The key comes from `EMAIL_ROUTER_KEY` (base64), a systemd credential (`email-router-key`), or a file; never from beside
the data unless an administrator puts it there.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.errors import NeedsOperator, said_by
from email_router.net.postgres import transaction

CREDENTIAL = "email-router-key"
"""Name of the systemd credential (`LoadCredential=`)."""


def load_key(environ: Mapping[str, str], key_file: Path | None) -> bytes | None:
    """The 32-byte key, or None when none is configured. Raises NeedsOperator for one that cannot be used."""
    source, encoded = _encoded_key(environ, key_file)
    return decoded(encoded, source) if source else None


def decoded(encoded: str, source: str) -> bytes:
    """The key from its text. Raises NeedsOperator."""
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise NeedsOperator(
            "The encryption key is not 32 bytes in base64",
            where=source,
            cure="make one with: email-router secret new-key",
            scope="router",
        )
    return key


def _encoded_key(environ: Mapping[str, str], key_file: Path | None) -> tuple[str, str]:
    """Where the key is, and its text: what the service manager or the environment hands over goes before a file."""
    if environ.get("EMAIL_ROUTER_KEY"):
        return "EMAIL_ROUTER_KEY", environ["EMAIL_ROUTER_KEY"]
    credential = Path(environ["CREDENTIALS_DIRECTORY"]) / CREDENTIAL if "CREDENTIALS_DIRECTORY" in environ else None
    path = credential if credential is not None and credential.exists() else key_file
    if path is None:
        return "", ""
    try:
        return str(path), path.read_text().strip()
    except FileNotFoundError as error:
        cure = f"put the installation's key there; for a new one: (umask 077; email-router secret new-key > {path})"
        raise NeedsOperator("The key file is not there", where=str(path), cure=cure, scope="router") from error
    except (OSError, UnicodeDecodeError) as error:
        cure = "run this as the user of the router, or give that user the right to read it"
        raise NeedsOperator(
            "The key file cannot be read", where=str(path), said=said_by(error), cure=cure, scope="router"
        ) from error


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def key_id(key: bytes) -> str:
    return hashlib.sha256(b"email-router key id" + key).hexdigest()[:12]


class Secrets:
    def __init__(self, engine: AsyncEngine, key: bytes | None) -> None:
        self._engine = engine
        self._key = key

    async def store(self, name: str, value: str) -> None:
        key = self._need_key()
        nonce = os.urandom(12)
        sealed = AESGCM(key).encrypt(nonce, value.encode(), name.encode())
        async with transaction(self._engine) as db:
            await db.execute(
                text(
                    "INSERT INTO router.secret (name, key_id, nonce, ciphertext) VALUES (:name, :id, :nonce, :sealed) "
                    "ON CONFLICT (name) DO UPDATE SET key_id = excluded.key_id, nonce = excluded.nonce, "
                    "ciphertext = excluded.ciphertext, changed = now()"
                ),
                {"name": name, "id": key_id(key), "nonce": nonce, "sealed": sealed},
            )

    async def read(self, name: str) -> str:
        key = self._need_key()
        async with transaction(self._engine) as db:
            row = (
                await db.execute(
                    text("SELECT key_id, nonce, ciphertext FROM router.secret WHERE name = :name"), {"name": name}
                )
            ).first()
        if row is None:
            raise NeedsOperator(
                f"There is no stored secret named {name}", cure=f"store it with: email-router secret set {name}"
            )
        return _opened(name, row, key).decode()

    async def listing(self) -> list[dict[str, Any]]:
        """Names, the key that each was sealed with, and when it was changed."""
        async with transaction(self._engine) as db:
            rows = await db.execute(text("SELECT name, key_id, changed FROM router.secret ORDER BY name"))
            return [dict(row._mapping) for row in rows]

    async def remove(self, name: str) -> None:
        """Forget a secret. Raises NeedsOperator when there is none of that name."""
        async with transaction(self._engine) as db:
            done = await db.execute(text("DELETE FROM router.secret WHERE name = :name"), {"name": name})
            if not done.rowcount:
                raise NeedsOperator(f"There is no stored secret named {name}", cure="email-router secret list")

    async def rotate(self, new: bytes) -> int:
        """Seal every secret with `new`; returns how many. One transaction: all or none. Raises NeedsOperator."""
        old = self._need_key()
        async with transaction(self._engine) as db:
            rows = (await db.execute(text("SELECT * FROM router.secret ORDER BY name FOR UPDATE"))).all()
            for row in rows:
                plain = _opened(row.name, row, old)
                nonce = os.urandom(12)
                await db.execute(
                    text(
                        "UPDATE router.secret SET key_id = :id, nonce = :nonce, ciphertext = :sealed WHERE name = :name"
                    ),
                    {
                        "name": row.name,
                        "id": key_id(new),
                        "nonce": nonce,
                        "sealed": AESGCM(new).encrypt(nonce, plain, row.name.encode()),
                    },
                )
        self._key = new
        return len(rows)

    def _need_key(self) -> bytes:
        if self._key is None:
            raise NeedsOperator(
                "Stored secrets need an encryption key, and none is configured",
                cure="set key_file in router.toml or EMAIL_ROUTER_KEY (email-router secret new-key makes one), "
                "the same on each router",
                scope="router",
            )
        return self._key


def _opened(name: str, row: Any, key: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(bytes(row.nonce), bytes(row.ciphertext), name.encode())
    except InvalidTag as error:
        raise NeedsOperator(
            f"The stored secret {name} cannot be opened with this key (it was sealed with key {row.key_id}, "
            f"this is {key_id(key)})",
            cure="give every router the key it was sealed with, or store the secret again",
        ) from error
