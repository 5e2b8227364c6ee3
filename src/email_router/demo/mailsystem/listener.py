"""A port of loopback that can be switched off and on again.

What may fail: every port that may be used is taken, or somebody took ours while it was off. Both raise OSError with the
port in its text; nothing is listening then.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from email_router.demo.mailsystem.wire import Wire

HOST = "127.0.0.1"
TRIES = 500
"""Ports tried from the base up, all below the range from which systems take ports for outgoing connections."""


class Listener:
    """Serves each connection with `serve`. Its port is chosen at the first start and kept afterwards.

    An exception that escapes `serve` is a fault of this mail system: it is kept and raised by `stop`.
    """

    def __init__(self, name: str, base: int, serve: Callable[[Wire], Awaitable[None]]) -> None:
        self.name = name
        self.port = 0
        self._base = base
        self._serve = serve
        self._server: asyncio.Server | None = None
        self._wires: set[Wire] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults: list[BaseException] = []

    @property
    def running(self) -> bool:
        return self._server is not None

    async def start(self) -> None:
        """Listen. Does nothing while running."""
        if self._server is not None:
            return
        listening = self._bind()
        self.port = listening.getsockname()[1]
        self._server = await asyncio.get_running_loop().create_server(self._wire, sock=listening)

    async def stop(self) -> None:
        """Refuse new connections and cut those that are open. Does nothing while stopped."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for wire in self._wires:
            wire.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        faults, self._faults = self._faults, []
        if faults:
            raise BaseExceptionGroup(f"the {self.name} server failed", faults)

    def _bind(self) -> socket.socket:
        ports = [self.port] if self.port else range(self._base, self._base + TRIES)
        for port in ports:
            # Named as TCP, or asyncio does not switch Nagle's delay off and each answer in two parts takes 40 ms.
            listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((HOST, port))
                listening.listen(128)
            except OSError:
                listening.close()
            else:
                return listening
        raise OSError(f"{self.name}: no free port on {HOST} from {ports[0]} to {ports[-1]}")

    def _wire(self) -> Wire:
        wire = Wire(self._serve, lambda task: self._begun(wire, task))
        return wire

    def _begun(self, wire: Wire, task: asyncio.Task[None]) -> None:
        self._wires.add(wire)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(wire, done))

    def _ended(self, wire: Wire, task: asyncio.Task[None]) -> None:
        self._wires.discard(wire)
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._faults.append(fault)
