"""Connections to PostgreSQL, and its errors in our words.

Everything that touches the database goes through `transaction`: a block that commits whole or not at all. A lost
connection, a restart or a deadlock is Transient; what needs a person (a password, a full disk) is NeedsOperator.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection as Driver
from psycopg import errors as pg
from sqlalchemy import URL, exc, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from email_router.model.errors import NeedsOperator, RouterError, Transient

OF_THE_STATEMENT = ("0A", "21", "22", "23", "42", "54", "XX")
"""SQLSTATE classes about what was asked or stored, not about the database's health: trying again would not help."""
IDLE = "10s"
"""A session that waits so long inside a transaction is ended: a frozen router holds no lock."""


def application(name: str = "") -> str:
    """What a router's sessions are called in the database; it cuts names at 63 bytes."""
    return f"email-router {name}".strip()[:63]


def open_engine(dsn: str, size: int = 20, name: str = "") -> AsyncEngine:
    """A pool of at most `size` connections to `dsn` (`postgresql://…`, also a socket directory as `?host=/path`)."""
    url = url_of(dsn)
    return create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_timeout=60,
        pool_pre_ping=False,
        hide_parameters=True,  # errors are logged and kept, and what was to be stored is people's mail
        connect_args={
            "application_name": application(name),
            "options": f"{url.query.get('options', '')} -c idle_in_transaction_session_timeout={IDLE}".strip(),
            "connect_timeout": 10,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "prepare_threshold": 3,
        },
    )


def url_of(dsn: str) -> URL:
    """The DSN for SQLAlchemy with psycopg. Raises NeedsOperator, which shows nothing of it: a password may be in it."""
    try:
        url = make_url(dsn)
        if url.get_backend_name() in ("postgresql", "postgres"):
            return url.set(drivername="postgresql+psycopg")
    except (exc.ArgumentError, ValueError):
        pass
    raise NeedsOperator(
        "The DSN is no address of a PostgreSQL database",
        cure="write postgresql://user@host/database, and what is special in a password as %XX",
        scope="router",
    )


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One transaction. Raises Transient or NeedsOperator for the database's failures; others pass through."""
    try:
        async with engine.begin() as connection:
            yield connection
    except RouterError:
        raise
    except exc.DBAPIError as error:
        raise translated(error.orig if isinstance(error.orig, Exception) else error) from error
    except (psycopg.Error, exc.TimeoutError, OSError) as error:
        raise translated(error) from error


def translated(error: Exception) -> RouterError:
    """The one table from PostgreSQL's failures to ours."""
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, pg.DiskFull):
        return NeedsOperator(
            "The database's disk is full",
            said=said,
            cure="free space on it; work goes on by itself",
            scope="router",
            retry_after=5,
        )
    if isinstance(error, pg.TooManyConnections | exc.TimeoutError) or _NO_CONNECTION.search(said):
        return Transient(
            "The database has no connection free",
            said=said,
            cure="raise max_connections, or run fewer routers",
            scope="router",
            retry_after=5,
        )
    if isinstance(error, pg.InvalidPassword | pg.InvalidAuthorizationSpecification) or _NO_LOGIN.search(said):
        return NeedsOperator(
            "The database refused the login", said=said, cure="check user and password in the DSN", scope="router"
        )
    if isinstance(error, pg.InvalidCatalogName) or _NO_DATABASE.search(said):
        return NeedsOperator(
            "The database does not exist",
            said=said,
            cure="make it (createdb), or correct its name in the DSN",
            scope="router",
        )
    if isinstance(error, (pg.InsufficientPrivilege, pg.ReadOnlySqlTransaction)):
        return NeedsOperator(
            "The database refuses to be written",
            said=said,
            cure="give the user of the DSN its rights; a standby must be promoted first",
            scope="router",
        )
    if isinstance(error, (pg.SerializationFailure, pg.DeadlockDetected)):
        return Transient("The database asked to try again", said=said, scope="router", retry_after=0.2)
    if (getattr(error, "sqlstate", None) or "")[:2] in OF_THE_STATEMENT:
        raise error
    return Transient(
        "The database cannot be reached",
        said=said,
        cure="start it, or correct the DSN; a running router goes on by itself when it is back",
        scope="router",
        retry_after=2,
    )


_NO_CONNECTION = re.compile("too many clients|too many connections|connection slots are reserved")
_NO_LOGIN = re.compile(
    "password authentication failed|no password supplied|no pg_hba.conf entry|"
    'role ".*" (?:does not exist|is not permitted to log in)'
)
_NO_DATABASE = re.compile('database ".*" does not exist')
"""What servers say when they end a login: libpq tells no SQLSTATE of a connection that failed."""


def clean(value: str) -> str:
    """Text that PostgreSQL can hold: no NUL, no lone surrogates."""
    value = value.replace("\0", "")
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


async def copy(
    db: AsyncConnection, table: str, columns: str, types: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPY `rows` into `table` within the transaction of `db`. Nothing is sent when there are none."""
    waiting = iter(rows)
    first = next(waiting, None)
    if first is None:
        return
    statement = f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)"
    async with (await driver(db)).cursor() as cursor, cursor.copy(statement) as out:
        out.set_types(types)
        await out.write_row(first)
        for row in waiting:
            await out.write_row(row)


async def driver(db: AsyncConnection) -> Driver[Any]:
    """psycopg's own connection beneath SQLAlchemy's."""
    connection: Driver[Any] = (await db.get_raw_connection()).driver_connection  # type: ignore[assignment]
    return connection
