"""The letters of the story, as the mail programs of its people write them.

They are written as bytes here and not by `mime.compose`, so that the router reads what others wrote. Each takes the
time at which it was written, which must carry a zone; the same time makes the same bytes.
"""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import html
import quopri
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import NamedTuple

from email_router.demo.enclosures import drawing, order_form

REFUSED_BY_CRM = "X-Demo-Filing"
"""The CRM of the demo refuses to file what carries this header with `refuse`: the demo's own arrangement, said aloud in
its table, of which the router knows nothing. An ugly structure would not do: the router files those."""


class Person(NamedTuple):
    name: str
    address: str

    def __str__(self) -> str:
        return f"{self.name} <{self.address}>"


SUPPORT = Person("Contoso Support", "support@contoso.example")
ANNA = Person("Anna Lindholm", "anna.lindholm@contoso.example")
BOB = Person("Bob Achebe", "bob.achebe@contoso.example")

CARLA = Person("Carla Mendes", "carla.mendes@fabrikam.example")
DANIEL = Person("Daniel Osei", "daniel.osei@fabrikam.example")
JÜRGEN = Person("Jürgen Möller", "j.moeller@northwind.example")
VIKTOR = Person("Viktor Sand", "viktor@brightleads.example")

DOMAINS = ("contoso.example", "fabrikam.example", "northwind.example", "brightleads.example")
PEOPLE = (SUPPORT, ANNA, BOB, CARLA, DANIEL, JÜRGEN, VIKTOR)


@dataclass(frozen=True, slots=True)
class Letter:
    """A message as it is sent. `message_id` is with its angle brackets."""

    sender: Person
    recipients: tuple[Person, ...]
    subject: str
    message_id: str
    raw: bytes


def first_mail(when: datetime) -> Letter:
    """A customer of Fabrikam writes to the support queue, with Outlook."""
    subject = "Oven 3 stops at 180 °C"
    text = (
        "Hello,\n\n"
        "our oven no. 3 (serial number CX-20417) stops heating at 180 °C since this morning. The display shows E-07.\n"
        "We bake 400 loaves a day on it, so a quick answer would help us a lot.\n\n"
        "Could you tell me whether a technician has to come, or whether we can reset it ourselves?\n\n"
        "Kind regards\nCarla Mendes\nProduction Manager, Fabrikam Bakeries\n"
    )
    return _outlook(CARLA, [SUPPORT], subject, text, when)


def cold_mail(when: datetime) -> Letter:
    """Somebody whom the CRM does not know offers his services to a user who only tracks replies, with Gmail."""
    text = (
        "Hi Bob,\n\n"
        "I came across contoso.example and noticed a few quick wins for your search ranking.\n"
        "We helped 40+ manufacturers to double their leads in 90 days. Would Tuesday or Wednesday suit you for a\n"
        "15 minute call?\n\n"
        "Best,\nViktor\n--\nViktor Sand | Growth Partner | Bright Leads\n"
    )
    return _gmail(VIKTOR, [BOB], "Quick question about contoso.example", text, when)


