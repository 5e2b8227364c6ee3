"""Mail that is pushed to us: the flow with no mailbox behind it, and the outcome is the answer to the peer.

    note → unwrap → parse → judge → file → conclude → answer

What may fail: anything, and then the peer is told to come again, or hears nothing and comes again. Its message has the
same receipt then, and what is concluded already is only answered. What is not tracked or undeliverable exists nowhere
else, so its bytes are kept here: with them, open receipts are taken up again without the peer. An open receipt without
bytes waits for the peer, as long as peers try.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from email_router.incoming.flow import AT_ONCE, BATCH, Report, Ways, conclude, from_kept, handle
from email_router.incoming.forwarded import Seen
from email_router.model.errors import RouterError, Transient
from email_router.model.message import DeliveryKey, ParsedEmail, RawMessage
from email_router.model.receipt import Decision, Outcome, Receipt, Term
from email_router.observe import maillog
from email_router.observe.failpoint import hit
from email_router.ports.mail import Pushed
from email_router.ports.store import Conclusion

DAYS = 6
"""Days after its last try until a peer has given a message up: RFC 5321 section 4.5.4.1 names 4 to 5."""
PATIENCE = DAYS * 86400.0
AT_WORK = 32 * 1024 * 1024
"""Bytes of messages that are worked on at the same time: each needs a few times its size while it is."""


class Room:
    """Bounds the bytes that are worked on at the same time, in the order of asking; one message always has room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._next = asyncio.Lock()
        self._left = asyncio.Event()

    @asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[None]:
        async with self._next:
            while self._used and self._used + size > self._most:
                self._left.clear()
                await self._left.wait()
            self._used += size
        try:
            yield
        finally:
            self._used -= size
            self._left.set()


@dataclass(slots=True)
class _Waiting:
    """A message that was pushed, until it has its answer."""

    raw: RawMessage
    email: ParsedEmail
    answer: str | RouterError | None = None


class Intake:
    """What is pushed for one mailbox. Messages that come while others are at work are a batch together."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._from_peer = replace(ways, later=PATIENCE)
        self._waiting: list[_Waiting] = []
        self._turn = asyncio.Lock()

    async def take(self, message: Pushed, email: ParsedEmail, term: Term) -> str | RouterError:
        """What became of the message, in words, once that is durable; or why nothing is decided."""
        key = DeliveryKey(self._ways.mailbox.address, self._ways.folder, message.item)
        mine = _Waiting(RawMessage(key, message.content, message.received), email)
        self._waiting.append(mine)
        try:
            async with self._turn:
                if mine.answer is None:
                    await self._answer(self._next(), term)
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        assert mine.answer is not None
        return mine.answer

    async def left_over(self, term: Term) -> Report:
        """Take up again what we hold the bytes of, and give up what its peer has given up.

        Raises what the store raises.
        """
        ways, report = self._ways, Report()
        async with self._turn:
            while True:
                waiting = await ways.receipts.waiting(ways.mailbox.address, ways.folder, AT_ONCE)
                again = [r for r in waiting if r.outcome is None]
                await ways.receipts.close([r for r in waiting if r.outcome is not None], term)
                kept = await ways.kept.kept(again)
                await handle(ways, [await from_kept(r, kept[r.id]) for r in again if r.id in kept], term, report)
                await self._left_to_peers([r for r in again if r.id not in kept], term, report)
                if len(waiting) < AT_ONCE:
                    return report

    def _next(self) -> list[_Waiting]:
        """The next batch: at least one message."""
        size = number = 0
        for one in self._waiting[: BATCH.count]:
            size += one.raw.content.size
            if number and size > BATCH.bytes:
                break
            number += 1
        batch, self._waiting = self._waiting[:number], self._waiting[number:]
        return batch

    async def _answer(self, batch: Sequence[_Waiting], term: Term) -> None:
        """Give each of these its answer; where we break, each is tried alone, so that one harms only itself."""
        answers: Mapping[DeliveryKey, str | RouterError] = {}
        error: RouterError = Transient("the router is stopping")
        try:
            answers = await self._handled(batch, term)
        except RouterError as raised:
            error = raised
        except Exception as raised:
            if len(batch) > 1:
                for one in batch:
                    await self._answer([one], term)
                return
            maillog.bug(f"pushed mail {batch[0].raw.key}", raised)
            error = Transient("a fault of the router")
        finally:
            for one in batch:
                one.answer = one.answer or answers.get(one.raw.key, error)

    async def _handled(self, batch: Sequence[_Waiting], term: Term) -> dict[DeliveryKey, str | RouterError]:
        ways, report = self._from_peer, Report()
        messages = {one.raw.key: (one.raw, one.email) for one in batch}
        hit("before-note")
        receipts = await ways.receipts.note(
            ways.mailbox.deployments, ways.mailbox.address, ways.folder, list(messages), "", term
        )
        hit("after-note")
        await handle(ways, [Seen(r, *messages[r.key]) for r in receipts], term, report)
        outcomes = await ways.receipts.outcomes(list(messages))
        return {key: _words(outcomes.get(key, ()), report.error) for key in messages}

    async def _left_to_peers(self, receipts: Sequence[Receipt], term: Term, report: Report) -> None:
        """Open receipts without bytes: not decided when the router ended, or when their time was over at last."""
        interrupted = [r for r in receipts if not r.attempts]
        if interrupted:
            await self._ways.receipts.postpone(interrupted, PATIENCE, "it waits for its peer", term)
        await conclude(self._ways, [_given_up(r) for r in receipts if r.attempts], term, report)


def _words(outcomes: Collection[Outcome | None], error: RouterError | None) -> str | RouterError:
    decided = sorted(outcome.value for outcome in outcomes if outcome is not None)
    if len(decided) < len(outcomes) or not decided:
        return error or Transient("it is not decided yet")
    return ", ".join(dict.fromkeys(decided))


def _given_up(receipt: Receipt) -> Conclusion:
    why = (
        f"It could not be decided when it was delivered, and its mail server did not deliver it again for {DAYS} days: "
        "by now it has told the sender."
    )
    return Conclusion(receipt, Decision(Outcome.VANISHED, "given up by its mail server", (why,)))
