"""What went into an installation, and whether exactly that is in its CRM, its mailboxes and with its customers."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from email.message import EmailMessage
from typing import Any

from email_router.crm.embedded.writing import Draft
from email_router.mime.identity import identity_of
from email_router.model.message import Address
from tests.fixtures.dovecot import Dovecot

LARGE = 5 * 1024 * 1024

Ask = Callable[..., list[tuple[Any, ...]]]
"""A query, its values, and the rows."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Mailboxes that are routed (`help` is moved from, `ann` left as it is, `sue` marked seen, `pop` deleted from), and
    whom the company writes to: `bystander` by Bcc."""

    help: str
    ann: str
    sue: str
    pop: str
    customer: str
    bystander: str

    @property
    def mailboxes(self) -> dict[str, str]:
        return {name: value for name, value in asdict(self).items() if name not in ("customer", "bystander")}


@dataclass(frozen=True, slots=True)
class Letter:
    """A distinct message that went in, and how many copies of it into which mailbox."""

    raw: bytes
    subject: str
    words: str
    attached: bytes
    copies: Counter[str]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.attached).hexdigest()


@dataclass(frozen=True, slots=True)
class Written:
    """An email as it was written in the CRM."""

    words: str
    attached: bytes


@dataclass
class _Folder:
    """Messages of a folder by UID: what is kept of them, and their flags."""

    contents: dict[int, bytes] = field(default_factory=dict)
    flags: dict[int, frozenset[str]] = field(default_factory=dict)


class Books:
    def __init__(self, addresses: Addresses, dovecot: Dovecot) -> None:
        self.addresses = addresses
        self.dovecot = dovecot
        self.letters: dict[bytes, Letter] = {}
        """By identity."""
        self.written: dict[str, Written] = {}
        """By subject."""
        self._numbers = itertools.count(1)
        self._verified: set[bytes] = set()
        self._folders: dict[tuple[str, str], _Folder] = {}

    # -- traffic

    def deliver(self, rounds: int, *, large: bool = False) -> None:
        """Mail of every ugly kind: one message in two mailboxes, without Message-ID, with a reused one, twins."""
        to = self.addresses
        letters: list[Letter] = []
        for _ in range(rounds):
            n = next(self._numbers)
            letters += [
                self._letter(n, "plain", {to.help: 1, to.ann: 1}),
                self._letter(n, "nameless", {to.ann: 1, to.pop: 1}, message_id=""),
                self._letter(n, "reused", {to.sue: 1}, message_id=f"plain-{n}@x.test"),
                self._letter(n, "twin", {to.help: 2, to.pop: 1}),
            ]
        if large:
            n = next(self._numbers)
            letters.append(self._letter(n, "large", {to.help: 1, to.sue: 1}, attached=os.urandom(LARGE)))
        for mailbox in to.mailboxes.values():
            messages = [letter.raw for letter in letters for _ in range(letter.copies[mailbox])]
            if messages:
                self.dovecot.deliver_many(mailbox, messages)
        self.letters |= {identity_of(letter.raw): letter for letter in letters}

    def _letter(
        self, n: int, kind: str, copies: dict[str, int], message_id: str | None = None, attached: bytes = b""
    ) -> Letter:
        to = ", ".join(self.addresses.mailboxes.values())
        named = f"{kind}-{n}@x.test" if message_id is None else message_id
        attached = attached or os.urandom(100)
        words = f"These are the {kind} words of {n}."
        raw = (
            f"From: Bob <bob@x.test>\r\nTo: {to}\r\nSubject: {kind} {n}\r\n"
            + (f"Message-ID: <{named}>\r\n" if named else "")
            + "Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n"
            'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n'
            f"{words}\r\n--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
            f'Content-Disposition: attachment; filename="a{n}.bin"\r\n\r\n'
        ).encode() + base64.encodebytes(attached).replace(b"\n", b"\r\n")
        return Letter(raw + b"--b--\r\n", f"{kind} {n}", words, attached, Counter(copies))

    def draft(self) -> Draft:
        """Another email to the customer and, by Bcc, the bystander."""
        n = next(self._numbers)
        subject, written = f"outgoing {n}", Written(f"We write {n} to you.", os.urandom(100))
        self.written[subject] = written
        return Draft(
            self.addresses.help,
            (Address("", self.addresses.customer),),
            subject,
            written.words,
            bcc=(Address("", self.addresses.bystander),),
            attachments=((f"b{n}.bin", "application/octet-stream", written.attached),),
        )

    def copies(self) -> dict[str, int]:
        """Copies that lie, or lay, in each mailbox."""
        return dict(sum((letter.copies for letter in self.letters.values()), Counter[str]()))

    # -- the CRM

    def check_activities(self, ask: Ask) -> None:
        """An activity with a case of its own per letter, no other, and all of it as it came."""
        rows = ask("SELECT identity, id, regarding FROM crm.activity WHERE direction = 'incoming'")
        found = Counter(bytes(identity) for identity, _, _ in rows)
        assert found == Counter(self.letters.keys()), "an activity is lost, doubled, or of nobody's message"
        cases = Counter(identifier for (identifier,) in ask("SELECT id FROM crm.record WHERE type = 'incident'"))
        assert Counter(regarding for _, _, regarding in rows) == cases, "a case is lost, doubled, or without its mail"
        for identity, activity, _ in rows:
            if bytes(identity) not in self._verified:
                self._check_activity(ask, activity, self.letters[bytes(identity)])
                self._verified.add(bytes(identity))
        [(contents,)] = ask("SELECT count(*) FROM crm.content")
        assert contents == len(self.letters) + len(self.written), "an attachment is lost or kept twice"

    def _check_activity(self, ask: Ask, activity: object, letter: Letter) -> None:
        [row] = ask(
            """
            SELECT a.subject, trim(E'\r\n' FROM a.body_text), a.status,
                (SELECT string_agg(data, '' ORDER BY n) FROM crm.raw_chunk WHERE activity = a.id),
                array(SELECT role || ' ' || address FROM crm.party WHERE activity = a.id ORDER BY n),
                array(SELECT address FROM crm.received_by WHERE activity = a.id ORDER BY address),
                array(SELECT v.address FROM crm.queue_item i JOIN crm.receiver v ON v.id = i.queue
                    WHERE i.activity = a.id)
            FROM crm.activity a WHERE a.id = %s""",
            activity,
        )
        subject, words, status, raw, parties, received_by, queues = row
        assert (subject, words, status) == (letter.subject, letter.words, 4)
        assert bytes(raw) == letter.raw, f"{subject}: the message as it came is kept differently"
        to = [f"to {address}" for address in self.addresses.mailboxes.values()]
        assert parties == ["from bob@x.test", *to], f"{subject}: parties differ"
        assert received_by == sorted(letter.copies), f"{subject}: another mailbox received it"
        assert queues == [self.addresses.help], f"{subject}: it lies in other queues"
        attachments = ask(
            "SELECT size, encode(sha256, 'hex'), (SELECT encode(sha256(string_agg(c.data, '' ORDER BY c.n)), 'hex') "
            "FROM crm.content_chunk c WHERE c.sha256 = t.sha256) FROM crm.attachment t WHERE activity = %s",
            activity,
        )
        assert attachments == [(len(letter.attached), letter.sha256, letter.sha256)], f"{subject}: attachments differ"

    def check_receipts(self, ask: Ask) -> None:
        """Each copy has one receipt, and a decision that names the activity of its message."""
        receipts = dict(ask("SELECT mailbox, count(*) FROM router.receipt WHERE closed IS NOT NULL GROUP BY mailbox"))
        assert receipts == self.copies()
        decided = Counter[tuple[bytes, str]]()
        for identity, mailbox, outcomes, copies in ask(
            "SELECT d.identity, d.mailbox, array_agg(DISTINCT d.outcome ORDER BY d.outcome), "
            "count(DISTINCT d.receipt) FROM router.decision d JOIN crm.activity a "
            "ON a.id = d.activity AND a.identity = d.identity GROUP BY 1, 2"
        ):
            assert set(outcomes) <= {"filed", "duplicate"}
            decided[bytes(identity), mailbox] += copies
        for identity, letter in self.letters.items():
            for mailbox, copies in letter.copies.items():
                assert decided.pop((identity, mailbox), 0) == copies, f"{letter.subject}: decisions of {mailbox}"
        assert not decided

    # -- the mailboxes

    def check_mailboxes(self) -> None:
        """The source action of each mailbox happened exactly once to each of its messages."""
        to = self.addresses
        assert not self._look(to.help).contents
        assert self._found(to.help, "Tracked") == self._expected(to.help)
        assert self._found(to.ann) == self._expected(to.ann)
        assert not any("\\Seen" in flags for flags in self._look(to.ann).flags.values())
        assert self._found(to.sue) == self._expected(to.sue)
        assert all("\\Seen" in flags for flags in self._look(to.sue).flags.values())
        assert not self._look(to.pop).contents

    def _expected(self, mailbox: str) -> Counter[bytes]:
        return Counter({_digest(letter.raw): n for letter in self.letters.values() if (n := letter.copies[mailbox])})

    def _found(self, mailbox: str, folder: str = "INBOX") -> Counter[bytes]:
        return Counter(self._look(mailbox, folder).contents.values())

    def _look(self, mailbox: str, folder: str = "INBOX", keep: Callable[[bytes], bytes] | None = None) -> _Folder:
        """What is in a folder now; of each message what `keep` makes of it (a digest). Each is read once only."""
        known = self._folders.setdefault((mailbox, folder), _Folder())
        with self.dovecot.login(mailbox, folder) as client:
            client.select_folder(folder, readonly=True)
            there = client.search()
            new = [uid for uid in there if uid not in known.contents]
            bodies = client.fetch(new, ["BODY.PEEK[]"]) if new else {}
            flags = client.fetch(there, ["FLAGS"]) if there else {}
        keep = keep or _digest
        known.contents = {uid: known.contents.get(uid) or keep(bodies[uid][b"BODY[]"]) for uid in there}
        known.flags = {uid: frozenset(flag.decode() for flag in flags[uid][b"FLAGS"]) for uid in there}
        return known

    # -- the customers

    def check_ledger(self, ask: Ask) -> set[str]:
        """Every email is sent, or uncertain and said to be, in the CRM as in the ledger. Returns what is sent."""
        rows = ask(
            "SELECT a.subject, l.state, a.status, a.said, a.message_id = l.message_id FROM crm.activity a "
            "LEFT JOIN router.ledger l ON l.email = a.id WHERE a.direction = 'outgoing'"
        )
        assert sorted(_without_token(row[0]) for row in rows) == sorted(self.written)
        for subject, state, status, said, same_id in rows:
            assert state in ("sent", "uncertain"), f"{subject} is {state}"
            assert status == (3 if state == "sent" else 7), f"{subject} is {state}, and {status} in the CRM"
            assert said.startswith("Uncertain: ") == (state == "uncertain"), f"{subject} is {state}, and says {said!r}"
            assert same_id, f"{subject}: another Message-ID in the CRM"
        return {_without_token(row[0]) for row in rows if row[1] == "sent"}

    def arrived(self, subjects: set[str]) -> bool:
        """Whether all of these are with both customers."""
        return all(subjects <= set(self.at(address)) for address in (self.addresses.customer, self.addresses.bystander))

    def at(self, customer: str) -> Counter[str]:
        """How many copies of which email a customer got."""
        return Counter(_subject(raw) for raw in self._mail_of(customer))

    def _mail_of(self, customer: str) -> list[bytes]:
        return list(self._look(customer, keep=bytes).contents.values())

    def check_customers(self, ask: Ask) -> None:
        """Never a second copy, and each as it was written, under the Message-ID that the CRM knows."""
        ids = {
            _without_token(subject): message_id
            for subject, message_id in ask("SELECT subject, message_id FROM crm.activity WHERE direction = 'outgoing'")
        }
        for address in (self.addresses.customer, self.addresses.bystander):
            assert all(number == 1 for number in self.at(address).values()), f"a second copy: {self.at(address)}"
            for raw in self._mail_of(address):
                message = email.message_from_bytes(raw, policy=email.policy.default)
                subject = _subject(raw)
                written = self.written[subject]
                body = message.get_body(("plain",))
                assert body is not None and body.get_content().strip() == written.words
                assert [part.get_payload(decode=True) for part in _attachments(message)] == [written.attached]
                assert str(message["Message-ID"]) == f"<{ids[subject]}>"
                assert self.addresses.bystander not in str(message["To"])
                assert message["Bcc"] is None


def _attachments(message: EmailMessage) -> list[Any]:
    return list(message.iter_attachments())


def _subject(raw: bytes) -> str:
    header = raw.partition(b"\r\n\r\n")[0]
    return _without_token(header.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode())


def _without_token(subject: str) -> str:
    return subject.rpartition(" CRM:")[0]


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()
