"""The mail log: one function per event, one line per message, so that one `grep` tells a message's life."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO, cast

import structlog

from email_router.model.errors import RouterError
from email_router.model.outgoing import LedgerRow, SendState
from email_router.model.receipt import Decision, Receipt
from email_router.ports.store import Bounce

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
SHOWN = 3
"""Recipients of an email that its line names; there may be hundreds."""
_ONE_LINE = dict.fromkeys(STEERING, "\N{REPLACEMENT CHARACTER}") | {9: " ", 10: " ", 13: " "}
_MANY_LINES = {n: letter for n, letter in _ONE_LINE.items() if n not in (9, 10)}


def configure(form: str = "console", level: str = "info") -> None:
    """Write to standard error: `console` lines for people, `json` for programs."""
    people = form == "console"
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if people:
        renderer = _Plain(_COLOURS if sys.stderr.isatty() else {})
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("%Y-%m-%d %H:%M:%SZ" if people else "iso", utc=True),
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


_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m"}


class _Plain:
    """One line per event whatever stands in it, what matters first and without what is empty; a traceback keeps its
    own. A value of several words stands in double quotes, and those within it become single ones."""

    def __init__(self, colours: Mapping[str, str]) -> None:
        self._colours = colours

    def __call__(
        self, logger: object, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.ProcessorReturnValue:
        level, trace = str(event.pop("level")), str(event.pop("exception", ""))
        head = [str(event.pop("timestamp")), level, str(event.pop("event")).translate(_ONE_LINE)]
        if level == "info":
            head.remove(level)
        words = [f"{key}={_value(value)}" for key, value in event.items() if value not in ("", None)]
        line = "  ".join((*head, " ".join(words)))
        colour = self._colours.get(level, "")
        if colour:
            line = f"{colour}{line}\x1b[0m"
        return line + ("\n" + trace.translate(_MANY_LINES) if trace else "")


def _value(value: object) -> str:
    text = str(value).translate(_ONE_LINE)
    return '"' + text.replace('"', "'") + '"' if " " in text or '"' in text else text


def decided(receipt: Receipt, decision: Decision) -> None:
    log.info(
        decision.outcome.value,
        mailbox=receipt.key.mailbox,
        sender=decision.sender,
        reason=decision.reason,
        why=decision.why[0] if decision.why else "",
        message_id=decision.message_id,
        deployment=receipt.deployment,
        item=receipt.key.item,
    )


def postponed(receipts: Sequence[Receipt], seconds: float, error: RouterError) -> None:
    places = sorted({f"{r.deployment}/{r.key.mailbox}" for r in receipts})
    log.warning("postponed", messages=len(receipts), where=", ".join(places), seconds=round(seconds), error=str(error))


def bounced(bounce: Bounce) -> None:
    log.warning("bounced", recipient=bounce.address, said=bounce.said, message_id=bounce.message_id)


def sent(row: LedgerRow, state: SendState, said: str) -> None:
    """One attempt, and for whom it was."""
    more = f" and {len(row.pending) - SHOWN} more" if len(row.pending) > SHOWN else ""
    log.info(
        "outgoing",
        state=state.value,
        sender=row.sender,
        recipients=", ".join(row.pending[:SHOWN]) + more,
        said=said,
        message_id=row.stamps.message_id,
        deployment=row.deployment,
    )


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
