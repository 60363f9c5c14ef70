"""uvicorn, made fit for a test: it starts inside a running loop, stops at once, and lets a handler cut its connection.

Private to `llmux.testing.backend`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

TRANSPORT = "llmux.transport"
"""Where a request's ``scope["extensions"]`` holds its transport: ASGI has no word for dropping a connection."""


class _Protocol(HttpToolsProtocol):
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: self.transport}  # type: ignore[dict-item]  # not one of ASGI's own


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the caller's business

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        await self.stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        self.abort_connections()
        if self.server_state.tasks:  # handlers notice the disconnect; one that does not is cancelled
            _, late = await asyncio.wait(self.server_state.tasks, timeout=5)
            for task in late:
                task.cancel()

    def abort_connections(self) -> None:
        for connection in list(self.server_state.connections):
            transport: Any = connection.transport
            transport.abort()


@contextlib.asynccontextmanager
async def listen(app: Any, sock: socket.socket, *, keep_alive_secs: float) -> AsyncIterator[_Server]:
    """Serve the ASGI `app` on the bound socket until the context ends, which drops every open connection."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="auto",  # what is there; if nothing is, a handshake is an ordinary request
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=keep_alive_secs,  # type: ignore[arg-type]  # it goes to call_later, which takes fractions
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    listening = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        yield server
    finally:
        listening.cancel()
        server.stopping.set()
        await serving


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket bound to `host` and `port` (0: any free one). OSError if that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock
