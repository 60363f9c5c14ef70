"""One connection to a backend: writes a request, hands on what answers it, and goes back to its pool.

It tells its receiver about every request it was given exactly once how that ended, unless the receiver called `abort`.
It never interprets what it relays beyond what `ResponseReader` does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, cast

from llmux.errors import BackendError
from llmux.wire.response import ResponseReader

if TYPE_CHECKING:
    from llmux.upstream.pool import Pool

JOIN_BYTES: Final = 64 * 1024
"""Up to this size, head and body are joined and leave in one write; above it, copying costs more than it saves."""


class Receiver(Protocol):
    """Who gets the answer. Called on the loop; must not raise."""

    def received(self, data: bytes, response: ResponseReader) -> None:
        """`data` of the body came; the head is known, and `response.complete` tells whether this was all. Once it
        is, the connection is no longer the receiver's."""

    def chunk_came(self, data: bytes, response: ResponseReader) -> None:
        """Like `received`, after a call of that, with `data` that is one whole chunk of the body, framing included."""

    def malformed(self, error: BackendError) -> None:
        """The answer is not HTTP. The connection is gone."""

    def lost(self, reason: Exception | None, response: ResponseReader) -> None:
        """The connection ended before the answer did. `response.started` and `head_done` tell how far it had come."""


class Sender(Protocol):
    """Who writes more than a request. Called on the loop; must not raise."""

    def backend_paused(self) -> None:
        """The backend does not read as fast as it is written to."""

    def backend_resumed(self) -> None:
        """It has caught up."""


class UpstreamConnection:
    """Made by its `Pool`. An `asyncio.Protocol`, though not by inheritance: that would keep mypyc from making a class
    of its own of it, with attributes that need not be looked up.

    Attributes:
        sender: hears when to write, if it does so by `write`.
        generation: of the pool when it was made; a connection from before a `Pool.close` is not used again.
        idle_since: when it came back to the pool, on the loop's clock.
        used: it has carried a request before the current one.
    """

    __slots__ = (
        "_paused",
        "_pool",
        "_receiver",
        "_response",
        "_transport",
        "generation",
        "idle_since",
        "sender",
        "used",
    )

    def __init__(self, pool: Pool, generation: int) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._response: ResponseReader | None = None
        self._paused = False
        self.sender: Sender | None = None
        self.generation = generation
        self.idle_since = 0.0
        self.used = False

    # --- for the receiver -----------------------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes | bytearray, response: ResponseReader, receiver: Receiver) -> None:
        """Write a request; what comes back is read by `response` and told to `receiver`."""
        self._receiver = receiver
        self._response = response
        transport = self._transport
        if transport is None or transport.is_closing():
            # connection_lost is on its way, and tells the receiver.
            return
        if not body:
            transport.write(head)
        elif len(body) <= JOIN_BYTES:
            transport.write(head + body)
        else:
            transport.writelines([head, body])

    def write(self, data: bytes) -> None:
        """Send what follows the request, where its answer was a switch of protocols."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def leave(self) -> None:
        """Close properly, if the backend has taken all that was written, else at once; the receiver hears no more."""
        if self._transport is None or not self.flushed:
            self.abort()
            return
        self._receiver = self._response = self.sender = None
        self._transport.close()

    @property
    def unsent(self) -> int:
        """How many bytes wait for the backend to read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def closing(self) -> bool:
        """Is it of no more use?"""
        return self._transport is None or self._transport.is_closing()

    @property
    def flushed(self) -> bool:
        """Has all of the request been handed to the kernel?"""
        return self._transport is not None and self._transport.get_write_buffer_size() == 0

    def pause_reading(self) -> None:
        """Take no more of the answer, until `resume_reading`."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once; the receiver hears no more."""
        self._receiver = None
        self._response = None
        self.sender = None
        if self._transport is not None:
            self._transport.abort()

    # --- callbacks of asyncio -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        receiver, response = self._receiver, self._response
        if receiver is None or response is None:
            self.abort()  # nobody asked: it must never be taken for the answer to a later request
            return
        if response.is_chunk(data):
            receiver.chunk_came(data, response)
            return
        try:
            body, excess = response.feed(data)
        except BackendError as error:
            self.abort()
            receiver.malformed(error)
            return
        if response.complete:
            self._receiver = self._response = None
            if response.reusable and not excess and self.flushed:
                self._pool.release(self)
            else:
                self.abort()
            receiver.received(body, response)
        elif response.head_done:
            receiver.received(body, response)

    def pause_writing(self) -> None:
        if self.sender is not None:
            self.sender.backend_paused()

    def resume_writing(self) -> None:
        if self.sender is not None:
            self.sender.backend_resumed()

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.lost(self)
        self._ended(exc)
        self._transport = None

    def _ended(self, exc: Exception | None) -> None:
        receiver, response = self._receiver, self._response
        if receiver is None or response is None:
            return
        self.abort()
        if exc is None and response.end_of_file():
            receiver.received(b"", response)
        else:
            receiver.lost(exc, response)
