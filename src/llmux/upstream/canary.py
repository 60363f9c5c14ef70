"""The canary: one small request to a backend, sent by llmux itself, to see whether the model serves.

It goes over a connection like any client's, and is judged by the status of a whole answer alone. What the backend says
is thrown away, never shown and never logged.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from llmux.errors import BackendError
from llmux.messages import Outcome
from llmux.upstream.connection import UpstreamConnection
from llmux.upstream.pool import Pool
from llmux.wire.response import ResponseReader

#: It is llmux that has no descriptors, not the backend that is at fault.
LOCAL_ERRORS = frozenset({errno.EMFILE, errno.ENFILE})

Ended = Callable[[Outcome, float, str], None]


@dataclass(frozen=True, slots=True)
class Canary:
    """What is sent to the backend: a POST of the JSON `body` to `path`. `headers` may have secrets, so they are never
    shown."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class CanaryRun:
    """One canary under way. Implements `llmux.upstream.Connector` and `llmux.upstream.Receiver`.

    Always on a new connection: an idle one might be of a backend that is gone. Afterwards it is the pool's.

    Args:
        pool: of the backend.
        timeout: in seconds, from now to the end of the answer; None for no limit.
        ended: called once, from the loop, after this was made, with how it ended, the seconds that took and what went
            wrong: OK is a whole answer with a status of 200 to 299, FAILED any other, or none; TIMEOUT and CANCELLED as
            for a hook; ERROR is that llmux could not send it.
    """

    def __init__(self, pool: Pool, canary: Canary, timeout: float | None, ended: Ended) -> None:
        self._pool = pool
        self._canary = canary
        self._ended: Ended | None = ended
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._connection: UpstreamConnection | None = None
        self._attempt: asyncio.Task[None] | None = pool.connect(self)
        self._deadline = None if timeout is None else self._loop.call_later(timeout, self._too_late)

    def cancel(self) -> None:
        """End it now, unless it is over."""
        self._loop.call_soon(self._end, Outcome.CANCELLED, "cancelled")

    def _too_late(self) -> None:
        self._end(Outcome.TIMEOUT, f"no whole answer within {self._timeout:g} s")

    def _end(self, outcome: Outcome, detail: str = "") -> None:
        ended, self._ended = self._ended, None
        if ended is None:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        if self._connection is not None:
            self._connection.abort()
        ended(outcome, self._loop.time() - self._began, detail)

    # --- Connector ------------------------------------------------------------------------------------------------

    def connected(self, connection: UpstreamConnection) -> None:
        """See `llmux.upstream.Connector`."""
        self._attempt = None
        if self._ended is None:
            connection.abort()
            return
        self._connection = connection
        connection.send(self._head(), self._canary.body, ResponseReader(to_head=False), self)

    def connect_failed(self, error: Exception) -> None:
        """See `llmux.upstream.Connector`."""
        self._attempt = None
        why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        local = isinstance(error, OSError) and error.errno in LOCAL_ERRORS
        self._end(Outcome.ERROR if local else Outcome.FAILED, f"cannot connect to the backend: {why}")

    def _head(self) -> bytes:
        pool = self._pool
        lines = [
            b"POST %b%b HTTP/1.1" % (pool.base, self._canary.path.encode("latin-1")),
            b"Host: %b" % pool.host,
            b"User-Agent: llmux",
            b"Accept: application/json",
            b"Content-Type: application/json",
            b"Content-Length: %d" % len(self._canary.body),
            *(f"{name}: {value}".encode("latin-1") for name, value in self._canary.headers),
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # --- Receiver -------------------------------------------------------------------------------------------------

    def received(self, data: bytes, response: ResponseReader) -> None:
        """See `llmux.upstream.Receiver`."""
        if not response.complete:
            return
        self._connection = None  # it is the pool's again
        if 200 <= response.status < 300:
            self._end(Outcome.OK)
        else:
            self._end(Outcome.FAILED, f"the backend answered with status {response.status}")

    def chunk_came(self, data: bytes, response: ResponseReader) -> None:
        """See `llmux.upstream.Receiver`."""

    def malformed(self, error: BackendError) -> None:
        """See `llmux.upstream.Receiver`."""
        self._connection = None
        self._end(Outcome.FAILED, error.message)

    def lost(self, reason: Exception | None, response: ResponseReader) -> None:
        """See `llmux.upstream.Receiver`."""
        self._connection = None
        what = "in the middle of its response" if response.started else "before it answered"
        self._end(Outcome.FAILED, f"the backend closed the connection {what}")
