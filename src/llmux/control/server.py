"""Serves the control plane, on the running loop, to those who have a line to it: the gateway, and nobody else.

It has no address: each connection is a pair of sockets without a name, of which the server gets one. So nobody can come
in past the gateway, and nobody can remove it, as cleaners of temporary folders do with the sockets of processes that
live for months.

It leaves signals, logging configuration and the process alone. Whoever dials is served once the web server is loaded:
importing that takes as long as a quarter of llmux's whole start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from llmux import logs

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from llmux.control.embedded import EmbeddedServer
    from llmux.upstream import Dial

log = logs.get_logger("llmux.control")


class _Exchange:
    """Makes the pairs. What is dialled before there is a server waits for it."""

    def __init__(self) -> None:
        self._waiting: list[socket.socket] = []
        self._server: EmbeddedServer | None = None
        self._open = True

    def dial(self) -> socket.socket:
        """One end of a new connection.

        Raises:
            OSError: there is no server any more, or there are no descriptors.
        """
        if not self._open:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        if self._server is None:
            self._waiting.append(theirs)
        else:
            self._server.take(theirs)
        return ours

    def answer(self, server: EmbeddedServer) -> None:
        """Give those who wait, and those who will dial, to `server`."""
        self._server = server
        waiting, self._waiting = self._waiting, []
        for sock in waiting:
            server.take(sock)

    def close(self) -> None:
        """Refuse everybody from now on."""
        self._open = False
        for sock in self._waiting:
            sock.close()
        self._waiting.clear()


@contextlib.asynccontextmanager
async def control_server(make_app: Callable[[], Starlette]) -> AsyncIterator[Dial]:
    """Serve the application that `make_app` makes, while the context lasts; gives what connects to it.

    `make_app` is called in a thread, so that it may import what it needs. Should that fail, it is logged, and
    connections are refused. Leaving takes about 0.1 seconds, or 1 if answers are under way; those are cut then.
    """
    lines = _Exchange()
    stop = asyncio.Event()
    serving = asyncio.create_task(_serve(make_app, lines, stop), name="llmux-control")
    try:
        yield lines.dial
    finally:
        stop.set()
        await serving


async def _serve(make_app: Callable[[], Starlette], lines: _Exchange, stop: asyncio.Event) -> None:
    with contextlib.closing(lines):
        try:
            server = await asyncio.to_thread(_load, make_app, stop)
            server.ready = lambda: lines.answer(server)
            await server.serve(sockets=[])
        except Exception:
            log.exception("control_plane_failed")


def _load(make_app: Callable[[], Starlette], stop: asyncio.Event) -> EmbeddedServer:
    from llmux.control.embedded import EmbeddedServer

    return EmbeddedServer(make_app(), stop)
