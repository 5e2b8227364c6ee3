"""What every `Source` must do, whatever the mail system.

A connector's test module provides a fixture `rig` (a `SourceRig`) and a class `TestX(SourceContract)`. What a system
cannot do (no flags, no threshold, no server to restart) its rig says in `can`; those tests are skipped by name.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from email_router.model.errors import NeedsOperator, RouterError, Transient
from email_router.model.mailbox import SourceAction
from email_router.model.message import DeliveryKey, RawMessage
from email_router.net.spool import Spool
from email_router.ports.mail import Batch, Connector, Limit, Login, Source, SourceContext

ALL = Limit(count=100, bytes=64 * 1024 * 1024)
WHEN = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


class SourceRig(ABC):
    """One empty mailbox of a mail system, with a way to look into it that is not the connector under test.

    `can` holds what the system is able to: of the connector's capabilities `seen`, `move`, `delete`, `usage`; and
    `threshold` (honours `since`), `flags` (has flags to be left alone), `password` (checks one), `network` (has a host
    name), `tls` (may have a certificate we do not trust; `untrusted` gives such settings), `restart` (may go away).
    """

    connector: Connector
    settings: Any
    can: frozenset[str]
    mailbox: str = "user@router.test"
    username: str = "user"
    secret: str = "secret"
    folder: str = ""
    spool_directory: Path

    @abstractmethod
    def deliver(self, message: bytes, received: datetime | None = None) -> None:
        """Put a message into the mailbox, with the server's time if the system lets us choose."""

    @abstractmethod
    def bodies(self, folder: str = "") -> list[bytes]:
        """All messages of the folder (default: the one received from), oldest first, with CRLF line ends."""

    @abstractmethod
    def remove(self, index: int) -> None:
        """Somebody else deletes the message at that place."""

    def flags(self) -> list[frozenset[str]]:
        """The flags of each message, where there are any."""
        return []

    def restart(self) -> None:
        """The server goes down and comes up again; connections are lost."""
        raise NotImplementedError

    def untrusted(self) -> Any:
        """Settings under which the server's certificate cannot be verified."""
        raise NotImplementedError

    def open(
        self, *, since: datetime | None = None, secret: str | None = None, settings: Any = None
    ) -> AbstractAsyncContextManager[Source]:
        """The connector's source for this mailbox."""
        assert self.connector.source is not None
        return self.connector.source(settings or self.settings, self.context(since=since, secret=secret))

    def context(self, *, since: datetime | None = None, secret: str | None = None) -> SourceContext:
        async def answer() -> str:
            return self.secret if secret is None else secret

        login = Login(self.username, answer)
        return SourceContext(self.mailbox, self.folder, login, since, lambda: Spool(self.spool_directory))


