"""The mail log: one function per event, one line per message, so that one `grep` tells a message's life."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TextIO, cast

import structlog

from email_router.model.errors import RouterError
from email_router.model.receipt import Decision, Receipt

log = structlog.get_logger("mail")

_STEERING = (
    (0, 31),
    (127, 159),
    (0x61C, 0x61C),
    (0x200E, 0x200F),
    (0x2028, 0x202E),
    (0x2066, 0x2069),
    (0xD800, 0xDFFF),
)
STEERING = frozenset(n for first, last in _STEERING for n in range(first, last + 1))
"""What steers a terminal, turns the direction of its text, or is no letter: ids and subjects come from strangers."""
_ONE_LINE = dict.fromkeys(STEERING, "\N{REPLACEMENT CHARACTER}") | {9: " ", 10: " ", 13: " "}
_MANY_LINES = {n: letter for n, letter in _ONE_LINE.items() if n not in (9, 10)}


def configure(form: str = "console", level: str = "info") -> None:
    """Write to standard error: `console` lines for people, `json` for programs."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if form == "console":
        renderer = _Plain(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0))
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
        cache_logger_on_first_use=True,
    )
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # an outage is told once, and by us
    logging.basicConfig(level=max(threshold, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s")


class _StandardError:
    """What standard error is when a line is written, which need not be what it was when the log was set up."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Plain:
    """One line per event whatever stands in it; a traceback keeps its own."""

    def __init__(self, renderer: structlog.typing.Processor) -> None:
        self._renderer = renderer

    def __call__(
        self, logger: object, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.ProcessorReturnValue:
        for key, value in event.items():
            if isinstance(value, str):
                event[key] = value.translate(_MANY_LINES if key == "exception" else _ONE_LINE)
        return self._renderer(logger, method, event)


def decided(receipt: Receipt, decision: Decision) -> None:
    log.info(
        decision.outcome.value,
        deployment=receipt.deployment,
        mailbox=receipt.key.mailbox,
        item=receipt.key.item,
        message_id=decision.message_id,
        sender=decision.sender,
        reason=decision.reason,
        why=decision.why[0] if decision.why else "",
    )


def postponed(receipts: Sequence[Receipt], seconds: float, error: RouterError) -> None:
    places = sorted({f"{r.deployment}/{r.key.mailbox}" for r in receipts})
    log.warning("postponed", messages=len(receipts), where=", ".join(places), seconds=round(seconds), error=str(error))


def sent(deployment: str, sender: str, message_id: str, state: str, said: str) -> None:
    log.info("outgoing", state=state, deployment=deployment, sender=sender, message_id=message_id, said=said)


def waiting_for_database(state: str, error: RouterError) -> None:
    log.warning("an answer waits for the database", state=state, error=str(error))


def mailbox_state(mailbox: str, state: str, error: str = "") -> None:
    (log.warning if error else log.info)("mailbox", mailbox=mailbox, state=state, **({"error": error} if error else {}))


def profile_state(profile: str, state: str, error: str = "") -> None:
    (log.warning if error else log.info)("profile", profile=profile, state=state, **({"error": error} if error else {}))


def serving(shards: int) -> None:
    """How much of the whole is ours, when that changed."""
    log.info("serving", shards=shards)


def shard_lost(number: int, epoch: int) -> None:
    """Another router took it over while we were frozen or cut off."""
    log.warning("shard lost", number=number, epoch=epoch)


def peer(address: str, what: str, why: str) -> None:
    """A mail server that hands mail over, and what was refused to it."""
    log.warning("peer", address=address, what=what, why=why)


def bug(where: str, error: BaseException) -> None:
    """Something that should not happen: with its traceback."""
    log.error("bug", where=where, error=f"{type(error).__name__}: {error}", exc_info=error)
