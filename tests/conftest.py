"""Fixtures of all tests live in `tests/fixtures/`, one module per server."""

from __future__ import annotations

import importlib.util

pytest_plugins = [
    name
    for name in (
        "tests.fixtures.database",
        "tests.fixtures.dovecot",
        "tests.fixtures.postfix",
        "tests.fixtures.post",
        "tests.fixtures.terminal",
    )
    if importlib.util.find_spec(name)
]
