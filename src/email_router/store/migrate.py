"""Schema changes: Alembic's script directories, one per schema, run under a lock: two routers may start at once."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from email_router.model.errors import NeedsOperator
from email_router.net.postgres import translated, url_of

LOCK = 0x656D61696C  # "email": the advisory lock's key


async def migrate(dsn: str, location: Path, schema: str) -> None:
    """Bring `schema` to the newest revision of `location/versions`. Raises NeedsOperator when it is newer than us."""
    await asyncio.to_thread(_migrate, dsn, location, schema)


def _migrate(dsn: str, location: Path, schema: str) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(location))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    engine = create_engine(url_of(dsn))
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
            now = MigrationContext.configure(connection, opts={"version_table_schema": schema}).get_current_revision()
            known = {revision.revision for revision in script.walk_revisions()}
            if now is not None and now not in known:
                raise NeedsOperator(
                    f"The database (schema {schema}, revision {now}) was made by a newer release than this one",
                    cure="install that release or a newer one",
                    scope="router",
                )

            def upgrade(revision: object, context: MigrationContext) -> list[RevisionStep]:
                return script._upgrade_revs("head", revision)  # type: ignore[arg-type]

            with EnvironmentContext(config, script, fn=upgrade) as environment:
                environment.configure(connection=connection, version_table_schema=schema)
                environment.run_migrations()
    except Exception as error:
        if type(error).__module__.startswith(("sqlalchemy", "psycopg")):
            raise translated(getattr(error, "orig", None) or error) from error
        raise
    finally:
        engine.dispose()