def order_with_drawing(when: datetime) -> Letter:
    """HTML with a picture in it and a PDF beside it, to a user whose mailbox is read by POP3, with Apple Mail."""
    sender, to = JÜRGEN, ANNA
    subject = "Bestellung für die Filiale Köln"
    message_id = f"<{_unique('order', when, 32).upper()}@northwind.example>"
    mark = _unique("mark", when, 32).upper()
    mixed, alternative, related = (f"Apple-Mail=_{_unique(part, when, 32).upper()}" for part in ("mi", "al", "re"))
    text = (
        "Guten Tag Anna,\n\nanbei unsere Bestellung und eine Skizze der Backstube.\n\nGrüße aus Köln\nJürgen Möller\n"
    )
    page = (
        '<html><head><meta http-equiv="content-type" content="text/html; charset=utf-8"></head>'
        '<body style="overflow-wrap: break-word;">Guten Tag Anna,<div><br></div>'
        "<div>anbei unsere <b>Bestellung</b> und eine Skizze der Backstube:</div><div><br></div>"
        f'<div><img alt="skizze.png" src="cid:{mark}"></div><div><br></div>'
        "<div>Grüße aus Köln</div><div>Jürgen Möller</div></body></html>"
    )
    picture = _lines(
        "Content-Transfer-Encoding: base64",
        "Content-Disposition: inline; filename=skizze.png",
        'Content-Type: image/png; x-unix-mode=0644; name="skizze.png"',
        f"Content-Id: <{mark}>",
    )
    form = _lines(
        "Content-Disposition: attachment; filename*=utf-8''Bestellung%20K%C3%B6ln%204711.pdf",
        'Content-Type: application/pdf; name="=?utf-8?Q?Bestellung_K=C3=B6ln_4711=2Epdf?="',
        "Content-Transfer-Encoding: base64",
    )
    inner = _multipart(related, [_part("text/html", page), picture + b"\r\n" + _base64(drawing())])
    body = _multipart(
        alternative,
        [_part("text/plain", text), _lines(f'Content-Type: multipart/related; boundary="{related}"') + b"\r\n" + inner],
    )
    whole = _multipart(
        mixed,
        [
            _lines(f'Content-Type: multipart/alternative; boundary="{alternative}"') + b"\r\n" + body,
            form + b"\r\n" + _base64(order_form()),
        ],
    )
    header = _lines(
        f"From: {_encoded(sender)}",
        f'Content-Type: multipart/mixed;\r\n boundary="{mixed}"',
        "Mime-Version: 1.0 (Mac OS X Mail 16.0 \\(3826.700.81\\))",
        f"Subject: {_word(subject)}",
        f"Message-Id: {message_id}",
        f"Date: {format_datetime(when)}",
        f"To: {to}",
        "X-Mailer: Apple Mail (2.3826.700.81)",
    )
    return Letter(sender, (to,), subject, message_id, header + b"\r\n" + whole)


def reply(answer: bytes, when: datetime) -> Letter:
    """Carla answers a message as she received it, with Outlook: threading headers, and the whole of it quoted."""
    received = email.message_from_bytes(answer, policy=email.policy.default)
    assert isinstance(received, EmailMessage)
    subject = str(received["Subject"])
    answered_id = str(received["Message-ID"])
    plain = received.get_body(("plain",))
    quoted = plain.get_content() if plain else ""
    text = (
        "Hello,\n\n"
        "the reset worked: the oven is back at 230 °C. Thank you for the quick help!\n"
        "Please send the technician all the same, as you proposed. Thursday morning is fine.\n\n"
        "Kind regards\nCarla\n\n"
        "-----Original Message-----\n"
        f"From: {received['From']}\nSent: {received['Date']}\nTo: {received['To']}\nSubject: {subject}\n\n"
        + quoted.replace("\r\n", "\n")
    )
    references = [*str(received.get("References", "")).split(), answered_id]
    return _outlook(
        CARLA, [SUPPORT], subject if subject.upper().startswith("RE:") else f"RE: {subject}", text, when, references
    )


def to_two_mailboxes(when: datetime) -> Letter:
    """One message to the queue and to a user: both mailboxes hold it, it is one activity. Gmail."""
    text = (
        "Hello Contoso team, hello Anna,\n\n"
        "our new bakery opens on 3 December. We need two CX-500 ovens there; could you send us an offer?\n\n"
        "Regards,\nDaniel Osei\nPurchasing, Fabrikam Bakeries\n"
    )
    return _gmail(DANIEL, [SUPPORT, ANNA], "Offer for two CX-500", text, when)


def question(when: datetime) -> Letter:
    """The parent of `afterthought`."""
    text = "Hello,\n\nwhich cleaning agent may we use for the steam valves of the CX-500?\n\nThanks,\nDaniel\n"
    return _gmail(DANIEL, [SUPPORT], "Cleaning the steam valves", text, when)


