"""The sockets that clients connect to: opened, paused while there is no room for more clients, closed.

The event loop's own server accepts. uvloop's cannot be paused, and one that runs out of descriptors throws connections
away; so a pause closes the server, which has only a duplicate of the listening socket, and the end of the pause makes
another. Meanwhile the kernel keeps those who connect, as many as the backlog allows.

Where somebody else is to have the accepted sockets, as for TLS, they are accepted here.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

BACKLOG: Final = 1024

AT_ONCE: Final = 32
"""How many are accepted in one round of the event loop, where they are accepted here."""

RETRY_SECONDS: Final = 1.0
"""How long accepting rests when there are no descriptors to accept with."""


class Acceptor:
    """Accepts connections from `listener`, which belongs to this from now on, and hands them to `take`."""

    def __init__(self, listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._take = take
        self._rest: asyncio.TimerHandle | None = None
        self._closed = False
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._begin()

    def _begin(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._loop.remove_reader(self._listener)
                self._rest = self._loop.call_later(RETRY_SECONDS, self._begin)
                return
            sock.setblocking(False)
            self._take(sock)
            if self._closed:  # there is no room for one more
                return

    def close(self) -> None:
        """Accept no more."""
        if not self._closed:
            self._closed = True
            if self._rest is not None:
                self._rest.cancel()
            self._loop.remove_reader(self._listener)
            self._listener.close()


class Listeners:
    """Those of one gateway. `factory` makes a protocol for each client; or `take` is given each accepted socket.

    Attributes:
        addresses: what they are bound to, as `socket.getsockname` has it.
        paused: nobody is accepted now.
    """

    def __init__(
        self, factory: Callable[[], asyncio.Protocol], *, take: Callable[[socket.socket], None] | None = None
    ) -> None:
        self._factory = factory
        self._take = take
        self._kept: list[socket.socket] = []
        self.addresses: list[Any] = []
        self._servers: list[asyncio.Server | Acceptor] = []
        self._resuming: asyncio.Task[None] | None = None
        self.paused = False
        self._closed = False

    async def open(self, host: str | None, port: int, sockets: Sequence[socket.socket]) -> None:
        """Listen on `host` and `port`, or on `sockets`, which belong to this from now on. May be called again for more.

        Raises:
            OSError: the address cannot be bound.
        """
        if sockets:
            kept = list(sockets)
        else:
            here = self._take is not None  # nobody may be accepted by the server then
            made = await asyncio.get_running_loop().create_server(
                self._factory, host, port, backlog=BACKLOG, start_serving=not here
            )
            kept = [socket.socket(fileno=os.dup(one.fileno())) for one in made.sockets]
            if here:
                made.close()
            else:
                self._servers.append(made)
        if sockets or self._take is not None:
            self._servers += [await self._serve(one) for one in kept]
        for listener in kept:
            # Accepted connections inherit this: a client whose machine vanished must not stay queued for ever.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._kept += kept
        self.addresses += [listener.getsockname() for listener in kept]

    async def _serve(self, listener: socket.socket) -> asyncio.Server | Acceptor:
        if self._take is not None:
            return Acceptor(listener.dup(), self._take)
        return await asyncio.get_running_loop().create_server(self._factory, sock=listener.dup(), backlog=BACKLOG)

    def pause(self) -> None:
        """Accept nobody until `resume`. Nothing happens if that is so already."""
        if self.paused or self._closed:
            return
        self.paused = True
        self._close_servers()

    def resume(self) -> None:
        """Accept again."""
        if self.paused and not self._closed and self._resuming is None:
            self._resuming = asyncio.get_running_loop().create_task(self._resume(), name="llmux-resume-accepting")

    async def _resume(self) -> None:
        try:
            for listener in self._kept:
                self._servers.append(await self._serve(listener))
            self.paused = False
        except OSError:  # no descriptors, of all things: `resume` will be called again
            self._close_servers()
        finally:
            self._resuming = None

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []

    def close(self) -> None:
        """Listen no more: whoever connects is refused."""
        self._closed = True
        if self._resuming is not None:
            self._resuming.cancel()
        self._close_servers()
        for listener in self._kept:
            listener.close()
