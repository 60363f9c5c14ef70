"""One client's connection: reads requests one at a time, and carries back what is answered.

Requests that are pipelined behind the one being served wait as bytes, up to a bound, then reading pauses. A client that
closes its sending side while a request of its waits or is served counts as gone: that is how most clients leave, and
a request nobody waits for must not hold a place in the queue. (nginx does the same unless told otherwise.)
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import socket
import struct
import termios
from typing import ClassVar, Final, cast

from llmux.errors import BodyTooLargeError, HeadersTooLargeError, LlmuxError, OverloadedError, RequestTimeoutError
from llmux.gateway.access import check_body_may_come
from llmux.gateway.exchange import Exchange
from llmux.gateway.observer import Limit
from llmux.gateway.origin import peer_of
from llmux.gateway.shared import Shared
from llmux.gateway.tunnel import Tunnel
from llmux.native import mypyc_attr
from llmux.wire.errors import Shape, shape_of
from llmux.wire.heads import CONTINUE, error_response
from llmux.wire.request import RequestReader

MAX_PIPELINED_BYTES: Final = 64 * 1024
"""Bytes of later requests that are kept before reading pauses. One read may go past it."""

LINGER_SECONDS: Final = 2.0
MAX_DISCARDED_BYTES: Final = 16 * 1024 * 1024
"""How long, and for how many bytes, a client may go on sending after an error that it might not have read yet."""

# What the connection is about.
_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_BUSY: Final = 3  # an exchange has it
_CLOSING: Final = 4
_TUNNEL: Final = 5  # an exchange has it, and takes whatever comes

_LIMITS: Final[dict[type[LlmuxError], Limit]] = {
    BodyTooLargeError: Limit.BODY,
    HeadersTooLargeError: Limit.HEAD,
    OverloadedError: Limit.BUFFERED,
}

_RESET: Final = struct.pack("ii", 1, 0)  # linger on, for no time: close() sends RST and not FIN


@mypyc_attr(allow_interpreted_subclasses=True)  # those that make records
class ClientConnection:
    """Made by the gateway's listeners. An `asyncio.Protocol`, though not by inheritance; see `UpstreamConnection`.

    Attributes:
        deadline: on the loop's clock; the gateway calls `deadline_passed` when it has passed.
        forwarded: header lines about this client, for backends.
        trusted: it is a proxy whose X-Forwarded-* fields are believed.
        write_paused: something that was written has not left yet.
    """

    __slots__ = (
        "_backlog",
        "_consuming",
        "_discarded",
        "_exchange",
        "_held",
        "_overrun",
        "_phase",
        "_reader",
        "_reading_paused",
        "_shared",
        "_stalled",
        "_transport",
        "_tunnel",
        "_turn",
        "_unsent",
        "deadline",
        "forwarded",
        "trusted",
        "write_paused",
    )

    _EXCHANGE: ClassVar[type[Exchange]] = Exchange
    _TUNNEL_EXCHANGE: ClassVar[type[Tunnel]] = Tunnel
    """What carries out its requests."""

    def __init__(self, shared: Shared) -> None:
        settings = shared.settings
        self._shared = shared
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader(max_head_bytes=settings.max_head_bytes, max_body_bytes=settings.max_body_bytes)
        self._exchange: Exchange | None = None
        self._tunnel: Tunnel | None = None
        self._phase: int = _IDLE
        self._backlog = b""
        self._consuming = False
        self._turn = False  # what it sent, or its end, waits for its turn
        self._reading_paused = False
        self._held = 0
        self._overrun = False  # what came behind the request was thrown away: its response is the last one
        self._stalled = 0  # bytes that are counted as buffered because the client does not read
        self._unsent = 0
        self._discarded = 0
        self.deadline = math.inf
        self.forwarded = b""
        self.trusted = False
        self.write_paused = False

    def settings_changed(self) -> None:
        """The limits are others from now on, also for the request that is arriving."""
        settings = self._shared.settings
        self._reader.set_limits(max_head_bytes=settings.max_head_bytes, max_body_bytes=settings.max_body_bytes)

    @property
    def idle(self) -> bool:
        """Does nothing wait for it, or come from it?"""
        return self._phase == _IDLE

    # --- for the exchange -----------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send `data`. `Exchange.client_paused` is called from here if it does not leave at once."""
        if self._transport is not None:
            self._transport.write(data)

    def exchange_done(self, exchange: Exchange) -> None:
        """The last byte of the response has left."""
        self._exchange = None
        if not exchange.keep_alive or self._overrun:
            # What came behind the request may be unread: a plain close could then destroy the response on its way.
            self._linger() if self._backlog or self._overrun else self.close()
        elif not self._consuming:
            if self._reading_paused:
                self.resume_reading()
            data = self._backlog
            if data:
                self._keep(b"")
                self._consume(data)
            else:
                self._wait()

    def close(self) -> None:
        """Close after everything written has left."""
        self._exchange = None
        self._phase = _CLOSING
        self.deadline = self._shared.loop.time() + self._shared.seconds.write
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Close at once, with a reset: no client can take what it has got for the whole."""
        self._exchange = None
        self._phase = _CLOSING
        if self._transport is not None:
            connection = self._transport.get_extra_info("socket")
            if connection is not None and connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def begin_tunnel(self, tunnel: Tunnel) -> bytes | None:
        """From now on, what comes is for `tunnel`. Returns what has come already; None if not all of it was kept."""
        if self._overrun:
            return None
        early = self._backlog
        self._keep(b"")
        self._phase = _TUNNEL
        self._tunnel = tunnel
        self.resume_reading()
        return early

    def pause_reading(self) -> None:
        """Take nothing from the client, until `resume_reading`."""
        if self._transport is not None and not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        if self._reading_paused and self._transport is not None and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    @property
    def peer(self) -> str | None:
        """The address at the other end; None once it is gone."""
        return None if self._transport is None else peer_of(self._transport)

    # --- for the gateway ------------------------------------------------------------------------------------------

    def deadline_passed(self) -> None:
        """Called once `deadline` has passed, and again and again until there is a later one."""
        exchange = self._exchange
        if self._phase == _IDLE:
            self.close()
        elif self._phase in (_HEAD, _BODY):
            what, limit = ("head", Limit.HEAD_TIMEOUT) if self._phase == _HEAD else ("body", Limit.BODY_TIMEOUT)
            self._refuse(RequestTimeoutError(f"the request's {what} took too long to arrive"), limit)
        elif self.write_paused and self._transport is not None:
            unsent = _unsent(self._transport)
            if unsent < self._unsent:  # slow, but it reads
                self._unsent = unsent
                self.deadline = self._shared.loop.time() + self._shared.seconds.write
            else:
                self._shared.observer.limit_hit(Limit.WRITE_TIMEOUT)
                self.abort()
        elif exchange is not None:
            exchange.deadline_passed()
        else:
            self.abort()

    def abort(self) -> None:
        """The client is given up: close at once, free whatever its request holds."""
        exchange = self._exchange
        self.reset()
        if exchange is not None:
            exchange.client_gone()

    # --- reading --------------------------------------------------------------------------------------------------

    def _consume(self, data: bytes) -> None:
        """Read requests and serve them, until there is nothing left or one has to be waited for."""
        reader = self._reader
        self._consuming = True
        try:
            while data:
                data = reader.feed(data)
                request = reader.request
                held = reader.held
                if held != self._held:
                    self._shared.hold(held - self._held)
                    self._held = held
                if not reader.complete:
                    if reader.in_body and self._phase != _BODY:
                        check_body_may_come(self._shared.access, request)
                    break
                self._phase = _BUSY
                if data:
                    self._keep(data)
                self._held = 0
                reader.reset()
                if request.websocket is None:
                    exchange = self._EXCHANGE(self._shared, self, request, held)
                else:
                    exchange = self._TUNNEL_EXCHANGE(self._shared, self, request, held, request.websocket)
                self._exchange = exchange
                exchange.start()
                if not exchange.done:
                    self._bound_backlog()
                    return
                if self._phase == _CLOSING:
                    return
                data = self._backlog
                if data:
                    self._keep(b"")
        except LlmuxError as error:
            self._refuse(error, _LIMITS.get(type(error)))
            return
        finally:
            self._consuming = False
        self._wait()

    def _consume_later(self, data: bytes) -> None:
        """Too many clients have sent something in this moment. What it is about is found out when it is its turn."""
        if not self._overrun:
            self._keep(self._backlog + data)
        self._bound_backlog()
        if not self._turn:
            if self._phase == _IDLE:
                self._phase = _HEAD
                self.deadline = self._shared.loop.time() + self._shared.seconds.head
            self._turn = True
            self._shared.turns.take(self)

    def proceed(self) -> None:
        """See `llmux.gateway.turns`. The client may have left in the meantime, or been told that it took too long."""
        self._turn = False
        if self._transport is None:
            self._gone()
        elif self._phase < _BUSY:
            if self._overrun:
                self._refuse(OverloadedError("too many bytes of requests are waiting already", retry_after=1), None)
                return
            data = self._backlog
            self._keep(b"")
            self.resume_reading()
            self._consume(data)

    def broken(self) -> None:
        """See `llmux.gateway.turns`."""
        if self._transport is not None:
            self.abort()
        else:
            self._shared.client_closed(self)

    def _wait(self) -> None:
        """Wait for more of a request."""
        reader, shared = self._reader, self._shared
        if not reader.started:
            if shared.stopping:
                self.close()
                return
            self._phase = _IDLE
            self.deadline = shared.loop.time() + shared.seconds.keep_alive
        elif not reader.in_body:
            if self._phase != _HEAD:
                self._phase = _HEAD
                self.deadline = shared.loop.time() + shared.seconds.head
        else:
            if self._phase != _BODY:
                self._phase = _BODY
                self.deadline = shared.loop.time() + shared.seconds.body
            if reader.expects_continue and not reader.request.body:
                self.write(CONTINUE)
            reader.expects_continue = False

    def _refuse(self, error: LlmuxError, limit: Limit | None) -> None:
        """Answer what is not, or not yet, a request. What the rest of the bytes mean is not known any more."""
        reader = self._reader
        shape = shape_of(reader.request.path) if reader.in_body else Shape.OPENAI
        self.write(error_response(error, shape=shape))
        self._shared.observer.request_done(None, error.status, 0.0)
        if limit is not None:
            self._shared.observer.limit_hit(limit)
        self._linger()

    def _linger(self) -> None:
        """Close, but not before the client has had the time to read what it was told (RFC 9112, section 9.6)."""
        self._let_go()
        self._exchange = None
        self._phase = _CLOSING
        self.deadline = self._shared.loop.time() + LINGER_SECONDS
        self.resume_reading()
        if self._transport is not None and not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()  # TLS cannot: there, only what is read tells the client that this is the end

    def _let_go(self) -> None:
        """Forget what was read."""
        self._shared.buffered -= self._held
        self._held = 0
        self._keep(b"")
        self._reader.reset()

    def _keep(self, data: bytes) -> None:
        """`data` is what waits behind the request being served. Where there is no memory for it, none of it is kept,
        and the connection closes after the response: that tells a client that the rest was not served."""
        shared = self._shared
        shared.buffered -= len(self._backlog)
        if data and shared.buffered + len(data) > shared.settings.max_buffered_bytes:
            shared.observer.limit_hit(Limit.BUFFERED)
            self._overrun = True
            data = b""
        shared.buffered += len(data)
        self._backlog = data

    def _bound_backlog(self) -> None:
        if self._overrun or len(self._backlog) > MAX_PIPELINED_BYTES:
            self.pause_reading()

    # --- callbacks of asyncio -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = client = cast(asyncio.Transport, transport)
        # Writes go to the kernel at once; what does not fit pauses this protocol until all of it has left. So
        # `write_paused` is exactly "not all has left", and no more than one read of a backend is ever held.
        tls = client.get_extra_info("sslcontext") is not None
        # To asyncio's and uvloop's TLS, 0 would mean that nothing at all is too much already, and no byte ever to
        # resume for. They also pass up to 64 KiB on to a transport below, and that does not count as held.
        client.set_write_buffer_limits(high=1 if tls else 0, low=0)
        peer = client.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.forwarded = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (
                str(peer[0]).encode("latin-1"),
                b"https" if tls else b"http",
            )
            self.trusted = self._shared.settings.trusts(str(peer[0]))
        self._shared.client_opened(self)
        self.deadline = self._shared.loop.time() + self._shared.seconds.keep_alive
        if self._shared.stopping:
            self.close()

    def data_received(self, data: bytes) -> None:
        if self._phase < _BUSY:
            if not self._turn and self._shared.turns.at_once():
                self._consume(data)
            else:
                self._consume_later(data)
        elif self._phase == _BUSY:
            if not self._overrun:
                self._keep(self._backlog + data)
            self._bound_backlog()
        elif self._phase == _TUNNEL and self._tunnel is not None:
            self._tunnel.from_client(data)
        else:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED_BYTES and self._transport is not None:
                self._transport.abort()

    def eof_received(self) -> None:
        exchange = self._exchange
        if exchange is not None and not exchange.written:
            if self._phase == _TUNNEL:
                exchange.client_gone()  # and what it has said last, be it good-bye, still reaches the backend
                self.close()
            else:
                self.abort()
        # Returning None closes the transport once everything written has left.

    def pause_writing(self) -> None:
        self.write_paused = True
        if self._transport is not None:
            self._unsent = _unsent(self._transport)
            self._stalled = self._transport.get_write_buffer_size()
            self._shared.buffered += self._stalled
        if self._phase in (_BUSY, _TUNNEL):
            self.deadline = self._shared.loop.time() + self._shared.seconds.write
        if self._exchange is not None:
            self._exchange.client_paused()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._unstall()
        if self._exchange is not None:
            self._exchange.client_resumed()

    def _unstall(self) -> None:
        self._shared.buffered -= self._stalled
        self._stalled = 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = _CLOSING
        self._transport = None
        if self._turn:
            return
        if self._shared.turns.at_once():
            self._gone()
        else:
            self._turn = True
            self._shared.turns.take(self)

    def _gone(self) -> None:
        self._let_go()
        self._unstall()
        exchange, self._exchange = self._exchange, None
        self._tunnel = None
        if exchange is not None:
            exchange.client_gone()
        self._shared.client_closed(self)


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes that the peer has not taken yet: those the transport holds and, where it can be told, the kernel's.

    The kernel asks for more only when much of its buffer is free, so that the transport's own count may stand still
    for a long time while a slow peer reads.
    """
    unsent = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        unsent += struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return unsent