def afterthought(parent: Letter, when: datetime) -> Letter:
    """Daniel's colleague adds something to his question; sent at once with it, so that it may arrive before."""
    text = (
        "Hello,\n\nto add to Daniel's question: the valves are from the series with the brass seat.\n\nCarla Mendes\n\n"
        f"-----Original Message-----\nFrom: {parent.sender}\nTo: {SUPPORT}\nSubject: {parent.subject}\n"
    )
    return _outlook(CARLA, [SUPPORT], f"RE: {parent.subject}", text, when, [parent.message_id])


def refused_by_crm(when: datetime) -> Letter:
    """An ordinary message that the CRM of the demo will not take (see `REFUSED_BY_CRM`)."""
    text = "Hello,\n\nplease find our meter readings below.\n\n4711;230;0.87\n4712;229;0.91\n\nFabrikam Bakeries\n"
    letter = _gmail(DANIEL, [SUPPORT], "Meter readings week 47", text, when)
    return Letter(
        letter.sender,
        letter.recipients,
        letter.subject,
        letter.message_id,
        _lines(f"{REFUSED_BY_CRM}: refuse") + letter.raw,
    )


def too_large(when: datetime, size: int) -> Letter:
    """A message with an attachment of `size` bytes, for a profile that takes less."""
    sender, to = DANIEL, SUPPORT
    subject = "Video of the noise"
    message_id = f"<{_unique('video', when, 32)}@mail.fabrikam.example>"
    boundary = f"0000000000{_unique('video', when, 18)}"
    video = _lines(
        'Content-Type: video/mp4; name="noise.mp4"',
        'Content-Disposition: attachment; filename="noise.mp4"',
        "Content-Transfer-Encoding: base64",
    )
    data = b"\0\0\0\x20ftypisom" + bytes(max(0, size - 12))
    header = _lines(
        "MIME-Version: 1.0",
        f"From: {sender}",
        f"Date: {format_datetime(when)}",
        f"Message-ID: {message_id}",
        f"Subject: {subject}",
        f"To: {to}",
        f'Content-Type: multipart/mixed; boundary="{boundary}"',
    )
    text = "Hello,\n\nthis is how it sounds.\n\nDaniel\n"
    body = _multipart(boundary, [_part("text/plain", text), video + b"\r\n" + _base64(data)])
    return Letter(sender, (to,), subject, message_id, header + b"\r\n" + body)


def while_away(when: datetime) -> Letter:
    """What a customer sends while the queue's mail server cannot be reached from the router."""
    text = "Hello,\n\none more thing: could the technician bring a spare door seal?\n\nThanks,\nDaniel\n"
    return _gmail(DANIEL, [SUPPORT], "Spare door seal", text, when)


# -- how the mail programs write


