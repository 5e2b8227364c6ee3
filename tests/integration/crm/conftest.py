from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.fixtures.company import Company, company


@pytest.fixture
async def acme(engine: AsyncEngine, tmp_path: Path) -> Company:
    return await company(engine, tmp_path)
