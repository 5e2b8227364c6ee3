"""POP3 as one session speaks it (RFC 1939, 2449, 2595, 5034). Knows no CRM.

What may fail: the server closes, falls silent, floods or answers no POP3: Transient, and `usable` is false. Nothing is
deleted unless `quit` returned: a session that is lost before has changed nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from email_router.mail.pop3 import errors
from email_router.mail.pop3.settings import Pop3Settings
from email_router.model.errors import NeedsOperator, RouterError, Transient, said_by
from email_router.model.settings import AuthMechanism, TlsMode
from email_router.net import sasl
from email_router.net.connection import Connection, awaiting_the_greeting, connect
from email_router.net.spool import Spool
from email_router.ports.mail import Login

READ = 256 * 1024
MAX_LINE = 8 * 1024
MAX_LISTING = 64 * 1024 * 1024
"""Bytes of a UIDL or LIST answer: half a million messages."""
MINIMUM_RATE = 20_000
"""Bytes a second below which a transfer is given up."""
MAX_HEADER = 4 * 1024 * 1024
ROOM = 4 * 1024 * 1024
"""Bytes that a message may have beyond twice what the server said."""
PIPELINED = 50
LONGEST_ID = 200

Sink = Callable[[bytes], object]


class Client:
    """A session. `connect`, `login`, then the rest; `quit` makes deletions real."""

    def __init__(self, settings: Pop3Settings, login: Login) -> None:
        self._settings = settings
        self._login = login
        self.where = f"{settings.host}:{settings.port or settings.default_port}, {login.username}"
        self.capabilities: dict[str, str] = {}
        self._connection: Connection | None = None
        self._buffer = b""

    @property
    def usable(self) -> bool:
        return self._connection is not None

    @property
    def encryption(self) -> str:
        """TLS version and cipher, or "" in clear."""
        cipher = self._wire.writer.get_extra_info("cipher")
        return f"{cipher[1]} ({cipher[0]})" if cipher else ""

    @property
    def _wire(self) -> Connection:
        if self._connection is None:
            raise Transient("there is no connection", where=self.where, scope="mailbox")
        return self._connection

    # -- the way in

    async def connect(self) -> None:
        """Connection, greeting, and TLS. An STLS that is refused fails; nothing secret was said before."""
        self._connection = await connect(self._settings, self._settings.default_port)
        self._buffer = b""
        with awaiting_the_greeting(self._settings):
            await self._expect("greeting")
        await self._ask_capabilities()
        if self._settings.tls is TlsMode.STARTTLS:
            await self._ask("STLS", "STLS")
            if self._buffer:
                raise await self._broken("the server sent data between STLS and TLS; somebody may be tampering")
            try:
                await self._wire.start_tls()
            except RouterError:
                await self.close()
                raise
            await self._ask_capabilities()  # what was said in clear is not believed

    async def _ask_capabilities(self) -> None:
        self.capabilities = {}
        self._write(b"CAPA\r\n")
        ok, _ = await self._status("CAPA")
        if ok:
            for line in await self._lines("CAPA"):
                name, _, value = line.decode("ascii", "replace").partition(" ")
                self.capabilities[name.upper()] = value
        else:
            self.capabilities = {"USER": ""}  # RFC 1939 knows no CAPA; what such servers have is USER

    async def login(self) -> None:
        """Raises NeedsOperator when the login is refused, Transient when the mailbox is busy."""
        offered = {name for name in self.capabilities.get("SASL", "").upper().split() if name != "LOGIN"}
        if "USER" in self.capabilities:
            offered.add("LOGIN")
        if self._settings.auth is AuthMechanism.NONE:
            raise NeedsOperator("POP3 needs a login", where=self.where, cure="choose a login mechanism (auth)")
        mechanism = sasl.choose(offered, self._settings.auth, self._settings.tls is not TlsMode.NONE)
        user, secret = self._login.username, await self._login.secret()
        if any(character in user + secret for character in "\r\n\0"):
            raise NeedsOperator(
                "the user name or the password contains a line end", where=self.where, cure="enter it again"
            )
        with sasl.never_told(user, secret):
            await self._authenticate(mechanism, user, secret)

    async def _authenticate(self, mechanism: str, user: str, secret: str) -> None:
        if mechanism == "LOGIN":
            await self._ask(f"USER {user}", "log in")
            await self._ask(f"PASS {secret}", "log in")
            return
        first = base64.b64encode(sasl.initial_response(mechanism, user, secret)).decode()
        self._write(f"AUTH {mechanism} {first}\r\n".encode())
        line = await self._line("log in")
        if line.startswith(b"+ "):  # XOAUTH2 says why in a challenge that wants an empty answer
            self._write(b"\r\n")
            line = await self._line("log in")
        ok, said = _read_status(line)
        if ok is not True:
            raise await self._given_up(errors.refused(said, "log in", self.where))

    # -- looking and reading

    async def stat(self) -> tuple[int, int]:
        """Number of messages and their bytes."""
        words = (await self._ask("STAT", "STAT")).split()
        if len(words) < 2 or not all(word.isdecimal() and word.isascii() and len(word) < 20 for word in words[:2]):
            raise await self._broken("the answer to STAT is no POP3")
        return int(words[0]), int(words[1])

    async def sizes(self) -> dict[int, int]:
        """Bytes by message number, as the server counts them."""
        return {n: int(size) for n, size in await self._numbered("LIST") if size.isdecimal() and len(size) < 20}

    async def uidls(self) -> list[tuple[int, str]]:
        """Number and unique id, in the order of the mailbox. Raises NeedsOperator where the server has no UIDL."""
        return await self._numbered("UIDL")

    async def _numbered(self, command: str) -> list[tuple[int, str]]:
        await self._ask(command, command)
        found = []
        for line in await self._lines(command):
            number, _, rest = line.strip(b" ").partition(b" ")
            if number.isdigit() and len(number) < 12 and rest.strip(b" "):
                found.append((int(number), _name(rest.strip(b" "))))
        return found

    async def tops(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """The headers of these messages; those that the server would not give are left out."""
        found: dict[int, bytes] = {}
        commands = [f"TOP {n} 0" for n in numbers]
        for position, number in enumerate(numbers):
            self._ask_ahead(commands, position)
            ok, _ = await self._status("TOP")
            if ok:
                header = bytearray()
                await self._multiline(header.extend, 0, MAX_HEADER)
                found[number] = bytes(header)
        return found

    async def retrieve(
        self, wanted: Sequence[tuple[int, int]], spool: Callable[[], Spool]
    ) -> AsyncIterator[tuple[int, Spool | str]]:
        """Messages by (number, expected bytes), in order: a spool each, or what the server said instead."""
        commands = [f"RETR {n}" for n, _ in wanted]
        for position, (number, size) in enumerate(wanted):
            self._ask_ahead(commands, position)
            ok, said = await self._status("a message", size)
            if not ok:
                yield number, said
                continue
            box = spool()
            try:
                await self._multiline(box.write, size, 2 * size + ROOM)
            except BaseException:
                box.abandon()
                raise
            yield number, box

    def _ask_ahead(self, commands: Sequence[str], position: int) -> None:
        """Send the next commands in one go, as many as the server lets us."""
        ahead = PIPELINED if "PIPELINING" in self.capabilities else 1
        if position % ahead == 0:
            self._write("".join(f"{command}\r\n" for command in commands[position : position + ahead]).encode())

    async def delete(self, numbers: Sequence[int]) -> str:
        """Mark for deletion; `quit` makes it real. Returns what the server said to the first that it refused, or ""."""
        commands = [f"DELE {n}" for n in numbers]
        refused = ""
        for position in range(len(commands)):
            self._ask_ahead(commands, position)
            ok, said = await self._status("DELE")
            if not ok:
                refused = refused or said or "-ERR"
        return refused

    async def quit(self) -> None:
        """End the session. When this returns, deletions are done; when it raises, nobody knows."""
        try:
            await self._ask("QUIT", "QUIT")
        finally:
            await self.close()

    async def close(self) -> None:
        """Hang up: marked messages stay."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                await connection.close()

    # -- the wire

    def _write(self, data: bytes) -> None:
        self._wire.writer.write(data)

    async def _ask(self, command: str, doing: str) -> str:
        self._write(f"{command}\r\n".encode())
        return await self._expect(doing)

    async def _expect(self, doing: str) -> str:
        ok, said = await self._status(doing)
        if not ok:
            raise await self._given_up(errors.refused(said, doing, self.where))
        return said

    async def _status(self, doing: str, size: int = 0) -> tuple[bool, str]:
        ok, said = _read_status(await self._line(doing, size))
        if ok is None:
            raise await self._broken(f"the answer is no POP3 ({doing})", said)
        return ok, said

    async def _line(self, doing: str, size: int = 0) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE:
                raise await self._broken(f"a line of the server is too long ({doing})")
            self._buffer += await self._data(doing, size)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    async def _lines(self, doing: str) -> list[bytes]:
        box = bytearray()
        await self._multiline(box.extend, 0, MAX_LISTING)
        return bytes(box).splitlines()

    async def _multiline(self, write: Sink, size: int, most: int) -> None:
        """A multi-line answer up to its lonely dot, dots at line starts undone, written as it comes."""
        carry, skip, seen = b"\r\n", 2, 0
        while True:
            data = carry + self._buffer
            self._buffer = b""
            end = data.find(b"\r\n.\r\n")
            if end >= 0:
                self._buffer = data[end + 5 :]
                write(data[: end + 2].replace(b"\r\n..", b"\r\n.")[skip:])
                return
            cut = data.rfind(b"\r\n", max(0, len(data) - 4))  # half of an end, or of dots, perhaps
            if cut < 0:
                cut = len(data) - data.endswith(b"\r")
            if cut > 0:
                write(data[:cut].replace(b"\r\n..", b"\r\n.")[skip:])
                seen, skip = seen + cut, 0
            carry = data[cut:]
            if seen > most:
                raise await self._broken("a message is far larger than the server said")
            self._buffer = await self._data("a message", size)

    async def _data(self, doing: str, size: int = 0) -> bytes:
        wire = self._wire
        try:
            async with asyncio.timeout(self._settings.timeout + size / MINIMUM_RATE):
                await wire.writer.drain()
                data = await wire.reader.read(READ)
        except TimeoutError as error:
            raise await self._broken(f"the server did not answer in time ({doing})") from error
        except OSError as error:
            raise await self._broken(f"the connection was lost ({doing})", said_by(error)) from error
        if not data:
            raise await self._broken(f"the server closed the connection ({doing})")
        return data

    async def _broken(self, what: str, said: str = "") -> Transient:
        await self.close()
        cure = "see whether the mail server is well; it is tried again"
        return Transient(what, where=self.where, said=said, cure=cure, scope="mailbox")

    async def _given_up(self, error: RouterError) -> RouterError:
        await self.close()
        return error


def _read_status(line: bytes) -> tuple[bool | None, str]:
    """`+OK` or `-ERR` and the rest; None for anything else."""
    text = line.decode("utf-8", "replace")
    if text.startswith("+OK"):
        return True, text[3:].strip()
    if text.startswith("-ERR"):
        return False, text[4:].strip()
    return None, text[:200]


def _name(raw: bytes) -> str:
    """A unique id is 1 to 70 printable characters (RFC 1939 section 7); whatever else comes is named by its hash."""
    text = raw.decode("ascii", "replace")
    if len(raw) <= LONGEST_ID and text.isascii() and text.isprintable():
        return text
    return f"sha256-{hashlib.sha256(raw).hexdigest()}"
