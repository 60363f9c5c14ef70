"""uvicorn as a part of a process that belongs to somebody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SHUTDOWN_SECS = 1
"""How long answers under way may take when the server stops, in seconds; then they are cut."""


class EmbeddedServer(uvicorn.Server):
    """Serves `app` to those whom it is told to `take`, until `stop` is set. Handles no signals, writes no access log.

    uvicorn's own loop looks ten times a second whether it should exit; this one wakes once a second, for the Date
    header, and when it is told to stop.

    Attributes:
        ready: called once somebody can be taken.
    """

    def __init__(self, app: Starlette, stop: asyncio.Event) -> None:
        config = uvicorn.Config(
            app,
            http=HttpToolsProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECS,
        )
        config.load()
        super().__init__(config)
        self._stop = stop
        self._taking: set[asyncio.Task[object]] = set()
        self.ready: Callable[[], None] = lambda: None

    def take(self, sock: socket.socket) -> None:
        """Serve whoever is at the other end of `sock`, which belongs to this from now on."""
        loop = asyncio.get_running_loop()
        taking = loop.create_task(self._take(sock), name="llmux-control-accept")
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)

    async def _take(self, sock: socket.socket) -> None:
        # As uvicorn's own listeners do it.
        protocol = HttpToolsProtocol(self.config, self.server_state, self.lifespan.state)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, sock)
        except OSError:
            sock.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        self.ready()
        while not self._stop.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stop.wait()
