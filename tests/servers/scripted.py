"""A server that says what a script tells it to, line by line: for protocols that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

SILENT, HANG_UP = "\0", "\1"
"""Answers that say nothing, and that close the connection."""


class Scripted:
    """`greeting`, then `COMMAND>answer` for each expected command, in order; a line end is added to each answer.

    A command that does not begin as the script expects is an error of the test: the connection is closed, and `wrong`
    says what came. When the script is at its end the connection stays open and silent, so that time-outs are seen. The
    connection after a HANG_UP goes on behind it in the script; every other one begins at its start.
    """

    def __init__(self, script: Sequence[str]) -> None:
        self._script = list(script)
        self._from = 0
        self.heard: list[str] = []
        self.wrong = ""
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        assert not self.wrong, self.wrong

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with suppress(OSError):
            for number, step in enumerate(self._script[self._from :], self._from + 1):
                command, arrow, answer = step.partition(">")
                if not arrow:
                    command, answer = "", step
                elif not await self._expect(reader, command):
                    writer.close()
                    return
                if answer == HANG_UP:
                    self._from = number if number < len(self._script) else 0
                    writer.close()
                    return
                if answer != SILENT:
                    await self.answer(writer, answer)
            while line := await reader.readline():
                self.heard.append(line.decode(errors="replace").strip())

    async def answer(self, writer: asyncio.StreamWriter, answer: str) -> None:
        writer.write(answer.encode() + b"\r\n")
        await writer.drain()

    async def _expect(self, reader: asyncio.StreamReader, command: str) -> bool:
        line = (await reader.readline()).decode(errors="replace").strip()
        if not line:
            return False
        self.heard.append(line)
        if not line.startswith(command):
            self.wrong = f"expected {command}, got {line}"
            return False
        return True
