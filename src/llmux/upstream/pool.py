"""The connections to one backend: idle ones are kept a few seconds, the one used last is used first.

uvicorn, and so vLLM, closes a connection that was idle for 5 s; a pool that let go later would now and then write a
request into a connection that is being closed, and a POST that may have run must not be sent twice.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from llmux.addresses import BackendAddress
from llmux.upstream.connection import UpstreamConnection

Dial = Callable[[], socket.socket]
"""Connects, at once, to somebody who has no address: gives one end of a pair of sockets, or raises `OSError`."""


class Connector(Protocol):
    """Who waits for a new connection. Exactly one of the two is called, unless the attempt is cancelled."""

    def connected(self, connection: UpstreamConnection) -> None:
        """The connection is ready for a request."""

    def connect_failed(self, error: Exception) -> None:
        """It could not be made: an `OSError`, or a `UnicodeError` for a host name that cannot be one."""


class Pool:
    """Of one backend. Made, and used, on a running loop.

    Args:
        address: where the backend listens.
        max_idle: how many idle connections are kept.
        idle_seconds: how long one is kept idle.
        tls: for an https address; the default verifies with the system's certificates.
        dial: makes its connections; `address` is only what it is called then.
    """

    def __init__(
        self,
        address: BackendAddress,
        *,
        max_idle: int,
        idle_seconds: float,
        tls: ssl.SSLContext | None = None,
        dial: Dial | None = None,
    ) -> None:
        self.address = address
        self._dial = dial
        self.host = address.host_header.encode("latin-1")
        self.base = address.base.encode("latin-1")
        self._loop = asyncio.get_running_loop()  # asking for it takes a system call in Python 3.11
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._tls = (tls or ssl.create_default_context()) if address.tls else None
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._attempts: set[asyncio.Task[None]] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._generation = 0

    @property
    def idle(self) -> int:
        """How many idle connections there are."""
        return len(self._idle)

    @property
    def open(self) -> int:
        """How many connections there are, idle or not, those being closed included."""
        return len(self._open)

    @property
    def busy(self) -> bool:
        """Whether there is a connection, or one being made."""
        return bool(self._open or self._attempts)

    def take(self, now: float) -> UpstreamConnection | None:
        """An idle connection, no longer idle, or None."""
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < self._idle_seconds and not connection.closing:
                connection.used = True
                return connection
            connection.abort()
        return None

    def connect(self, connector: Connector) -> asyncio.Task[None]:
        """Make a new connection for `connector`. The task may be cancelled."""
        attempt = self._loop.create_task(self._connect(connector), name=f"connect to {self.address}")
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)
        return attempt

    async def _connect(self, connector: Connector) -> None:
        connection = UpstreamConnection(self, self._generation)
        loop, address = self._loop, self.address
        protocol = cast(asyncio.Protocol, connection)
        try:
            if self._dial is not None:
                await _connect_over(self._dial(), protocol, loop)
            elif address.unix_path:
                await loop.create_unix_connection(lambda: protocol, address.unix_path)
            else:
                host = address.host if self._tls else None
                await loop.create_connection(
                    lambda: protocol, address.host, address.port, ssl=self._tls, server_hostname=host
                )
        except (OSError, UnicodeError) as error:
            connector.connect_failed(error)
        except asyncio.CancelledError:
            connection.abort()  # asyncio closes it too; uvloop may do so without ever calling connection_lost
            raise
        else:
            if connection.closing:
                connector.connect_failed(ConnectionResetError(errno.ECONNRESET, "closed as soon as it was made"))
                return
            self._open.add(connection)
            self._none_open.clear()
            connector.connected(connection)

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose answer is whole."""
        if connection.generation != self._generation or len(self._idle) >= self._max_idle:
            connection.abort()
            return
        connection.resume_reading()
        connection.idle_since = self._loop.time()
        self._idle.append(connection)

    def prune(self, now: float) -> None:
        """Close the connections that were idle for too long."""
        while self._idle and now - self._idle[0].idle_since >= self._idle_seconds:
            self._idle.pop(0).abort()

    def close(self) -> None:
        """Close the idle connections, and those in use when they come back. The pool stays usable."""
        self._generation += 1
        while self._idle:
            self._idle.pop().abort()

    def abort(self) -> None:
        """Close every connection at once, and give up those being made."""
        self.close()
        for attempt in list(self._attempts):
            attempt.cancel()
        for connection in list(self._open):
            connection.abort()

    async def closed(self) -> None:
        """Wait until there is no connection, nor any being made."""
        if self._attempts:
            await asyncio.wait(self._attempts)
        await self._none_open.wait()

    # --- for the connections --------------------------------------------------------------------------------------

    def lost(self, connection: UpstreamConnection) -> None:
        """`connection` is gone."""
        self._open.discard(connection)
        if not self._open:
            self._none_open.set()
        if connection in self._idle:
            self._idle.remove(connection)


async def _connect_over(sock: socket.socket, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
    try:
        await loop.create_unix_connection(lambda: protocol, sock=sock)
    except BaseException:
        sock.close()
        raise
