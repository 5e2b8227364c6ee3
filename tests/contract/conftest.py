"""What the contract suites share."""

from __future__ import annotations

import pytest

from tests.fixtures.dovecot import free_ports

pytest.register_assert_rewrite("tests.contract.sources", "tests.contract.senders")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*abilities): what a system must be able to for this contract test")


@pytest.fixture
def closed_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    return free_ports(1)[0]
