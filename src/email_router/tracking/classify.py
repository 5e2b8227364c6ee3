"""Which class a message has, by the first rule that decides. What is only supporting is counted, never enough alone.

The order: our own mail, reports, Auto-Submitted (RFC 3834), marks of vendors, lists (RFC 2369, 2919) and bulk, the wish
for no automatic answer, the form of the sender's address, the subject; else a person. Nothing is thrown away for its
class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta

from email_router.model.classes import Classification, Mark, MessageClass
from email_router.model.evidence import Evidence, Facts, KnownActivity
from email_router.model.message import ParsedEmail
from email_router.model.report import Action, Report, ReportKind

AT_ONCE = timedelta(seconds=15)
"""Nobody reads and answers that fast."""
RECENT = timedelta(days=7)
LONGEST_LINE = 120

_REPLIES = (
    "X-Autoreply",
    "X-Auto-Reply",
    "X-Autorespond",
    "X-Autoresponder",
    "X-Autoresponse",
    "X-AutoReply-From",
    "X-Mail-Autoreply",
    "X-MS-Exchange-Inbox-Rules-Loop",
)
_ROBOTS = re.compile(
    r"(?:mailer-daemon|no[-_.]?reply|do[-_.]?not[-_.]?reply|bounces?|notifications?|alerts?)(?:[-+_.=].*)?$"
)
_ROLES = frozenset({"postmaster", "abuse"})
ROLE = "C8-role"
"""People sit there, who should not get a robot's answer; it says nothing for a robot."""
_AWAY = re.compile(
    r"\W*(?:"
    r"out of (?:the )?office|auto(?:matic|mated)?[ -]?(?:reply|response)|autoreply|automatic answer|away from|"
    r"abwesen|automatische antwort|nicht im b(?:ü|ue)ro|r(?:é|e)ponse automatique|absence du bureau|absent\b|"
    r"risposta automatica|fuori ufficio|respuesta autom(?:á|a)tica|autorespuesta|fuera de la oficina|"
    r"resposta autom(?:á|a)tica|automatisch antwoord|afwezig|autosvar|fr(?:å|a)nvaro|frav(?:æ|ae)r|automaattinen|"
    r"poissa|poza biurem|automatyczna odpowied|automatick(?:á|a) odpov|automatikus v(?:á|a)lasz|otomatik yan|"
    r"автоответ|автоматический ответ|自動返信|自動応答|自动回复|自動回覆|부재중|자동 응답"
    r")",
    re.IGNORECASE,
)
_NO = frozenset({"no", "false", "0", "none", ""})
_OF_REPORTS = {
    ReportKind.DISPOSITION: MessageClass.READ_RECEIPT,
    ReportKind.FEEDBACK: MessageClass.COMPLAINT,
    ReportKind.OTHER: MessageClass.AUTO_GENERATED,
}


def classify(evidence: Evidence, facts: Facts) -> Classification:
    """Never raises. What the CRM knows can make a robot's message a reply, and find our own mail."""
    own = facts.by_message_id.get(evidence.message_id) if evidence.message_id else None
    if own is not None and is_ours(evidence, own, facts):
        return Classification(MessageClass.OWN, "C1", f"Message-ID: <{evidence.message_id}>")
    if evidence.report is not None:
        return Classification(_of_report(evidence.report), _rule(evidence.report), evidence.report.rule)
    parent = next((facts.by_message_id[i] for i in evidence.named_ids if i in facts.by_message_id), None)
    answers_us = parent is not None and parent.direction == "outgoing"
    deciding = next((mark for mark in evidence.marks if not mark.supporting), None)
    if deciding is not None:
        vendor = next((m for m in evidence.marks if m.rule == "C5" and m.says is MessageClass.AUTO_REPLY), None)
        if deciding.rule == "C4" and (vendor is not None or answers_us):
            return Classification(MessageClass.AUTO_REPLY, "C4", deciding.line)
        if not deciding.rule.startswith("C8"):
            return Classification(deciding.says, deciding.rule, deciding.line)
    supporting = [*_supporting(evidence), *_at_once(evidence, parent)]
    away = next((mark for mark in evidence.marks if mark.rule == "C9"), None)
    if away is not None and parent is not None and answers_us and _age(evidence, parent) <= RECENT and supporting:
        return Classification(MessageClass.AUTO_REPLY, "C9", f"{away.line}; {supporting[0]}")
    if deciding is not None:
        return Classification(deciding.says, deciding.rule, deciding.line)
    return Classification(MessageClass.HUMAN, "C11")


def is_ours(evidence: Evidence, own: KnownActivity, facts: Facts) -> bool:
    """The id is of an email that was sent from here, and the sender is one of ours: an id alone anybody may write."""
    sender = evidence.sender.key if evidence.sender is not None else ""
    return own.direction == "outgoing" and bool(facts.receivers.get(sender))


def _of_report(report: Report) -> MessageClass:
    if report.kind is ReportKind.DELIVERY:
        failed = report.action in (None, Action.FAILED)
        return MessageClass.BOUNCE if failed else MessageClass.DELIVERY_NOTE
    return _OF_REPORTS[report.kind]


def _rule(report: Report) -> str:
    return "C2" if report.formal else "C3"


def _supporting(evidence: Evidence) -> list[str]:
    return [mark.line for mark in evidence.marks if mark.rule == "C8"]


def _at_once(evidence: Evidence, parent: KnownActivity | None) -> list[str]:
    if parent is not None and parent.direction == "outgoing" and _age(evidence, parent) <= AT_ONCE:
        return [f"it came {max(0, round(_age(evidence, parent).total_seconds()))} s after what it answers"]
    return []


