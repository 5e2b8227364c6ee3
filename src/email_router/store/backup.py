"""Backup and restore: PostgreSQL's own dump with a manifest beside it, in one file.

What may fail: the disk is full, the file is no backup, the database is not empty, the dump is of a newer release. A
backup is written under another name and renamed when it is whole. A restore is one transaction, and the hold on
outgoing mail is part of it: whenever the router ends, the database is as it was, or restored and held.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
import tempfile
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.model.errors import NeedsOperator, said_by
from email_router.net.postgres import transaction
from email_router.store.embedded import wheel_binaries

MANIFEST = "manifest.json"
DUMP = "database.dump"
FORMAT = 1
SCHEMAS = ("router", "crm", "work")
END_OF_ROWS = b"\\.\n"
NOT_FOR_SERVERS = (b"\\restrict", b"\\unrestrict", b"SET transaction_timeout")
"""Lines for psql, and a setting that servers before PostgreSQL 17 do not know."""
BROKEN_OFF = "a restore was broken off before its end; run it again, with --replace"
KEPT = 7
"""Daily dumps that are kept."""


async def backup(engine: AsyncEngine, dsn: str, file: Path, key_id: str) -> dict[str, Any]:
    """Write the whole database to `file`; returns the manifest, which names the key that its secrets need.

    Raises NeedsOperator.
    """
    async with transaction(engine) as db:
        installation = (await db.execute(text("SELECT id, host FROM router.installation"))).first()
        secrets = (await db.execute(text("SELECT count(*) FROM router.secret"))).scalar_one()
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "installation": str(installation.id) if installation is not None else "",
        "host": installation.host if installation is not None else "",
        "secrets": secrets,
        "key": key_id,
    }
    with tempfile.TemporaryDirectory(dir=_writable(file.parent)) as directory:
        dump = Path(directory) / DUMP
        options = ("--format=custom", "--no-owner", "--no-privileges", f"--file={dump}")
        await _run("pg_dump", *options, dsn=dsn, where=str(file))
        await asyncio.to_thread(_pack, manifest, dump, Path(directory) / "whole", file)
    return manifest


async def restore(engine: AsyncEngine, dsn: str, file: Path, *, replace: bool) -> dict[str, Any]:
    """Put `file` into the database and hold outgoing mail; returns the manifest.

    Raises NeedsOperator when the database has an installation already and `replace` is not set.
    """
    manifest = await asyncio.to_thread(read_manifest, file)
    if not replace:
        await _must_be_empty(engine, file)
    await engine.dispose()
    with tempfile.TemporaryDirectory() as directory:
        dump = await asyncio.to_thread(_unpack, file, Path(directory))
        script = Path(directory) / "restore.sql"
        await _run("pg_restore", "--no-owner", "--no-privileges", f"--file={script}", str(dump), where=str(file))
        try:
            async with await psycopg.AsyncConnection.connect(dsn) as connection:
                await _replay(connection, script)
                await connection.execute("UPDATE router.installation SET outgoing_hold = %s", (BROKEN_OFF,))
        except psycopg.Error as error:
            raise NeedsOperator(
                "The backup could not be restored",
                where=str(file),
                said=str(error).strip().splitlines()[0],
                cure="check free space and the rights of the database user, then try again; nothing was changed",
            ) from error
    return manifest


async def restored(engine: AsyncEngine, manifest: dict[str, Any]) -> None:
    """All that belongs to a restore is done: what was waiting is uncertain."""
    hold = f"the database was restored from a backup of {manifest['taken']}; the original may have sent mail since"
    async with transaction(engine) as db:
        await db.execute(text("UPDATE router.installation SET outgoing_hold = :hold"), {"hold": hold})


async def _replay(connection: psycopg.AsyncConnection[Any], script: Path) -> None:
    """What psql would do, in the transaction of `connection`, in place of all that is there: the script of a dump is
    statements, with the rows of a table after each COPY."""
    for schema in SCHEMAS:
        await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
    with script.open("rb") as lines:
        statements: list[bytes] = []
        for line in lines:
            if line.startswith(NOT_FOR_SERVERS):
                continue
            if not (line.startswith(b"COPY ") and line.endswith(b"FROM stdin;\n")):
                statements.append(line)
                continue
            await connection.execute(b"".join(statements))
            statements.clear()
            async with connection.cursor() as cursor, cursor.copy(line) as copy:
                for row in iter(partial(next, lines, END_OF_ROWS), END_OF_ROWS):
                    await copy.write(row)
        await connection.execute(b"".join(statements))


def read_manifest(file: Path) -> dict[str, Any]:
    """What a backup says of itself. Raises NeedsOperator when it is none, or of a newer release."""
    try:
        with tarfile.open(file) as whole:
            first = whole.next()
            stream = whole.extractfile(first) if first is not None and first.name == MANIFEST else None
            manifest: dict[str, Any] = json.loads(stream.read() if stream is not None else b"")
    except OSError as error:
        raise NeedsOperator(
            "The backup cannot be read", where=str(file), said=said_by(error), cure="correct the path or its rights"
        ) from error
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise NeedsOperator(
            "This file is no backup of the Email Router",
            where=str(file),
            cure="name a file that `email-router backup` wrote",
        ) from error
    if manifest.get("format") != FORMAT:
        raise NeedsOperator(
            "This backup was made by a newer release", where=str(file), cure="install that release or a newer one"
        )
    return manifest


def without_password(dsn: str) -> tuple[str, str]:
    """Where the database is, and the password apart: what stands on a command line is seen by all users (`ps`)."""
    values = conninfo_to_dict(dsn)
    secret = str(values.pop("password", None) or "")
    return make_conninfo("", **values), secret


def expired(directory: Path, keep: int = KEPT) -> list[Path]:
    """Daily dumps beyond the newest `keep`."""
    return sorted(directory.glob("daily-*.backup"), reverse=True)[keep:]


def daily_name(directory: Path, day: date) -> Path:
    return directory / f"daily-{day.isoformat()}.backup"


async def _must_be_empty(engine: AsyncEngine, file: Path) -> None:
    async with transaction(engine) as db:
        used = (await db.execute(text("SELECT count(*) FROM router.revision"))).scalar_one()
    if used:
        raise NeedsOperator(
            "The database is in use already: a restore would replace all of it",
            where=str(file),
            cure="restore into a new data directory, or add --replace if everything in this one may go",
        )


def _writable(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NeedsOperator(
            "The directory for the backup cannot be made",
            where=str(directory),
            said=said_by(error),
            cure="name another one",
        ) from error
    if not os.access(directory, os.W_OK):
        raise NeedsOperator("The directory for the backup cannot be written", where=str(directory), cure="name another")
    return directory


def _pack(manifest: dict[str, Any], dump: Path, whole: Path, file: Path) -> None:
    try:
        with tarfile.open(whole, "w") as out:
            data = json.dumps(manifest, indent=2).encode()
            member = tarfile.TarInfo(MANIFEST)
            member.size, member.mode = len(data), 0o600
            out.addfile(member, io.BytesIO(data))
            out.add(dump, DUMP)
        whole.chmod(0o600)  # mail and sealed secrets are in it
        with whole.open("rb") as stream:
            os.fsync(stream.fileno())
        whole.replace(file)
    except OSError as error:
        raise NeedsOperator(
            "The backup could not be written",
            where=str(file),
            said=said_by(error),
            cure="free space, or name another place",
        ) from error


def _unpack(file: Path, directory: Path) -> Path:
    try:
        with tarfile.open(file) as whole:
            whole.extract(DUMP, directory, filter="data")
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        raise NeedsOperator(
            "The backup is damaged",
            where=str(file),
            said=said_by(error),
            cure="take another copy of it, or an older one; nothing was changed",
        ) from error
    return directory / DUMP


async def _run(program: str, *arguments: str, where: str, dsn: str = "") -> None:
    place, secret = without_password(dsn)
    done = await asyncio.create_subprocess_exec(
        str(wheel_binaries() / program),
        *([f"--dbname={place}"] if place else []),
        *arguments,
        env=os.environ | ({"PGPASSWORD": secret} if secret else {}),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await done.communicate()
    if done.returncode != 0:
        said = errors.decode(errors="replace").strip().splitlines()
        raise NeedsOperator(
            f"{program} failed",
            where=where,
            said=said[-1] if said else f"exit code {done.returncode}",
            cure="check free space and the rights of the database user, then try again; nothing was changed",
        )
