"""Reports in messages (RFC 3464, 8098, 5965), and those that servers write as they please. Never raises.

What a report says is hostile input: anybody can write one. Nothing here believes it; who ties it to a message of ours
(`incoming.bounces`) does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

from email_router.mime import addresses, headers
from email_router.mime.contents import read_all
from email_router.model.message import Attachment, ParsedEmail
from email_router.model.report import Action, RecipientReport, Report, ReportKind

LONGEST_PART = 256 * 1024
"""Bytes of a status part, or of a returned message's head, that are read."""
MOST_RECIPIENTS = 200
LONGEST_WORDS = 500
MOST_LINES = 400
LOOKED_AT = 4 * 1024
"""Characters of the text in which a server says what is wrong."""

STATUS_PARTS = ("message/delivery-status", "message/global-delivery-status")
DISPOSITION_PARTS = ("message/disposition-notification", "message/global-disposition-notification")
RETURNED_PARTS = (
    "message/rfc822",
    "message/global",
    "message/partial",
    "text/rfc822-headers",
    "text/rfc822-header",
    "message/rfc822-headers",
    "message/global-headers",
)
_ENHANCED = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")
_REPLY_CODE = re.compile(r"(?<![\d.:#])([45][0-5]\d)(?=[ \t-])")
_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,10}", re.ASCII)
_FIELD_LINE = re.compile(
    r"^[ \t>|]{0,4}(received|message-id|return-path|from|to|subject|date|mime-version|x-mailer|content-type)[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
_FAILURE_SUBJECT = re.compile(
    r"^\W*(?:(?:fw|fwd|re|aw|wg)\s*:\s*)?(?:"
    r"undeliver|delivery (?:status notification|failure|has failed|report|delayed)|failure notice|failed mail|"
    r"mail (?:delivery|system error|failure|could not be)|mail failed|message (?:delivery|undeliver)|"
    r"returned mail|return(?:ed)? to sender|nondeliver|non[- ]deliver|warning.{0,3}could not (?:send|deliver)|"
    r"delayed mail|could not deliver|error sending your mail|there was an error sending|\[postmaster\]|"
    r"unzustellbar|nicht zustellbar|nachricht nicht zugestellt|non remis|échec de la remise|message non distribu|"
    r"no se puede entregar|no entregado|devuelto|mancato recapito|impossibile recapitare|onbestelbaar|"
    r"nie można dostarczyć|niedostarczon|недоставлен|не доставлен|"
    r"メールエラー|メッセージを配信|配信不能|配信できません|"
    r"送信できません|系统退信|退信|無法傳遞|无法投递"
    r")",
    re.IGNORECASE,
)
_ERROR = re.compile(
    r"(?<![\d.])[45]\.\d{1,3}\.\d{1,3}(?![\d.])|(?<![\d.:#/-])[45][0-5]\d[ \t-](?=\D)|"
    r"unknown user|user (?:is )?unknown|no such (?:user|recipient|mailbox|person)|"
    r"(?:user|recipient|mailbox|host|domain) (?:not found|unknown|unavailable|is full|full|does not exist)|"
    r"unknown (?:host|local|recipient|mailbox)|"
    r"(?:can(?:no|')t|could not|cannot|unable to|was not) (?:be )?(?:deliver|sen[dt]|reach)|undeliverable|"
    r"fatal error|quota|over ?quota|mailbox (?:is )?full|account (?:is )?disabled|not listed in|"
    r"host name lookup|name server|connection (?:refused|timed out)|deferred|rejected|delivery fail|"
    r"did not reach|not our customer|no mailbox|does not exist|doesn't exist|invalid (?:recipient|address)",
    re.IGNORECASE,
)
"""How servers say that something is wrong, in the language that nearly all of them speak."""
_DELAYED = re.compile(r"delayed|still being retried|will (?:be|keep|continue|try)|warning", re.IGNORECASE)
_ID_LINE = re.compile(
    r"^[\s>|]*(?:message-id|references|in-reply-to|received|reporting-mta|x-[\w-]+)\s*:", re.IGNORECASE
)
_ACTIONS = {action.value: action for action in Action}
_DAEMONS = frozenset({"post_master", "mailer-daemon", "mailerdaemon", "mail-daemon", "maildaemon", "mdaemon", "mmdf"})
_POSTMASTERS = frozenset({"postmaster", "post-master"})
_DAEMON_NAMES = re.compile(r"mailer-daemon|mail deliver(?:y|er)? (?:sub)?system|mail administrator", re.IGNORECASE)


def read(email: ParsedEmail) -> Report | None:
    """The report that a message is, or None for one that is none."""
    kind, parameters = headers.parameters(email.header("content-type"))
    declared = parameters.get("report-type", "").strip().casefold() if kind == "multipart/report" else ""
    status = _parts(email, STATUS_PARTS)
    if status or declared in ("delivery-status", "global-delivery-status"):
        return _delivery(email, status, _rule(kind, declared, STATUS_PARTS[0]))
    disposition = _parts(email, DISPOSITION_PARTS)
    if disposition or declared in ("disposition-notification", "global-disposition-notification"):
        return _disposition(email, disposition, _rule(kind, declared, DISPOSITION_PARTS[0]))
    feedback = _parts(email, ("message/feedback-report",))
    if feedback or declared == "feedback-report":
        return _feedback(email, feedback, _rule(kind, declared, "message/feedback-report"))
    signs = _signs(email)
    if len(signs) > 1:
        return _by_looks(email, "; ".join(signs))
    if kind == "multipart/report":
        answered = (*email.in_reply_to, *reversed(email.references))
        rule = f"Content-Type: multipart/report; report-type={declared}"
        return Report(ReportKind.OTHER, rule, formal=True, returned=answered)
    return None


def _rule(kind: str, declared: str, part: str) -> str:
    if kind == "multipart/report" and declared:
        return f"Content-Type: multipart/report; report-type={declared}"
    return f"a part {part}"


def _parts(email: ParsedEmail, kinds: Sequence[str]) -> list[Attachment]:
    return [a for a in email.attachments if a.content_type in kinds]


# -- RFC 3464


def _delivery(email: ParsedEmail, parts: Sequence[Attachment], rule: str) -> Report:
    blocks = [block for part in parts for block in _blocks(part)]
    about = next((b for b in blocks if "original-envelope-id" in b), {})
    recipients = [found for block in blocks if (found := _recipient(block)) is not None]
    if not recipients:  # a status part that names nobody: what the text says is better than nothing
        recipients = _named_in_text(email)
    return Report(
        ReportKind.DELIVERY,
        rule,
        formal=True,
        envelope_id=_xtext(about.get("original-envelope-id", ""))[:LONGEST_WORDS],
        returned=_returned(email),
        recipients=_each_once(recipients),
    )


def _blocks(part: Attachment) -> list[dict[str, str]]:
    """The groups of fields in a status part: one per message, then one per recipient. Never mixed."""
    text = read_all(part.content, LONGEST_PART).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found = []
    for block in re.split(rb"\n[ \t]*\n", text)[: MOST_RECIPIENTS + 2]:
        fields, _ = headers.split(block.strip(b"\n"), 100)
        if fields:
            found.append({name.lower(): headers.decode(value) for name, value in reversed(fields)})
    return found


def _recipient(block: dict[str, str]) -> RecipientReport | None:
    final = _typed(block.get("final-recipient", ""))
    original = _typed(block.get("original-recipient", "")) or _typed(block.get("x-actual-recipient", ""))
    if not final and not original:
        return None
    said = _words(_untyped(block.get("diagnostic-code", "")))
    given = _ENHANCED.search(block.get("status", ""))
    status = _status(given[1] if given else "", said)
    return RecipientReport(
        final or original, _action(block.get("action", ""), status), original, status, said,
        _words(_untyped(block.get("remote-mta", ""))),
    )  # fmt: skip


def _action(given: str, status: str) -> Action:
    word = given.strip().casefold().partition(" ")[0].strip("();,")
    if word in _ACTIONS:
        return _ACTIONS[word]
    return Action.DELIVERED if status.startswith("2") else Action.FAILED


def _status(given: str, said: str) -> str:
    """A code that says nothing (`5.0.0`) gives way to what the server said; without any, its reply code's class."""
    if given and not given.endswith(".0.0"):
        return given
    for code in _ENHANCED.findall(said):
        if not code.endswith(".0.0") and (not given or code[0] == given[0]):
            return str(code)
    if not given and (reply := _REPLY_CODE.search(said + " ")) is not None:
        return f"{reply[1][0]}.0.0"
    return given


def _typed(value: str) -> str:
    """The address in `rfc822; a@b` (RFC 3464 section 2.3.1), also in angle brackets and with `xtext`."""
    kind, semicolon, rest = value.partition(";")
    address = (rest if semicolon else kind).strip()
    if kind.strip().casefold() == "utf-8":
        address = re.sub(r"\\x\{([0-9A-Fa-f]{2,6})\}", _character, address)
    found = addresses.parse(_xtext(address), 1)
    if found and found[0].address:
        return found[0].address
    return _words(_xtext(address).strip("<> "))


def _character(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    return chr(number) if number < 0xD800 or 0xDFFF < number < 0x110000 else ""


def _xtext(value: str) -> str:
    """RFC 3461 section 4: `+3D` is `=`."""
    return re.sub(r"\+([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), value.strip()) if "+" in value else value.strip()


def _untyped(value: str) -> str:
    kind, semicolon, rest = value.partition(";")
    return rest.strip() if semicolon and re.fullmatch(r"[\w-]{1,20}", kind.strip()) else value.strip()


def _words(value: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in value[: 4 * LONGEST_WORDS]).split())[:LONGEST_WORDS]


def _each_once(recipients: Iterable[RecipientReport]) -> tuple[RecipientReport, ...]:
    found: dict[str, RecipientReport] = {}
    for recipient in recipients:
        found.setdefault(recipient.address.casefold(), recipient)
    return tuple(found.values())[:MOST_RECIPIENTS]


# -- the message that came back


def _returned(email: ParsedEmail, *more: str) -> tuple[str, ...]:
    """Ids of the returned message: of its head, of Exchange's copy of it, and of what the report answers."""
    found: list[str] = [*more]
    for part in _parts(email, RETURNED_PARTS):
        fields, _ = headers.split(_head(read_all(part.content, LONGEST_PART)), 1000)
        values: dict[str, str] = {name.lower(): value for name, value in reversed(fields)}
        names = ("message-id", "x-microsoft-original-message-id", "x-google-original-message-id")
        found += [headers.message_id(values[name]) for name in names if name in values]
    found += [headers.message_id(v) for v in email.all_headers("x-microsoft-original-message-id")]
    found += [*email.in_reply_to, *reversed(email.references)]
    found += re.findall(r"^[ \t>|]{0,4}message-id:\s*<([^<>\s]{3,512})>", email.text, re.IGNORECASE | re.MULTILINE)[:3]
    return tuple(dict.fromkeys(i for i in found if i))[:40]


def _head(data: bytes) -> bytes:
    return re.split(rb"\r?\n\r?\n", data.lstrip(b"\r\n"), maxsplit=1)[0]


# -- RFC 8098 and RFC 5965


def _disposition(email: ParsedEmail, parts: Sequence[Attachment], rule: str) -> Report:
    fields = {name: value for part in parts for block in _blocks(part) for name, value in block.items()}
    final = _typed(fields.get("final-recipient", "")) or _typed(fields.get("original-recipient", ""))
    return Report(
        ReportKind.DISPOSITION,
        rule,
        formal=True,
        envelope_id=_xtext(fields.get("original-envelope-id", ""))[:LONGEST_WORDS],
        returned=_returned(email, headers.message_id(fields.get("original-message-id", ""))),
        recipients=(RecipientReport(final, Action.DELIVERED),) if final else (),
        said=_words(fields.get("disposition", "").rpartition(";")[2]),
    )


def _feedback(email: ParsedEmail, parts: Sequence[Attachment], rule: str) -> Report:
    fields = [f for part in parts for block in _blocks(part) for f in block.items()]
    values = dict(reversed(fields))
    return Report(
        ReportKind.FEEDBACK,
        rule,
        formal=True,
        returned=_returned(email),
        recipients=_each_once(
            RecipientReport(address, Action.DELIVERED)
            for name, value in fields
            if name in ("original-rcpt-to", "removal-recipient") and (address := _typed(value))
        ),
        said=_words(values.get("feedback-type", "")),
    )


# -- by their looks


def _signs(email: ParsedEmail) -> list[str]:
    """What makes a message look like a delivery report, in words; two signs are enough, one is not."""
    if email.header("x-ms-exchange-message-is-ndr"):
        return ["X-MS-Exchange-Message-Is-Ndr", "of Exchange's own making"]
    author = email.from_[0] if email.from_ else None
    local = _local(author.address) if author is not None else ""
    unnamed = not local and _DAEMON_NAMES.search(f"{author.name if author else ''} {email.header('from')}") is not None
    daemon = local in _DAEMONS or unnamed
    reverse = email.header("return-path").strip()
    bounced = reverse == "<>" or _local(reverse.strip("<>")) in _DAEMONS
    failed = bool(email.header("x-failed-recipients"))
    if not (daemon or bounced or failed or local in _POSTMASTERS):
        return []  # people forward reports, and quote them: that makes none
    answers = bool(email.in_reply_to)
    returned = bool(_parts(email, RETURNED_PARTS)) or _returned_head(email.text) >= 0
    signs = {
        f"Return-Path: {reverse}": bounced,
        "X-Failed-Recipients": failed,
        "From: MAILER-DAEMON": daemon,
        "From: postmaster": local in _POSTMASTERS and (returned or bounced or not answers),
        "the head of a message that came back": returned and not answers,
        "an error with an address": _names_error(email.text),
    }
    found = [sign for sign, there in signs.items() if there]
    if _FAILURE_SUBJECT.match(email.subject) and (daemon or bounced or returned):
        found.append("Subject")
    return found


def _local(address: str) -> str:
    return address.partition("@")[0].casefold()


def _returned_head(text: str) -> int:
    """Where in the text the head of another message begins, or -1."""
    lines = islice(_FIELD_LINE.finditer(text[:LONGEST_PART]), 10 * MOST_LINES)
    fields = [(m.start(), m[1].casefold()) for m in lines]
    for n, (start, _) in enumerate(fields):
        names = {name for at, name in fields[n : n + 40] if at - start < 4000}
        if len(names) >= 4 and names & {"received", "message-id", "return-path"}:
            return start
    return -1


def _by_looks(email: ParsedEmail, rule: str) -> Report:
    return Report(
        ReportKind.DELIVERY,
        rule,
        formal=False,
        returned=_returned(email),
        recipients=_each_once(_named_in_text(email)),
    )


def _names_error(text: str) -> bool:
    return any(is_error for _, _, is_error in _named(text[:LOOKED_AT]))


def _named_in_text(email: ParsedEmail) -> list[RecipientReport]:
    """Whom a server names: X-Failed-Recipients, else addresses with an error, else any above the returned message.

    When there is none, whom that message was for.
    """
    cut = _returned_head(email.text)
    text = email.text[: cut if cut >= 0 else None][: 4 * LOOKED_AT]
    ours = {a.key for a in (*email.recipients, *email.from_)}
    listed = [a.address for a in addresses.parse(email.header("x-failed-recipients"), MOST_RECIPIENTS) if a.address]
    named = [
        (address, words, is_error)
        for address, words, is_error in _named(text)
        if address.casefold() not in ours and _local(address) not in _DAEMONS | _POSTMASTERS
    ]
    if listed:
        said = {address.casefold(): words for address, words, _ in reversed(named)}
        return [_looked_up(address, said.get(address.casefold(), text)) for address in listed]
    if any(is_error for *_, is_error in named):
        named = [n for n in named if n[2]]
    if not named:
        named = [(address, text, False) for address in _returned_to(email, cut)]
    return [_looked_up(address, words) for address, words, _ in named]


def _looked_up(address: str, words: str) -> RecipientReport:
    said = _words(words)
    status = _status("", said)
    action = Action.DELAYED if status.startswith("4") and _DELAYED.search(said) else _action("", status)
    return RecipientReport(address, action, status=status, said=said)


def _named(text: str) -> list[tuple[str, str, bool]]:
    """Addresses in a text with the lines around them, and whether these tell an error."""
    lines = text.splitlines()[:MOST_LINES]
    found = []
    for n, line in enumerate(lines):
        if _ID_LINE.match(line):
            continue
        for match in _ADDRESS.finditer(line):
            after = "\n".join([line, *lines[n + 1 : n + 4]])
            around = "\n".join([*lines[max(0, n - 3) : n], after])
            is_error = _ERROR.search(around) is not None
            found.append((match[0].strip("'"), after if _ERROR.search(after) else around, is_error))
            if len(found) > MOST_RECIPIENTS:
                return found
    return found


def _returned_to(email: ParsedEmail, cut: int) -> list[str]:
    heads = [read_all(part.content, LONGEST_PART) for part in _parts(email, RETURNED_PARTS)]
    if cut >= 0:
        heads.append(email.text[cut:][:LONGEST_PART].encode("utf-8", "replace"))
    for head in heads:
        fields, _ = headers.split(_head(head), 1000)
        for name, value in fields:
            if name.lower() == "to":
                return [a.address for a in addresses.parse(value, MOST_RECIPIENTS) if a.address]
    return []
