"""A message of 50 MB, received from Dovecot and filed: what it costs in memory."""

from __future__ import annotations

import pytest
from bench.large import MIB, rise
from bench.servers import working_directory

from tests.fixtures.dovecot import Dovecot

pytestmark = [pytest.mark.servers, pytest.mark.database]

MEGABYTES = 50
MOST_MIB = 200


def test_a_large_message_raises_the_peak_memory_of_router_and_database_by_less_than_200_mib(dovecot: Dovecot) -> None:
    """Against the same with a small message; pages that processes share count once (PSS)."""
    with working_directory("large-") as directory:
        found = rise(directory, dovecot, MEGABYTES)
    assert found.small > 50 * MIB, "the peak of the small message was not seen"
    assert found.mib < MOST_MIB
    assert found.own < 40 * MIB, "the router held the message in memory"
