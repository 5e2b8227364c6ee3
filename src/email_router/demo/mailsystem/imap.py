"""IMAP4rev1 (RFC 3501) with IDLE, UIDPLUS, MOVE, UNSELECT, SASL-IR, LITERAL+, ID and NAMESPACE.

What may fail: the client goes away, which undoes nothing that was answered; or it breaks the protocol so that the next
command cannot be found any more, which ends the connection with BYE. Everything else it does wrong gets BAD or NO and
changes nothing.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from email_router.demo.mailsystem import sasl
from email_router.demo.mailsystem.accounts import INBOX, Accounts, Mailbox
from email_router.demo.mailsystem.folder import DELETED, SEEN, Folder
from email_router.demo.mailsystem.imap_syntax import SYSTEM_FLAGS, Arguments, Bad, No, quoted, settable
from email_router.demo.mailsystem.imap_view import SELECTED, View
from email_router.demo.mailsystem.wire import MAX_LINE, Malformed, Wire

MAX_LITERAL = 64 * 1024 * 1024
MAX_LITERAL_BEFORE_LOGIN = 4096
_LITERAL = re.compile(rb"\{(\d{1,10})(\+?)\}$")
_TAG = re.compile(rb'[^\x00-\x20(){%*"\\\x7f-\xff+]+')
_OFFERED = b"IMAP4rev1 LITERAL+ SASL-IR ID NAMESPACE IDLE UIDPLUS MOVE UNSELECT"
_FLAG_LIST = " ".join(SYSTEM_FLAGS.values())
_NUMBERED = {"FETCH", "STORE", "SEARCH"}
"""Commands in whose answer no message may disappear, since they speak of sequence numbers (RFC 3501 section 7.4.1)."""

BEGIN_TLS = "OK begin TLS"
Handler = Callable[[Arguments], Awaitable[str]]
"""Performs a command; returns what follows its tag, or "" for a plain OK."""


class Session:
    """One connection, from greeting to LOGOUT."""

    def __init__(self, wire: Wire, accounts: Accounts, tls: ssl.SSLContext) -> None:
        self._wire = wire
        self._accounts = accounts
        self._tls = tls
        self._mailbox: Mailbox | None = None
        self._view: View | None = None
        self._over = False
        self._changed = asyncio.Event()
        self._news = self._changed.set
        self._always: dict[str, Handler] = {
            "CAPABILITY": self._capability,
            "NOOP": self._noop,
            "LOGOUT": self._logout,
            "ID": self._id,
        }
        self._before_login: dict[str, Handler] = {
            "STARTTLS": self._starttls,
            "LOGIN": self._login,
            "AUTHENTICATE": self._authenticate,
        }
        self._after_login: dict[str, Handler] = {
            "SELECT": self._select,
            "EXAMINE": self._examine,
            "CREATE": self._create,
            "DELETE": self._delete,
            "SUBSCRIBE": self._subscribe,
            "UNSUBSCRIBE": self._subscribe,
            "LIST": self._list,
            "LSUB": self._lsub,
            "NAMESPACE": self._namespace,
            "STATUS": self._status,
            "APPEND": self._append,
            "IDLE": self._idle,
            "CHECK": self._check,
            "CLOSE": self._close,
            "UNSELECT": self._unselect,
        }

    async def run(self) -> None:
        self._say(b"* OK [CAPABILITY " + self._capabilities() + b"] Email Router demo IMAP server ready")
        try:
            while not self._over:
                command = await self._command()
                if command is not None:
                    await self._answer(command)
                await self._wire.drain()
        except Malformed as error:
            self._say(b"* BYE " + str(error).encode())
        finally:
            self._leave()

    # -- commands in, answers out

    def _say(self, line: bytes) -> None:
        self._wire.write(line + b"\r\n")

    async def _command(self) -> bytes | None:
        """The next command with its literals; None when one of them is too large and was refused."""
        line = await self._wire.line()
        command = line
        while match := _LITERAL.search(line):
            size = int(match[1])
            if size > (MAX_LITERAL if self._mailbox else MAX_LITERAL_BEFORE_LOGIN) or len(command) > MAX_LINE:
                if match[2]:
                    raise Malformed("literal too large")
                self._say(_tag_of(command) + b" BAD [TOOBIG] literal too large")
                return None
            if not match[2]:
                self._say(b"+ go on")
                await self._wire.drain()
            literal = await self._wire.exactly(size)
            line = await self._wire.line()
            command += b"\r\n" + literal + line
        return command

    async def _answer(self, command: bytes) -> None:
        tag = _TAG.match(command)
        if tag is None or command[tag.end() : tag.end() + 1] != b" ":
            self._say(b"* BAD a command begins with a tag")
            return
        arguments = Arguments(command[tag.end() + 1 :])
        name = ""
        try:
            by_uid, name = _name(arguments)
            said = await self._perform(name, by_uid, arguments)
        except Bad as error:
            said = f"BAD {error}"
        except No as error:
            said = f"NO {error}"
        else:
            self._tell(may_shrink=by_uid or name not in _NUMBERED)
        self._say(tag[0] + b" " + (said or f"OK {name} completed").encode())
        if said == BEGIN_TLS:
            await self._wire.upgrade(self._tls)

    async def _perform(self, name: str, by_uid: bool, arguments: Arguments) -> str:
        """Runs a command in the states that allow it. Raises Bad, No."""
        if name in SELECTED:
            return await SELECTED[name](self._opened(), arguments, by_uid)
        if by_uid:
            raise Bad(f"UID {name} is no command")
        if handler := self._always.get(name):
            return await handler(arguments)
        if handler := self._before_login.get(name):
            if self._mailbox:
                raise Bad("you are logged in")
            return await handler(arguments)
        if handler := self._after_login.get(name):
            if not self._mailbox:
                raise Bad("log in first")
            return await handler(arguments)
        raise Bad(f"{name} is no command")

    def _opened(self) -> View:
        if self._view is None:
            raise Bad("open a folder first")
        return self._view

    def _tell(self, *, may_shrink: bool) -> None:
        if self._view:
            for line in self._view.changes(may_shrink=may_shrink):
                self._say(line)

    # -- any state

    def _capabilities(self) -> bytes:
        if self._mailbox:
            return _OFFERED
        return _OFFERED + (b" AUTH=PLAIN" if self._wire.tls else b" STARTTLS LOGINDISABLED")

    async def _capability(self, arguments: Arguments) -> str:
        arguments.end()
        self._say(b"* CAPABILITY " + self._capabilities())
        return ""

    async def _noop(self, arguments: Arguments) -> str:
        arguments.end()
        return ""

    async def _logout(self, arguments: Arguments) -> str:
        arguments.end()
        self._say(b"* BYE good bye")
        self._leave()
        self._over = True
        return ""

    async def _id(self, arguments: Arguments) -> str:
        arguments.space()
        if not arguments.skip(b"NIL"):
            arguments.expect(b"(")
            while not arguments.skip(b")"):
                arguments.skip(b" ")
                arguments.string()
                arguments.space()
                if not arguments.skip(b"NIL"):
                    arguments.string()
        arguments.end()
        self._say(b'* ID ("name" "Email Router demo")')
        return ""

    # -- not authenticated

    async def _starttls(self, arguments: Arguments) -> str:
        arguments.end()
        if self._wire.tls:
            raise Bad("TLS is on")
        return BEGIN_TLS

    async def _login(self, arguments: Arguments) -> str:
        arguments.space()
        name = arguments.astring()
        arguments.space()
        password = arguments.astring()
        arguments.end()
        self._need_privacy()
        return self._enter(self._accounts.login(name.decode("utf-8", "replace"), password.decode("utf-8", "replace")))

    async def _authenticate(self, arguments: Arguments) -> str:
        arguments.space()
        mechanism = arguments.atom()
        response = arguments.word() if arguments.skip(b" ") else None
        arguments.end()
        if mechanism != "PLAIN":
            raise No(f"[CANNOT] {mechanism} is not offered")
        self._need_privacy()
        if response is None:
            self._say(b"+ ")
            await self._wire.drain()
            response = await self._wire.line()
        try:
            return self._enter(sasl.plain(self._accounts, response))
        except sasl.BadResponse as error:
            raise Bad(str(error)) from None

    def _need_privacy(self) -> None:
        if not self._wire.tls:
            raise No("[PRIVACYREQUIRED] no password in clear: STARTTLS first")

    def _enter(self, mailbox: Mailbox | None) -> str:
        if mailbox is None:
            raise No("[AUTHENTICATIONFAILED] wrong name or password")
        self._mailbox = mailbox
        return f"OK [CAPABILITY {self._capabilities().decode()}] logged in"

    # -- folders

    @property
    def _folders(self) -> dict[str, Folder]:
        assert self._mailbox
        return self._mailbox.folders

    def _folder(self, name: str, code: str = "NONEXISTENT") -> Folder:
        if name not in self._folders:
            raise No(f"[{code}] there is no such folder")
        return self._folders[name]

    async def _select(self, arguments: Arguments) -> str:
        return self._open(arguments, read_only=False)

    async def _examine(self, arguments: Arguments) -> str:
        return self._open(arguments, read_only=True)

    def _open(self, arguments: Arguments, read_only: bool) -> str:
        arguments.space()
        name = arguments.mailbox()
        arguments.end()
        self._leave()  # also when the new one does not exist (RFC 3501 section 6.3.1)
        folder = self._folder(name)
        view = self._view = View(self._wire, self._folders, folder, read_only)
        folder.watchers.add(self._news)
        self._say(b"* FLAGS (%b)" % _FLAG_LIST.encode())
        self._say(b"* %d EXISTS" % len(view.messages))
        self._say(b"* %d RECENT" % len(view.recent))
        unseen = next((n for n, message in enumerate(view.messages, 1) if SEEN not in message.flags), None)
        if unseen:
            self._say(b"* OK [UNSEEN %d] first unseen" % unseen)
        permanent = "" if read_only else _FLAG_LIST + " \\*"
        self._say(f"* OK [PERMANENTFLAGS ({permanent})] may be changed".encode())
        self._say(b"* OK [UIDNEXT %d] next" % folder.uid_next)
        self._say(b"* OK [UIDVALIDITY %d] valid" % folder.uidvalidity)
        return "OK [READ-ONLY] opened" if read_only else "OK [READ-WRITE] opened"

    def _leave(self) -> None:
        if self._view:
            self._view.folder.watchers.discard(self._news)
        self._view = None

    async def _create(self, arguments: Arguments) -> str:
        arguments.space()
        name = arguments.mailbox().rstrip("/")
        arguments.end()
        if not name or "*" in name or "%" in name:
            raise No("[CANNOT] no folder can have this name")
        if name in self._folders:
            raise No("[ALREADYEXISTS] there is such a folder")
        assert self._mailbox
        self._mailbox.create(name)
        return ""

    async def _delete(self, arguments: Arguments) -> str:
        arguments.space()
        name = arguments.mailbox()
        arguments.end()
        self._folder(name)
        if name == INBOX:
            raise No("[CANNOT] INBOX stays")
        assert self._mailbox
        self._mailbox.delete(name)
        return ""

    async def _subscribe(self, arguments: Arguments) -> str:
        """Every folder is subscribed to; asked for one that exists, nothing changes."""
        arguments.space()
        name = arguments.mailbox()
        arguments.end()
        self._folder(name)
        return ""

    async def _list(self, arguments: Arguments) -> str:
        return self._listed(arguments, b"LIST")

    async def _lsub(self, arguments: Arguments) -> str:
        return self._listed(arguments, b"LSUB")

    def _listed(self, arguments: Arguments, word: bytes) -> str:
        arguments.space()
        reference = arguments.mailbox()
        arguments.space()
        pattern = arguments.pattern()
        arguments.end()
        if not pattern:
            self._say(b"* " + word + b' (\\Noselect) "/" ""')
            return ""
        wanted = re.escape(reference + pattern).replace(r"\*", ".*").replace("%", "[^/]*")
        for name in sorted(self._folders, key=lambda name: (name != INBOX, name)):
            if re.fullmatch(wanted, name, re.IGNORECASE if name == INBOX else 0):
                children = any(other.startswith(name + "/") for other in self._folders)
                mark = b"\\HasChildren" if children else b"\\HasNoChildren"
                self._say(b"* " + word + b" (" + mark + b') "/" ' + quoted(name))
        return ""

    async def _namespace(self, arguments: Arguments) -> str:
        arguments.end()
        self._say(b'* NAMESPACE (("" "/")) NIL NIL')
        return ""

    async def _status(self, arguments: Arguments) -> str:
        arguments.space()
        name = arguments.mailbox()
        arguments.space()
        wanted = arguments.atoms()
        arguments.end()
        folder = self._folder(name)
        known = {
            "MESSAGES": len(folder.messages),
            "RECENT": sum(message.uid >= folder.first_recent for message in folder.messages),
            "UIDNEXT": folder.uid_next,
            "UIDVALIDITY": folder.uidvalidity,
            "UNSEEN": sum(SEEN not in message.flags for message in folder.messages),
        }
        if unknown := [item for item in wanted if item not in known]:
            raise Bad(f"unknown STATUS item {unknown[0]}")
        told = " ".join(f"{item} {known[item]}" for item in wanted)
        self._say(b"* STATUS " + quoted(name) + f" ({told})".encode())
        return ""

    async def _append(self, arguments: Arguments) -> str:
        arguments.space()
        name = arguments.mailbox()
        arguments.space()
        flags = frozenset[str]()
        if arguments.at(b"("):
            flags = settable(arguments.flags())
            arguments.space()
        received = datetime.now(UTC)
        if arguments.at_date_time():
            received = arguments.date_time()
            arguments.space()
        if not arguments.at(b"{"):
            raise Bad("a message is appended as a literal")
        raw = arguments.string()
        arguments.end()
        folder = self._folder(name, "TRYCREATE")
        message = folder.add(raw, received, flags)
        return f"OK [APPENDUID {folder.uidvalidity} {message.uid}] APPEND completed"

    async def _idle(self, arguments: Arguments) -> str:
        """News at once until the client says DONE (RFC 2177)."""
        arguments.end()
        self._say(b"+ idling")
        await self._wire.drain()
        done = asyncio.ensure_future(self._wire.line())
        try:
            while not done.done():
                self._changed.clear()
                self._tell(may_shrink=True)
                news = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait({done, news}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
        finally:
            done.cancel()
        if (await done).upper() != b"DONE":
            raise Bad("only DONE ends IDLE")
        return ""

    # -- selected

    async def _check(self, arguments: Arguments) -> str:
        arguments.end()
        self._opened()
        return ""

    async def _close(self, arguments: Arguments) -> str:
        arguments.end()
        view = self._opened()
        if not view.read_only:
            view.folder.remove([message for message in view.folder.messages if DELETED in message.flags])
        self._leave()
        return ""

    async def _unselect(self, arguments: Arguments) -> str:
        arguments.end()
        self._opened()
        self._leave()
        return ""


def _name(arguments: Arguments) -> tuple[bool, str]:
    """The command, and whether it speaks of UIDs."""
    name = arguments.atom()
    if name != "UID":
        return False, name
    arguments.space()
    return True, arguments.atom()


def _tag_of(command: bytes) -> bytes:
    match = _TAG.match(command)
    return match[0] if match else b"*"
