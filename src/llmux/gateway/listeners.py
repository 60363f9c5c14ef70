"""The sockets that clients connect to: opened, paused while there is no room for more clients, closed.

The event loop's own server accepts. uvloop's cannot be paused, and one that runs out of descriptors throws connections
away; so a pause closes the server, which has only a duplicate of the listening socket, and the end of the pause makes
another. Meanwhile the kernel keeps those who connect, as many as the backlog allows.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

BACKLOG: Final = 1024


class Listeners:
    """Those of one gateway. `factory` makes a protocol for each client; `tls` is what `create_server` is told of TLS.

    Attributes:
        addresses: what they are bound to, as `socket.getsockname` has it.
        paused: nobody is accepted now.
    """

    def __init__(self, factory: Callable[[], asyncio.Protocol], *, tls: Mapping[str, Any] | None = None) -> None:
        self._factory = factory
        self._options = {"backlog": BACKLOG, **(tls or {})}
        self._kept: list[socket.socket] = []
        self.addresses: list[Any] = []
        self._servers: list[asyncio.Server] = []
        self._resuming: asyncio.Task[None] | None = None
        self.paused = False
        self._closed = False

    async def open(self, host: str | None, port: int, sockets: Sequence[socket.socket]) -> None:
        """Listen on `host` and `port`, or on `sockets`, which belong to this from now on. May be called again for more.

        Raises:
            OSError: the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        if sockets:
            kept = list(sockets)
            servers = [await self._serve(one) for one in kept]
        else:
            servers = [await loop.create_server(self._factory, host, port, **self._options)]
            kept = [socket.socket(fileno=os.dup(one.fileno())) for one in servers[0].sockets]
        for listener in kept:
            # Accepted connections inherit this: a client whose machine vanished must not stay queued for ever.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._kept += kept
        self._servers += servers
        self.addresses += [listener.getsockname() for listener in kept]

    async def _serve(self, listener: socket.socket) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(self._factory, sock=listener.dup(), **self._options)

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