def _outlook(
    sender: Person, to: Sequence[Person], subject: str, text: str, when: datetime, references: Sequence[str] = ()
) -> Letter:
    """Outlook 16 through Exchange: alternative bodies, thread headers of its own."""
    domain = sender.address.partition("@")[2]
    code = _unique(subject, when, 28).upper()
    message_id = f"<DB7PR03MB{code[:4]}{code[4:28]}@DB7PR03MB{code[:4]}.{domain}>"
    boundary = f"_000_DB7PR03MB{code[:4]}{code[4:20]}_"
    topic = subject.removeprefix("RE: ")
    header = [
        f"From: {_encoded(sender)}",
        "To: " + ",\r\n\t".join(f'"{person.name}" <{person.address}>' for person in to),
        f"Subject: {_word(subject)}",
        f"Thread-Topic: {_word(topic)}",
        f"Thread-Index: {_thread_index(topic, when, replies=len(references))}",
        f"Date: {format_datetime(when)}",
        f"Message-ID: {message_id}",
    ]
    if references:
        header += ["References: " + "\r\n ".join(references), f"In-Reply-To: {references[-1]}"]
    header += [
        "Accept-Language: en-GB, en-US",
        "Content-Language: en-GB",
        "X-MS-Has-Attach:",
        "X-MS-TNEF-Correlator:",
        f'Content-Type: multipart/alternative;\r\n\tboundary="{boundary}"',
        "MIME-Version: 1.0",
    ]
    paragraphs = "".join(f'<p class="MsoNormal">{html.escape(line) or "&nbsp;"}</p>\n' for line in text.split("\n"))
    page = (
        '<html xmlns:o="urn:schemas-microsoft-com:office:office">\n<head>\n'
        '<meta http-equiv="Content-Type" content="text/html; charset=utf-8">\n'
        '<meta name="Generator" content="Microsoft Word 15 (filtered medium)">\n'
        '<style><!--\np.MsoNormal {margin:0cm; font-size:11.0pt; font-family:"Aptos",sans-serif;}\n--></style>\n'
        f'</head>\n<body lang="EN-GB">\n<div class="WordSection1">\n{paragraphs}</div>\n</body>\n</html>\n'
    )
    body = _multipart(boundary, [_part("text/plain", text), _part("text/html", page)])
    return Letter(sender, tuple(to), subject, message_id, _lines(*header) + b"\r\n" + body)


def _gmail(sender: Person, to: Sequence[Person], subject: str, text: str, when: datetime) -> Letter:
    """Gmail's web page."""
    code = base64.urlsafe_b64encode(_digest(subject, when))[:42].decode()
    message_id = f"<CA+{code}@mail.gmail.example>"
    boundary = f"0000000000{_unique(subject, when, 18)}"
    header = _lines(
        "MIME-Version: 1.0",
        f"From: {_encoded(sender)}",
        f"Date: {format_datetime(when)}",
        f"X-Gm-Features: {code[:30]}",
        f"Message-ID: {message_id}",
        f"Subject: {_word(subject)}",
        "To: " + ", ".join(str(person) for person in to),
        f'Content-Type: multipart/alternative; boundary="{boundary}"',
    )
    page = '<div dir="ltr">' + "<br>".join(html.escape(line) for line in text.split("\n")) + "</div>\n"
    body = _multipart(boundary, [_part("text/plain", text), _part("text/html", page)])
    return Letter(sender, tuple(to), subject, message_id, header + b"\r\n" + body)


def _thread_index(topic: str, when: datetime, replies: int) -> str:
    """Outlook's: six bytes of time, sixteen that name the conversation, five for each reply (MS-OXOMSG 2.2.1.3)."""
    since_1601 = int((when.timestamp() + 11_644_473_600) * 10_000_000)
    start = since_1601.to_bytes(8, "big")[:6] + hashlib.md5(topic.encode()).digest()  # noqa: S324
    return base64.b64encode(start + b"\x00\x12\x34\x56\x70" * replies).decode()


def _multipart(boundary: str, parts: Sequence[bytes]) -> bytes:
    mark = f"--{boundary}".encode()
    return b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"


def _part(kind: str, text: str) -> bytes:
    encoded = quopri.encodestring(text.encode(), quotetabs=False).replace(b"\n", b"\r\n")
    head = _lines(f'Content-Type: {kind}; charset="utf-8"', "Content-Transfer-Encoding: quoted-printable")
    return head + b"\r\n" + encoded


def _base64(data: bytes) -> bytes:
    return base64.encodebytes(data).replace(b"\n", b"\r\n")


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def _encoded(person: Person) -> str:
    return f"{_word(person.name)} <{person.address}>"


def _word(text: str) -> str:
    """RFC 2047, when it must be."""
    if text.isascii():
        return text
    return f"=?utf-8?B?{base64.b64encode(text.encode()).decode()}?="


def _digest(text: str, when: datetime) -> bytes:
    return hashlib.sha256(f"{text} {when.timestamp()}".encode()).digest()


def _unique(text: str, when: datetime, length: int) -> str:
    return _digest(text, when).hex()[:length]
