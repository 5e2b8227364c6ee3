"""The IMAP server against clients that we did not write, and against one that breaks the rules."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import imaplib
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from imapclient import IMAPClient

from email_router.demo.mailsystem import MailSystem
from tests.integration.demo.conftest import Connect, Peer

BOB = "bob@contoso.example"
ANNA = "anna@contoso.example"
ONE = b"From: carla@fabrikam.example\r\nTo: bob@contoso.example\r\nSubject: one\r\n\r\nfirst\r\n"
TWO = b"From: carla@fabrikam.example\r\nSubject: two\r\n folded\r\nX-Tag: red\r\n\r\nsecond\r\n\r\nparagraph"
OCTOBER = datetime(2026, 10, 5, 23, 30, tzinfo=UTC)


@contextlib.contextmanager
def stdlib(mail: MailSystem, user: str = BOB, password: str = "bob-secret") -> Iterator[imaplib.IMAP4]:
    with imaplib.IMAP4(mail.host, mail.imap_port, timeout=10) as imap:
        imap.starttls(ssl_context=ssl.create_default_context(cafile=str(mail.ca_file)))
        imap.login(user, password)
        yield imap


@contextlib.contextmanager
def imapclient(mail: MailSystem, user: str = BOB, password: str = "bob-secret") -> Iterator[IMAPClient]:
    with IMAPClient(mail.host, mail.imap_port, ssl=False, timeout=10) as imap:
        imap.starttls(ssl.create_default_context(cafile=str(mail.ca_file)))
        imap.login(user, password)
        yield imap


async def logged_in(mail: MailSystem, connect: Connect) -> Peer:
    peer = await connect(mail.imap_port)
    await peer.until(b"* OK")
    assert await peer.ask(b"t STARTTLS") == b"t OK begin TLS"
    await peer.start_tls()
    assert (await peer.ask(b"l LOGIN bob@contoso.example bob-secret")).startswith(b"l OK [CAPABILITY IMAP4rev1 ")
    return peer


# -- clients that we did not write


async def test_imaplib_reads_flags_and_deletes(mail: MailSystem) -> None:
    mail.deliver(BOB, ONE, OCTOBER)
    mail.deliver(BOB, TWO)

    def use() -> None:
        with stdlib(mail) as imap:
            assert imap.select("INBOX") == ("OK", [b"2"])
            assert imap.uid("SEARCH", "UNSEEN") == ("OK", [b"1 2"])
            _, answer = imap.uid("FETCH", "1:*", "(UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])")
            assert answer[0][0] == (
                b'1 (UID 1 FLAGS (\\Recent) INTERNALDATE "05-Oct-2026 23:30:00 +0000" '
                b"RFC822.SIZE %d BODY[] {%d}" % (len(ONE), len(ONE))
            )
            assert [part[1] for part in answer if isinstance(part, tuple)] == [ONE, TWO]
            assert imap.uid("STORE", "1", "+FLAGS", "(\\seen \\Deleted $Done)") == (
                "OK",
                [b"1 (UID 1 FLAGS ($Done \\Deleted \\Seen \\Recent))"],
            )
            assert imap.uid("EXPUNGE", "2") == ("OK", [None]), "what is not marked stays"
            assert imap.expunge() == ("OK", [b"1"])
            assert imap.uid("SEARCH", "ALL") == ("OK", [b"2"])

    await asyncio.to_thread(use)
    assert [message.raw for message in mail.mailbox(BOB).messages] == [TWO]


async def test_imapclient_copies_moves_and_appends(mail: MailSystem) -> None:
    for raw in (ONE, TWO, ONE):
        mail.deliver(BOB, raw)
    mail.mailbox(BOB).create("Done")

    def use() -> None:
        with imapclient(mail) as imap:
            assert imap.list_folders() == [
                ((b"\\HasNoChildren",), b"/", "INBOX"),
                ((b"\\HasNoChildren",), b"/", "Done"),
            ]
            imap.create_folder("Erledigt/Früher")
            assert imap.folder_exists("Erledigt/Früher")
            opened = imap.select_folder("INBOX")
            assert (opened[b"EXISTS"], opened[b"RECENT"], opened[b"UIDNEXT"]) == (3, 3, 4)
            imap.copy([1, 3], "Done")
            imap.move([2], "Erledigt/Früher")
            assert imap.search() == [1, 3]
            assert imap.folder_status("Done", ["MESSAGES", "UNSEEN", "UIDNEXT"]) == {
                b"MESSAGES": 2,
                b"UNSEEN": 2,
                b"UIDNEXT": 3,
            }
            imap.append("Done", b"Subject: draft\n\nhello\n", flags=["\\Seen"], msg_time=OCTOBER)
            imap.select_folder("Done", readonly=True)
            fetched = imap.fetch([3], ["BODY[]", "FLAGS", "INTERNALDATE"])[3]
            assert fetched[b"BODY[]"] == b"Subject: draft\r\n\r\nhello\r\n"
            assert fetched[b"FLAGS"] == (b"\\Seen", b"\\Recent")
            imap.select_folder("Erledigt/Früher")
            assert imap.fetch([1], ["BODY.PEEK[]"])[1][b"BODY[]"] == TWO

    await asyncio.to_thread(use)
    assert mail.mailbox(BOB).folders["Done"].messages[2].received == OCTOBER


async def test_imapclient_is_told_of_new_mail_while_idle(mail: MailSystem) -> None:
    mail.deliver(BOB, ONE)
    loop = asyncio.get_running_loop()

    def deliver() -> None:
        mail.deliver(BOB, TWO)

    def use() -> None:
        with imapclient(mail) as imap:
            imap.select_folder("INBOX")
            imap.idle()
            loop.call_soon_threadsafe(deliver)
            assert imap.idle_check(timeout=10)[0] == (2, b"EXISTS")
            imap.idle_done()
            assert imap.search("NEW") == [1, 2]

    await asyncio.to_thread(use)


async def test_sections_and_parts_of_messages(mail: MailSystem) -> None:
    mail.deliver(BOB, TWO)

    def use() -> None:
        with imapclient(mail) as imap:
            imap.select_folder("INBOX")
            wanted = {
                "BODY.PEEK[HEADER]": (
                    b"BODY[HEADER]",
                    b"From: carla@fabrikam.example\r\nSubject: two\r\n folded\r\nX-Tag: red\r\n\r\n",
                ),
                "BODY.PEEK[TEXT]": (b"BODY[TEXT]", b"second\r\n\r\nparagraph"),
                "BODY.PEEK[HEADER.FIELDS (subject X-None)]": (
                    b"BODY[HEADER.FIELDS (SUBJECT X-NONE)]",
                    b"Subject: two\r\n folded\r\n\r\n",
                ),
                "BODY.PEEK[HEADER.FIELDS.NOT (subject FROM)]": (
                    b"BODY[HEADER.FIELDS.NOT (SUBJECT FROM)]",
                    b"X-Tag: red\r\n\r\n",
                ),
                "BODY.PEEK[]<6.5>": (b"BODY[]<6>", b"carla"),
                "BODY.PEEK[TEXT]<1000.5>": (b"BODY[TEXT]<1000>", b""),
                "RFC822.HEADER": (b"RFC822.HEADER", TWO[: TWO.index(b"second")]),
            }
            for item, (name, value) in wanted.items():
                assert imap.fetch([1], [item])[1][name] == value
            assert imap.get_flags([1]) == {1: (b"\\Recent",)}
            imap.fetch([1], ["BODY[]"])
            assert imap.get_flags([1]) == {1: (b"\\Seen", b"\\Recent")}

    await asyncio.to_thread(use)


async def test_examine_reads_without_a_trace(mail: MailSystem) -> None:
    mail.deliver(BOB, ONE)

    def use() -> None:
        with stdlib(mail) as imap:
            imap.select("INBOX", readonly=True)
            imap.fetch("1", "(BODY[])")
            assert imap.store("1", "+FLAGS", "\\Deleted")[0] == "NO"
            assert imap.expunge()[0] == "NO"
            imap.close()

    await asyncio.to_thread(use)
    (message,) = mail.mailbox(BOB).messages
    assert message.flags == frozenset()
    assert mail.mailbox(BOB).inbox.first_recent == 1


SEARCHES = {
    "ALL": "1 2 3",
    "UID 2:*": "2 3",
    "UID 9:*": "3",
    "2:3 NOT UID 3": "2",
    "SINCE 5-Oct-2026": "1 2",
    "SINCE 6-Oct-2026": "2",
    "BEFORE 6-Oct-2026": "1 3",
    'ON "05-Oct-2026"': "1",
    "SENTSINCE 1-Jan-2026": "3",
    "SEEN": "3",
    "UNSEEN LARGER 83": "2",
    "(OR SUBJECT one SUBJECT three) UNSEEN": "1",
    'HEADER "X-Tag" ""': "2",
    'HEADER Message-ID "<3@x>"': "3",
    "FROM CARLA": "1 2",
    "SUBJECT Müller": "3",
    'BODY "PARAGRAPH"': "2",
    "KEYWORD $done": "3",
    "UNKEYWORD $done UNFLAGGED": "1 2",
    "RECENT": "1 2 3",
    "OLD": "",
}


async def test_searches(mail: MailSystem, connect: Connect) -> None:
    three = (
        b"Subject: =?utf-8?q?M=C3=BCller?= and three\r\nMessage-ID: <3@x>\r\n"
        b"Date: Mon, 05 Jan 2026 10:00:00 +0100\r\n\r\nx\r\n"
    )
    mail.deliver(BOB, ONE, OCTOBER)
    mail.deliver(BOB, TWO)
    last = mail.deliver(BOB, three, datetime(2026, 1, 5, tzinfo=UTC))
    mail.mailbox(BOB).inbox.set_flags(last, frozenset({"\\Seen", "$Done"}))
    peer = await logged_in(mail, connect)
    peer.send(b"s SELECT INBOX")
    await peer.until(b"s OK")
    for query, found in SEARCHES.items():
        charset, literal = b"", query.encode()
        if not query.isascii():
            name = query.removeprefix("SUBJECT ").encode()
            charset, literal = b"CHARSET UTF-8 ", b"SUBJECT {%d+}\r\n%b" % (len(name), name)
        peer.send(b"q UID SEARCH " + charset + literal)
        assert await peer.until(b"q ") == [f"* SEARCH {found}".rstrip().encode(), b"q OK SEARCH completed"], query


# -- what two sessions tell each other


async def test_sequence_numbers_stay_until_the_session_is_told(mail: MailSystem, connect: Connect) -> None:
    for number in range(1, 5):
        mail.deliver(BOB, b"Subject: %d\r\n\r\n" % number)
    peer = await logged_in(mail, connect)
    peer.send(b"s SELECT INBOX")
    await peer.until(b"s OK")
    inbox = mail.mailbox(BOB).inbox
    inbox.remove(inbox.messages[1:3])
    mail.deliver(BOB, b"Subject: 5\r\n\r\n")

    peer.send(b"a FETCH 4 (UID)")
    assert await peer.until(b"a ") == [
        b"* 4 FETCH (UID 4)",
        b"* 5 EXISTS",
        b"* 5 RECENT",
        b"a OK FETCH completed",
    ], "no EXPUNGE may come in the answer to FETCH"
    peer.send(b"b NOOP")
    assert await peer.until(b"b ") == [b"* 2 EXPUNGE", b"* 2 EXPUNGE", b"b OK NOOP completed"]
    peer.send(b"c FETCH 1:* (UID)")
    assert await peer.until(b"c ") == [
        b"* 1 FETCH (UID 1)",
        b"* 2 FETCH (UID 4)",
        b"* 3 FETCH (UID 5)",
        b"c OK FETCH completed",
    ]


async def test_a_flag_set_elsewhere_is_told(mail: MailSystem, connect: Connect) -> None:
    message = mail.deliver(BOB, ONE)
    peer = await logged_in(mail, connect)
    peer.send(b"s SELECT INBOX")
    await peer.until(b"s OK")
    peer.send(b"i IDLE")
    assert await peer.line() == b"+ idling"
    mail.mailbox(BOB).inbox.set_flags(message, frozenset({"\\Flagged"}))
    assert await peer.line() == b"* 1 FETCH (UID 1 FLAGS (\\Flagged \\Recent))"
    mail.mailbox(BOB).inbox.remove([message])
    assert await peer.line() == b"* 1 EXPUNGE"
    assert await peer.ask(b"DONE") == b"i OK IDLE completed"


async def test_copies_and_moves_say_the_new_uids(mail: MailSystem, connect: Connect) -> None:
    for number in range(1, 4):
        mail.deliver(BOB, b"Subject: %d\r\n\r\n" % number)
    done = mail.mailbox(BOB).create("Done")
    peer = await logged_in(mail, connect)
    peer.send(b"s SELECT INBOX")
    await peer.until(b"s OK")
    assert await peer.ask(b"c UID COPY 3,1 Done") == b"c OK [COPYUID %d 1,3 1,2] COPY completed" % done.uidvalidity
    peer.send(b"m MOVE 2:* Done")
    assert await peer.until(b"m ") == [
        b"* OK [COPYUID %d 2,3 3,4] moved" % done.uidvalidity,
        b"* 2 EXPUNGE",
        b"* 2 EXPUNGE",
        b"m OK MOVE completed",
    ]
    assert await peer.ask(b"n UID MOVE 3 Done") == b"n OK MOVE completed"
    assert [message.header for message in done.messages] == [b"Subject: %d\r\n\r\n" % n for n in (1, 3, 2, 3)]
    assert [message.uid for message in mail.mailbox(BOB).messages] == [1]


async def test_a_folder_made_again_has_another_uidvalidity(mail: MailSystem) -> None:
    mailbox = mail.mailbox(BOB)
    first = mailbox.create("Once").uidvalidity
    mailbox.delete("Once")
    assert mailbox.create("Once").uidvalidity > first


# -- many commands at once, and literals


async def test_pipelined_commands_are_answered_in_order(mail: MailSystem, connect: Connect) -> None:
    mail.deliver(BOB, ONE)
    peer = await logged_in(mail, connect)
    peer.send(b"1 EXAMINE INBOX", b"2 UID FETCH 1 (BODY.PEEK[])", b"3 STATUS INBOX (UNSEEN)", b"4 LOGOUT")
    await peer.until(b"1 OK [READ-ONLY]")
    assert await peer.line() == b"* 1 FETCH (UID 1 BODY[] {%d}" % len(ONE)
    assert await peer.exactly(len(ONE)) == ONE
    assert await peer.until(b"4 ") == [
        b")",
        b"2 OK FETCH completed",
        b'* STATUS "INBOX" (UNSEEN 1)',
        b"3 OK STATUS completed",
        b"* BYE good bye",
        b"4 OK LOGOUT completed",
    ]
    assert await peer.closed()


async def test_literals_with_and_without_waiting(mail: MailSystem, connect: Connect) -> None:
    peer = await connect(mail.imap_port)
    await peer.until(b"* OK")
    await peer.ask(b"t STARTTLS")
    await peer.start_tls()
    password = b'anna\'s \\ "secret"'
    assert await peer.ask(b"l LOGIN {%d}" % len(ANNA)) == b"+ go on"
    assert await peer.ask(ANNA.encode() + b" {%d}" % len(password)) == b"+ go on"
    assert (await peer.ask(password)).startswith(b"l OK")
    peer.send(b"a APPEND INBOX (\\Seen) {%d+}\r\n%b" % (len(ONE), ONE))
    validity = mail.mailbox(ANNA).inbox.uidvalidity
    assert await peer.line() == b"a OK [APPENDUID %d 1] APPEND completed" % validity
    assert mail.mailbox(ANNA).messages[0].raw == ONE
    assert await peer.ask(b"b APPEND INBOX {99999999}") == b"b BAD [TOOBIG] literal too large"
    assert await peer.ask(b"c NOOP") == b"c OK NOOP completed"


# -- what a strict server refuses


REFUSED_BEFORE_TLS = {
    b"a LOGIN bob@contoso.example bob-secret": b"a NO [PRIVACYREQUIRED] no password in clear: STARTTLS first",
    b"a AUTHENTICATE PLAIN": b"a NO [PRIVACYREQUIRED] no password in clear: STARTTLS first",
    b"a AUTHENTICATE CRAM-MD5": b"a NO [CANNOT] CRAM-MD5 is not offered",
    b"a SELECT INBOX": b"a BAD log in first",
    b"a UID FETCH 1 FLAGS": b"a BAD open a folder first",
    b"a XYZZY": b"a BAD XYZZY is no command",
    b"a": b"* BAD a command begins with a tag",
    b"+ NOOP": b"* BAD a command begins with a tag",
    b"a NOOP now": b"a BAD the command should end at character 4",
    b"a  NOOP": b"a BAD an atom expected at character 0",
    b'a LOGIN "bob': b"a BAD a quoted string expected at character 6",
    b"a LOGIN {5000}": b"a BAD [TOOBIG] literal too large",
}


async def test_refused_in_clear(mail: MailSystem, connect: Connect) -> None:
    peer = await connect(mail.imap_port)
    assert await peer.line() == (
        b"* OK [CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID NAMESPACE IDLE UIDPLUS MOVE UNSELECT STARTTLS LOGINDISABLED] "
        b"Email Router demo IMAP server ready"
    )
    for command, answer in REFUSED_BEFORE_TLS.items():
        assert await peer.ask(command) == answer


REFUSED_AFTER_LOGIN = {
    b"a STARTTLS": b"a BAD you are logged in",
    b"a LOGIN bob@contoso.example bob-secret": b"a BAD you are logged in",
    b"a FETCH 1 FLAGS": b"a BAD open a folder first",
    b"a CLOSE": b"a BAD open a folder first",
    b"a SELECT Nowhere": b"a NO [NONEXISTENT] there is no such folder",
    b"a SELECT K\xc3\xb6ln": b"a BAD the command should end at character 8",
    b"a STATUS INBOX ()": b"a BAD an atom expected at character 14",
    b"a STATUS INBOX (SIZE)": b"a BAD unknown STATUS item SIZE",
    b"a CREATE inbox": b"a NO [ALREADYEXISTS] there is such a folder",
    b"a CREATE {4+}\r\na\r\nb": b"a BAD folder names are in modified UTF-7",
    b"a DELETE INBOX": b"a NO [CANNOT] INBOX stays",
    b"a APPEND Nowhere {0+}\r\n": b"a NO [TRYCREATE] there is no such folder",
    b"a APPEND INBOX (\\Recent) {0+}\r\n": b"a BAD the flag \\Recent cannot be set",
    b"a UID NOOP": b"a BAD UID NOOP is no command",
}
REFUSED_IN_A_FOLDER = {
    b"a FETCH 2 FLAGS": b"a BAD there are 1 messages",
    b"a FETCH 0 FLAGS": b"a BAD a set of numbers expected at character 6",
    b"a FETCH 1 (FLAGS": b'a BAD ")" expected at character 14',
    b"a FETCH 1 ()": b"a BAD a FETCH item expected at character 9",
    b"a FETCH 1 BODY.PEEK": b"a BAD BODY.PEEK needs a section",
    b"a FETCH 1 BODY[]<0.0>": b"a BAD a partial fetch of nothing",
    b"a FETCH 1 SMELL": b"a BAD unknown FETCH item SMELL",
    b"a FETCH 1 BODYSTRUCTURE": b"a NO [CANNOT] BODYSTRUCTURE is not offered here; fetch the whole message",
    b"a FETCH 1 BODY[1.2]": b"a NO [CANNOT] parts are not offered here; fetch the whole message",
    b"a FETCH 1 BODY[HEADER.FIELDS ({2+}\r\n\xc3\xbc)]": b"a BAD no header field can have this name",
    b"a SEARCH SINCE 31-Feb-2026": b"a BAD 31-Feb-2026 is no date",
    b"a SEARCH CHARSET KOI8-R ALL": b"a BAD [BADCHARSET (US-ASCII UTF-8)] search in UTF-8",
    b"a SEARCH " + b"NOT " * 60 + b"ALL": b"a BAD too many parentheses",
    b"a STORE 1 COLOUR red": b"a BAD unknown STORE item COLOUR",
    b"a STORE 1 FLAGS (\\Recent)": b"a BAD the flag \\Recent cannot be set",
    b"a COPY 1 Nowhere": b"a NO [TRYCREATE] there is no such folder",
    b"a UID EXPUNGE": b'a BAD " " expected at character 11',
}


async def test_refused_after_login(mail: MailSystem, connect: Connect) -> None:
    mail.deliver(BOB, ONE)
    peer = await logged_in(mail, connect)
    for command, answer in REFUSED_AFTER_LOGIN.items():
        assert await peer.ask(command) == answer
    peer.send(b"s SELECT INBOX")
    await peer.until(b"s OK")
    for command, answer in REFUSED_IN_A_FOLDER.items():
        assert await peer.ask(command) == answer
    peer.send(b"i IDLE")
    assert await peer.line() == b"+ idling"
    assert await peer.ask(b"x NOOP") == b"i BAD only DONE ends IDLE"
    (message,) = mail.mailbox(BOB).messages
    assert (message.raw, message.flags) == (ONE, frozenset())


@pytest.mark.parametrize(
    ("sent", "farewell"),
    [
        (b"a NOOP\n", b"* BYE bare line feed"),
        (b"a" * 70_000 + b"\r\n", b"* BYE line too long"),
        (b"a LOGIN {9999999+}\r\n", b"* BYE literal too large"),
    ],
)
async def test_a_broken_protocol_ends_the_connection(
    mail: MailSystem, connect: Connect, sent: bytes, farewell: bytes
) -> None:
    peer = await connect(mail.imap_port)
    await peer.until(b"* OK")
    peer.send_raw(sent)
    assert await peer.line() == farewell
    assert await peer.closed()


async def test_commands_slipped_in_before_tls_are_not_obeyed(mail: MailSystem, connect: Connect) -> None:
    peer = await connect(mail.imap_port)
    await peer.until(b"* OK")
    peer.send(b"a STARTTLS", b"b NOOP")
    assert await peer.line() == b"a OK begin TLS"
    assert await peer.line() == b"* BYE data in clear between STARTTLS and TLS"
    assert await peer.closed()


async def test_wrong_password(mail: MailSystem) -> None:
    def use() -> str:
        with pytest.raises(imaplib.IMAP4.error) as error, stdlib(mail, password="wrong"):
            pass
        return str(error.value)

    assert "[AUTHENTICATIONFAILED] wrong name or password" in await asyncio.to_thread(use)


async def test_authenticate_plain_both_ways(mail: MailSystem, connect: Connect) -> None:
    def response(behalf: str, password: str = "bob-secret") -> bytes:
        return base64.b64encode(f"{behalf}\0{BOB}\0{password}".encode())

    peer = await connect(mail.imap_port)
    await peer.until(b"* OK")
    await peer.ask(b"t STARTTLS")
    await peer.start_tls()
    assert await peer.ask(b"a AUTHENTICATE PLAIN " + response("", "x")) == (
        b"a NO [AUTHENTICATIONFAILED] wrong name or password"
    )
    assert (await peer.ask(b"b AUTHENTICATE PLAIN " + response(ANNA))).startswith(b"b NO [AUTHENTICATIONFAILED]")
    assert await peer.ask(b"c AUTHENTICATE PLAIN =") == b"c BAD a PLAIN response has three parts"
    assert await peer.ask(b"d AUTHENTICATE PLAIN") == b"+ "
    assert await peer.ask(b"*") == b"d BAD authentication cancelled"
    assert await peer.ask(b"e AUTHENTICATE PLAIN") == b"+ "
    assert (await peer.ask(response(BOB))).startswith(b"e OK [CAPABILITY")


# -- down and up again


async def test_a_server_that_is_down_refuses_and_comes_back(mail: MailSystem, connect: Connect) -> None:
    peer = await logged_in(mail, connect)
    port = mail.imap_port
    await mail.stop_imap()
    assert await peer.closed()
    with pytest.raises(ConnectionRefusedError):
        await connect(port)
    mail.deliver(BOB, ONE)
    await mail.start_imap()
    assert mail.imap_port == port
    peer = await logged_in(mail, connect)
    peer.send(b"s STATUS INBOX (MESSAGES)")
    assert await peer.until(b"s ") == [b'* STATUS "INBOX" (MESSAGES 1)', b"s OK STATUS completed"]