def letter(n: int, *, padding: int = 0, name: str = "letter") -> bytes:
    """A small message, different for each number."""
    head = f"From: a@customer.test\r\nTo: b@router.test\r\nSubject: {name} {n}\r\n"
    head += f"Message-ID: <{name}-{n}@customer.test>\r\n"
    lines = "".join("x" * 70 + "\r\n" for _ in range(padding // 72))
    return f"{head}\r\nThis is {name} {n}.\r\n{lines}".encode()


def body(message: RawMessage) -> bytes:
    """The bytes of a received message, with CRLF line ends as on the wire."""
    with message.content.open() as stream:
        data = stream.read()
    assert message.content.size == len(data)
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def bodies(batch: Batch | Sequence[RawMessage]) -> list[bytes]:
    return [body(item) for item in (batch.items if isinstance(batch, Batch) else batch)]


def keys(batch: Batch | Sequence[RawMessage]) -> list[DeliveryKey]:
    return [item.key for item in (batch.items if isinstance(batch, Batch) else batch)]


async def receive_all(source: Source, cursor: str = "", limit: Limit = ALL) -> tuple[list[RawMessage], str]:
    """Everything there is after `cursor`, and the cursor behind it."""
    items: list[RawMessage] = []
    while True:
        batch = await source.receive(cursor, limit)
        items += batch.items
        cursor = batch.cursor
        if not batch.more:
            return items, cursor


class SourceContract:
    """Subclass as `TestX` beside a fixture `rig`."""

    @pytest.fixture(autouse=True)
    def _able(self, request: pytest.FixtureRequest) -> Iterator[None]:
        marker = request.node.get_closest_marker("needs")
        if marker is not None:
            rig = request.getfixturevalue("rig")
            lacking = set(marker.args) - rig.can
            if lacking:
                pytest.skip(f"{rig.connector.name} cannot: {', '.join(sorted(lacking))}")
        yield

    # -- receiving

    async def test_an_empty_mailbox_gives_an_empty_batch(self, rig: SourceRig) -> None:
        async with rig.open() as source:
            batch = await source.receive("", ALL)
            again = await source.receive(batch.cursor, ALL)
        assert (batch.items, batch.more, batch.older, batch.unreadable) == ((), False, 0, ())
        assert (again.items, again.more) == ((), False)

    async def test_messages_come_oldest_first_with_their_bytes(self, rig: SourceRig) -> None:
        sent = [letter(n) for n in range(5)]
        for n, message in enumerate(sent):
            rig.deliver(message, WHEN + timedelta(minutes=n))
        async with rig.open() as source:
            batch = await source.receive("", ALL)
        assert bodies(batch) == sent
        assert batch.more is False
        assert [(key.mailbox, bool(key.item)) for key in keys(batch)] == [(rig.mailbox, True)] * 5
        assert len(set(keys(batch))) == 5

    @pytest.mark.needs("threshold")
    async def test_received_is_the_servers_time(self, rig: SourceRig) -> None:
        rig.deliver(letter(1), WHEN)
        async with rig.open() as source:
            batch = await source.receive("", ALL)
        assert [item.received for item in batch.items] == [WHEN]
        assert batch.items[0].received.tzinfo is not None

    async def test_a_batch_has_at_most_count_messages(self, rig: SourceRig) -> None:
        for n in range(5):
            rig.deliver(letter(n))
        async with rig.open() as source:
            first = await source.receive("", Limit(count=2))
            second = await source.receive(first.cursor, Limit(count=2))
            third = await source.receive(second.cursor, Limit(count=2))
        assert [len(batch.items) for batch in (first, second, third)] == [2, 2, 1]
        assert [batch.more for batch in (first, second, third)] == [True, True, False]
        assert bodies(first) + bodies(second) + bodies(third) == [letter(n) for n in range(5)]

    async def test_a_batch_has_at_most_that_many_bytes_but_one_message(self, rig: SourceRig) -> None:
        sent = [letter(0, padding=30_000), letter(1, padding=30_000), letter(2, padding=90_000), letter(3)]
        for message in sent:
            rig.deliver(message)
        batches: list[list[bytes]] = []
        cursor = ""
        async with rig.open() as source:
            for _ in range(4):
                batch = await source.receive(cursor, Limit(count=100, bytes=70_000))
                batches.append(bodies(batch))
                cursor = batch.cursor
                if not batch.more:
                    break
        assert batches == [sent[:2], [sent[2]], [sent[3]]]

    async def test_the_cursor_covers_exactly_the_items(self, rig: SourceRig) -> None:
        for n in range(4):
            rig.deliver(letter(n))
        async with rig.open() as source:
            first = await source.receive("", Limit(count=2))
        async with rig.open() as source:  # another process, later
            rest = await source.receive(first.cursor, ALL)
            same = await source.receive("", Limit(count=2))
        assert bodies(rest) == [letter(2), letter(3)]
        assert keys(same) == keys(first)
        assert same.cursor == first.cursor

    async def test_nothing_comes_twice_and_news_come_next(self, rig: SourceRig) -> None:
        rig.deliver(letter(0))
        async with rig.open() as source:
            first = await source.receive("", ALL)
            nothing = await source.receive(first.cursor, ALL)
            rig.deliver(letter(1))
            second = await source.receive(nothing.cursor, ALL)
        assert (bodies(first), bodies(nothing), bodies(second)) == ([letter(0)], [], [letter(1)])

    async def test_deleting_what_was_seen_does_not_disturb(self, rig: SourceRig) -> None:
        for n in range(3):
            rig.deliver(letter(n))
        async with rig.open() as source:
            first = await source.receive("", Limit(count=2))
        rig.remove(0)
        rig.deliver(letter(3))
        async with rig.open() as source:
            items, _ = await receive_all(source, first.cursor)
        assert bodies(items) == [letter(2), letter(3)]

    @pytest.mark.needs("threshold")
    async def test_older_than_the_threshold_is_counted_and_left(self, rig: SourceRig) -> None:
        for n, offset in enumerate((-90000, -3600, -1, 0, 1)):
            rig.deliver(letter(n), WHEN + timedelta(seconds=offset))
        async with rig.open(since=WHEN) as source:
            batch = await source.receive("", ALL)
            rig.deliver(letter(5), WHEN - timedelta(days=30))
            rig.deliver(letter(6), WHEN + timedelta(days=30))
            later = await source.receive(batch.cursor, ALL)
        assert bodies(batch) == [letter(3), letter(4)]
        assert batch.older == 3
        assert bodies(later) == [letter(6)]
        assert later.older == 1

    @pytest.mark.needs("threshold")
    async def test_old_mail_alone_is_counted_once(self, rig: SourceRig) -> None:
        rig.deliver(letter(0), WHEN - timedelta(days=3))
        async with rig.open(since=WHEN) as source:
            first = await source.receive("", ALL)
        async with rig.open(since=WHEN) as source:
            second = await source.receive(first.cursor, ALL)
        assert (first.items, first.older, first.more) == ((), 1, False)
        assert (second.items, second.older) == ((), 0)

    async def test_a_large_message_is_spooled(self, rig: SourceRig) -> None:
        sent = letter(1, padding=3_000_000)
        rig.deliver(sent)
        async with rig.open() as source:
            batch = await source.receive("", ALL)
            assert bodies(batch) == [sent]
            batch.items[0].content.discard()
        assert list(rig.spool_directory.glob("spool-*")) == []

    # -- again, by key

    async def test_fetch_again_in_the_order_asked(self, rig: SourceRig) -> None:
        for n in range(3):
            rig.deliver(letter(n))
        async with rig.open() as source:
            got = keys(await source.receive("", ALL))
        async with rig.open() as source:
            again = await source.fetch([got[2], got[0]])
        assert keys(again) == [got[2], got[0]]
        assert bodies(again) == [letter(2), letter(0)]

    async def test_fetch_leaves_out_what_is_gone(self, rig: SourceRig) -> None:
        for n in range(2):
            rig.deliver(letter(n))
        async with rig.open() as source:
            got = keys(await source.receive("", ALL))
        rig.remove(0)
        async with rig.open() as source:
            assert bodies(await source.fetch(got)) == [letter(1)]
            assert list(await source.fetch(got[:1])) == []
            assert list(await source.fetch([])) == []

    # -- acknowledging

    async def test_leave_changes_nothing(self, rig: SourceRig) -> None:
        for n in range(3):
            rig.deliver(letter(n))
        before = (rig.bodies(), rig.flags())
        async with rig.open() as source:
            batch = await source.receive("", ALL)
            await source.fetch(keys(batch))
            await source.acknowledge(keys(batch), SourceAction.LEAVE)
        assert (rig.bodies(), rig.flags()) == before
        assert before[0] == [letter(n) for n in range(3)]

    @pytest.mark.needs("seen")
    async def test_seen_marks_exactly_these_twice_the_same(self, rig: SourceRig) -> None:
        for n in range(3):
            rig.deliver(letter(n))
        async with rig.open() as source:
            got = keys(await source.receive("", ALL))
            await source.acknowledge(got[:2], SourceAction.SEEN)
            await source.acknowledge(got[:2], SourceAction.SEEN)
        assert ["\\Seen" in flags for flags in rig.flags()] == [True, True, False]
        assert len(rig.bodies()) == 3

    @pytest.mark.needs("move")
    async def test_move_moves_exactly_these_once(self, rig: SourceRig) -> None:
        for n in range(3):
            rig.deliver(letter(n))
        async with rig.open() as source:
            got = keys(await source.receive("", ALL))
            await source.acknowledge(got[:2], SourceAction.MOVE, "Done by CRM")
            await source.acknowledge(got[:2], SourceAction.MOVE, "Done by CRM")
        assert rig.bodies() == [letter(2)]
        assert rig.bodies("Done by CRM") == [letter(0), letter(1)]

    @pytest.mark.needs("delete")
    async def test_delete_deletes_exactly_these(self, rig: SourceRig) -> None:
        for n in range(3):
            rig.deliver(letter(n))
        async with rig.open() as source:
            got = keys(await source.receive("", ALL))
            await source.acknowledge([got[0], got[2]], SourceAction.DELETE)
            await source.acknowledge([got[0], got[2]], SourceAction.DELETE)
        assert rig.bodies() == [letter(1)]

    @pytest.mark.parametrize("action", [SourceAction.SEEN, SourceAction.MOVE, SourceAction.DELETE])
    async def test_gone_messages_are_fine(self, rig: SourceRig, action: SourceAction) -> None:
        if action.value not in rig.can:
            pytest.skip(f"{rig.connector.name} cannot: {action.value}")
        for n in range(2):
            rig.deliver(letter(n))
        async with rig.open() as source:
            got = keys(await source.receive("", ALL))
            rig.remove(0)
            await source.acknowledge(got[:1], action, "Done by CRM")
            await source.acknowledge([], action, "Done by CRM")
        assert rig.bodies() == [letter(1)]

    # -- how full

    @pytest.mark.needs("usage")
    async def test_usage_counts_messages_and_bytes(self, rig: SourceRig) -> None:
        for n in range(3):
            rig.deliver(letter(n, padding=20_000))
        async with rig.open() as source:
            usage = await source.usage()
        assert usage.messages == 3
        assert 55_000 < usage.bytes < 75_000

    # -- what goes wrong

    @pytest.mark.needs("restart")
    async def test_a_restarted_server_loses_and_doubles_nothing(self, rig: SourceRig) -> None:
        for n in range(6):
            rig.deliver(letter(n))
        async with rig.open() as source:
            first = await source.receive("", Limit(count=2))
            rig.restart()
            items: list[RawMessage] = []
            for _ in range(3):  # the lost connection may be noticed by the first call
                try:
                    items, _ = await receive_all(source, first.cursor, Limit(count=2))
                    break
                except Transient as error:
                    assert error.where
        assert bodies(first) + bodies(items) == [letter(n) for n in range(6)]

    @pytest.mark.needs("password")
    async def test_a_wrong_password_needs_the_operator(self, rig: SourceRig) -> None:
        async with rig.open(secret="wrong") as source:
            with pytest.raises(NeedsOperator) as caught:
                await source.receive("", ALL)
        assert caught.value.scope == "mailbox"
        _says_all(caught.value)

    @pytest.mark.needs("network")
    async def test_an_unknown_host_is_named(self, rig: SourceRig) -> None:
        settings = dataclasses.replace(rig.settings, host="no-such-host.invalid")
        async with rig.open(settings=settings) as source:
            with pytest.raises(RouterError) as caught:
                await source.receive("", ALL)
        assert "no-such-host.invalid" in str(caught.value)
        _says_all(caught.value)

    @pytest.mark.needs("network")
    async def test_a_closed_port_is_transient(self, rig: SourceRig, closed_port: int) -> None:
        settings = dataclasses.replace(rig.settings, port=closed_port)
        async with rig.open(settings=settings) as source:
            with pytest.raises(Transient) as caught:
                await source.receive("", ALL)
        assert str(closed_port) in str(caught.value)
        _says_all(caught.value)

    @pytest.mark.needs("tls")
    async def test_a_certificate_we_do_not_trust_needs_the_operator(self, rig: SourceRig) -> None:
        async with rig.open(settings=rig.untrusted()) as source:
            with pytest.raises(NeedsOperator) as caught:
                await source.receive("", ALL)
        _says_all(caught.value)

    # -- Test Access

    async def test_the_probe_succeeds_step_by_step(self, rig: SourceRig) -> None:
        if rig.connector.probe_source is None:
            pytest.skip(f"{rig.connector.name} has no probe")
        rig.deliver(letter(1))
        before = (rig.bodies(), rig.flags())
        steps = [step async for step in rig.connector.probe_source(rig.settings, rig.context()).probe()]
        assert [step.name for step in steps if not step.ok] == []
        assert all(step.tried for step in steps)
        assert (rig.bodies(), rig.flags()) == before

    @pytest.mark.needs("password")
    async def test_the_probe_stops_at_the_wrong_password(self, rig: SourceRig) -> None:
        assert rig.connector.probe_source is not None
        probe = rig.connector.probe_source(rig.settings, rig.context(secret="wrong"))
        steps = [step async for step in probe.probe()]
        assert [step.ok for step in steps] == [True] * (len(steps) - 1) + [False]
        assert steps[-1].name == "log in"
        assert steps[-1].said
        assert steps[-1].cure


def _says_all(error: RouterError) -> None:
    """What happened, where, and how to cure it: for people."""
    assert error.what
    assert error.where
    assert error.cure
