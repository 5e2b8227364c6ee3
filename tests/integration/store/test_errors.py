"""What the database's errors tell: never what was to be stored."""

from __future__ import annotations

import traceback

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from email_router.net.postgres import transaction

pytestmark = pytest.mark.database

LETTER = "a private letter"


async def test_an_error_does_not_quote_the_mail_that_was_to_be_stored(engine: AsyncEngine) -> None:
    """Errors go into the log and into the traceback that is kept with an undeliverable message."""
    with pytest.raises(Exception, match="no_such_function") as caught:
        async with transaction(engine) as db:
            await db.execute(text("SELECT no_such_function(CAST(:body AS text))"), {"body": LETTER})
    told = "".join(traceback.format_exception(caught.value))
    assert LETTER not in told
