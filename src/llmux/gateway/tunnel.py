"""A WebSocket, from its handshake until either side closes it.

The handshake is a request like any other: it is routed, let in, waits for its model, and is answered by the backend.
If the backend switches protocols, what follows is relayed both ways as it comes, and the grant is held until one side
ends: for drains, limits and metrics a tunnel is a stream. Of what is relayed, only the heads of the backend's frames
are looked at, so that the client can be told why if llmux ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmux.access import with_key_protocols_apart
from llmux.errors import (
    BackendError,
    BackendTimeoutError,
    LlmuxError,
    NotImplementedOnWireError,
    OverloadedError,
    RequestAbortedError,
)
from llmux.gateway.exchange import STREAMING, Exchange
from llmux.gateway.shared import Shared
from llmux.native import mypyc_attr
from llmux.wire.request import Request
from llmux.wire.response import ResponseReader
from llmux.wire.websocket import (
    GOING_AWAY,
    SERVICE_RESTART,
    UPGRADE_LINES,
    Frames,
    SwitchingResponseReader,
    accept_of,
    close_frame,
    switching_head,
)

if TYPE_CHECKING:
    from llmux.gateway.client import ClientConnection


@mypyc_attr(allow_interpreted_subclasses=True)  # those that make records
class Tunnel(Exchange):
    """Also implements `llmux.upstream.Sender`. An answer that is no switch ends the client's connection: what the
    client has sent behind its handshake may be anything."""

    __slots__ = ("_frames", "_key", "_open", "_stalled")

    def __init__(self, shared: Shared, client: ClientConnection, request: Request, held: int, key: bytes) -> None:
        super().__init__(shared, client, request, held)
        self._key = key
        self._frames = Frames()  # of the backend's
        self._open = False  # the protocols were switched
        self._stalled = 0  # bytes that are counted as buffered because the backend does not read
        request.keep_alive = False
        lines, keys = with_key_protocols_apart(request.lines)
        request.credentials += keys
        request.lines = [*lines, *UPGRADE_LINES]

    def _route(self) -> None:
        super()._route()
        if self._model is None:
            raise NotImplementedOnWireError("llmux itself speaks no WebSocket: only those of models are relayed")

    def _reader(self, to_head: bool, raw: bool) -> ResponseReader:
        return SwitchingResponseReader(to_head=to_head)

    # --- from the backend -----------------------------------------------------------------------------------------

    def received(self, data: bytes, response: ResponseReader) -> None:
        """See `llmux.upstream.Receiver`."""
        assert isinstance(response, SwitchingResponseReader)  # noqa: S101  (it was made by `_reader`)
        if self._open or not response.switched or self._switch(response):
            if self._open and data:
                self._frames.follow(data)
            super().received(data, response)

    def _switch(self, response: SwitchingResponseReader) -> bool:
        """Tell the client, and begin to relay; returns whether that could be done."""
        shared, client, connection = self._shared, self._client, self._connection
        assert connection is not None  # noqa: S101  (it is this connection's response)
        if response.accept != accept_of(self._key):
            connection.abort()
            self.malformed(BackendError("the backend's Sec-WebSocket-Accept does not answer the client's key"))
            return False
        early = client.begin_tunnel(self)
        if early is None:
            self._drop_backend()
            self._fail(OverloadedError("too many bytes came before the protocols were switched", retry_after=1))
            return False
        self._state = STREAMING
        self._status = response.status
        self._first_byte = shared.loop.time() - self._started
        self._open = True
        if self._held:
            self._release_body()
        connection.sender = self
        client.deadline = shared.loop.time() + shared.seconds.between_bytes
        client.write(switching_head(response.lines, self._waited))
        if early:
            connection.write(early)
        return True

    # --- from the client ------------------------------------------------------------------------------------------

    def from_client(self, data: bytes) -> None:
        """What the client sends, once it was told of the switch."""
        if self._connection is not None:
            self._connection.write(data)
            self._alive()

    def backend_paused(self) -> None:
        """See `llmux.upstream.Sender`."""
        self._client.pause_reading()
        if self._connection is not None:
            self._stalled = self._connection.unsent
            self._shared.buffered += self._stalled

    def backend_resumed(self) -> None:
        """See `llmux.upstream.Sender`."""
        self._unstall()
        self._client.resume_reading()
        self._alive()

    def _alive(self) -> None:
        if not self._client.write_paused:  # else it has its own deadline, for what it does not read
            self._client.deadline = self._shared.loop.time() + self._shared.seconds.between_bytes

    def _unstall(self) -> None:
        self._shared.buffered -= self._stalled
        self._stalled = 0

    # --- ways out -------------------------------------------------------------------------------------------------

    def deadline_passed(self) -> None:
        """Neither side has sent anything for too long; that is nobody's failure."""
        if not self._open:
            super().deadline_passed()
            return
        seconds = self._shared.seconds.between_bytes
        self._drop_backend()
        self._cut(BackendTimeoutError(f"nothing came through the WebSocket for {seconds} s"))

    def _cut(self, error: LlmuxError) -> None:
        """What was relayed may still arrive. If it is llmux that ends it, and the backend's last frame is whole, the
        client is told why; else, and to the backend, that the closing handshake is missing tells enough."""
        if not self._open:
            super()._cut(error)
            return
        self._log("cut", error)
        if self._frames.between and not isinstance(error, BackendError):
            code = SERVICE_RESTART if isinstance(error, RequestAbortedError) else GOING_AWAY
            self._client.write(close_frame(code, error.message))
        self._client.close()
        self._finish(tell_client=False)

    def _drop_backend(self) -> None:
        if self._open and self._connection is not None:
            self._connection.leave()
            self._connection = None
        else:
            super()._drop_backend()

    def _finish(self, *, tell_client: bool) -> None:
        self._unstall()
        super()._finish(tell_client=tell_client)