def _age(evidence: Evidence, parent: KnownActivity) -> timedelta:
    return evidence.received - parent.created


# -- what the header says


def marks(email: ParsedEmail, own_lists: Collection[str] = ()) -> tuple[Mark, ...]:
    """The header lines that say something about the sender, in the order of the rules.

    `own_lists` are List-Ids of lists and groups that pass mail on to our mailboxes: their headers say nothing about who
    wrote.
    """
    names = {header.name.casefold() for header in email.headers}
    return tuple(mark for rule in _RULES for mark in rule(email, names, own_lists))


def _auto_submitted(email: ParsedEmail, names: set[str], own: Collection[str]) -> Iterator[Mark]:
    """RFC 3834 section 5: a keyword, then comments and parameters."""
    if "auto-submitted" not in names:
        return
    value = re.split(r"[;\s(]", email.header("auto-submitted").strip().casefold(), maxsplit=1)[0]
    if value == "auto-replied":
        yield Mark("C4", MessageClass.AUTO_REPLY, _line(email, "Auto-Submitted"))
    elif value not in _NO:
        yield Mark("C4", MessageClass.AUTO_GENERATED, _line(email, "Auto-Submitted"))


def _vendors(email: ParsedEmail, names: set[str], own: Collection[str]) -> Iterator[Mark]:
    for name in _REPLIES:
        if name.casefold() in names and email.header(name).strip().casefold() not in _NO:
            yield Mark("C5", MessageClass.AUTO_REPLY, _line(email, name))
    if email.header("x-apple-action").strip().casefold() == "vacation":
        yield Mark("C5", MessageClass.AUTO_REPLY, _line(email, "X-Apple-Action"))
    if "x-autogenerated" in names:
        reply = "reply" in email.header("x-autogenerated").casefold()
        yield Mark(
            "C5", MessageClass.AUTO_REPLY if reply else MessageClass.AUTO_GENERATED, _line(email, "X-Autogenerated")
        )
    if "delivered-to" in names and "autoresponder" in (v.strip().casefold() for v in email.all_headers("delivered-to")):
        yield Mark("C5", MessageClass.AUTO_REPLY, "Delivered-To: autoresponder")
    for name in ("Precedence", "X-Precedence"):
        if name.casefold() in names and email.header(name).strip().casefold().replace("-", "_") == "auto_reply":
            yield Mark("C5", MessageClass.AUTO_REPLY, _line(email, name))
    for name in ("X-FC-MachineGenerated", "X-Auto-Generated"):
        if name.casefold() in names and email.header(name).strip().casefold() not in _NO:
            yield Mark("C5", MessageClass.AUTO_GENERATED, _line(email, name))


def _lists(email: ParsedEmail, names: set[str], own: Collection[str]) -> Iterator[Mark]:
    if own and _list_id(email) in {name.strip("<> ").casefold() for name in own}:
        return
    for name in ("Precedence", "X-Precedence"):
        if name.casefold() in names and email.header(name).strip().casefold() in ("bulk", "junk", "list"):
            yield Mark("C6", MessageClass.LIST, _line(email, name))
    for name in ("List-Id", "List-Post", "Mailing-List"):
        if name.casefold() in names:
            yield Mark("C6", MessageClass.LIST, _line(email, name))
    if "list-unsubscribe" in names:
        says = MessageClass.LIST if "feedback-id" in names else MessageClass.SUPPRESS
        yield Mark("C6", says, _line(email, "List-Unsubscribe"))


def _list_id(email: ParsedEmail) -> str:
    """RFC 2919: what stands in the angle brackets."""
    value = email.header("list-id")
    return (value.rpartition("<")[2].partition(">")[0] if "<" in value else value).strip().casefold()


def _suppress(email: ParsedEmail, names: set[str], own: Collection[str]) -> Iterator[Mark]:
    if "x-auto-response-suppress" in names:
        wishes = set(re.split(r"[,;\s]+", email.header("x-auto-response-suppress").casefold()))
        if wishes & {"all", "oof", "autoreply"}:
            yield Mark("C7", MessageClass.SUPPRESS, _line(email, "X-Auto-Response-Suppress"))
    for header in email.headers:
        name = header.name.casefold()
        if name in ("x-loop", "x-no-loop") or (name.startswith("x-") and name.endswith("-loop")):
            yield Mark("C7", MessageClass.SUPPRESS, f"{header.name}: {header.value}"[:LONGEST_LINE])


def _address(email: ParsedEmail, names: set[str], own: Collection[str]) -> Iterator[Mark]:
    local = email.author.address.partition("@")[0].casefold() if email.author is not None else ""
    if _ROBOTS.match(local):
        yield Mark("C8", MessageClass.SUPPRESS, _line(email, "From"))
    elif local in _ROLES:
        yield Mark(ROLE, MessageClass.SUPPRESS, _line(email, "From"))


def _subject(email: ParsedEmail, names: set[str], own: Collection[str]) -> Iterator[Mark]:
    if _AWAY.match(email.subject):
        yield Mark("C9", MessageClass.AUTO_REPLY, _line(email, "Subject"), supporting=True)


_RULES: tuple[Callable[[ParsedEmail, set[str], Collection[str]], Iterator[Mark]], ...] = (
    _auto_submitted,
    _vendors,
    _lists,
    _suppress,
    _address,
    _subject,
)


def _line(email: ParsedEmail, name: str) -> str:
    return f"{name}: {email.header(name).strip()}"[:LONGEST_LINE]
