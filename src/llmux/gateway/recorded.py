"""Clients and exchanges that write down what becomes of each request, for access log and traces.

Used in the place of the ordinary ones where somebody wants to know; where nobody does, nothing of this is on the path
of a request. They do the same, and note in passing what happens; nothing here changes what a client gets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

from llmux import logs
from llmux.errors import LlmuxError
from llmux.gateway.access import shown_key
from llmux.gateway.client import ClientConnection
from llmux.gateway.exchange import DONE, DRAINING, QUEUED, WAITING, Exchange
from llmux.gateway.observer import CLIENT_GONE, Limit
from llmux.gateway.origin import client_of, path_of, peer_of
from llmux.gateway.shared import Shared
from llmux.gateway.tunnel import Tunnel
from llmux.records import CLIENT_GONE as LEFT
from llmux.records import CUT, Record, Scribe
from llmux.wire.errors import printable
from llmux.wire.request import Request
from llmux.wire.response import ResponseReader

MAX_ID: Final = 128
"""How much of an ``x-request-id`` is written down, in characters."""

log = logs.get_logger(__name__)


class Scribes:
    """All who want to know. What one of them raises harms neither the request nor the others."""

    def __init__(self, scribes: Sequence[Scribe]) -> None:
        self._scribes = tuple(scribes)

    def begun(self, record: Record, lines: Sequence[bytes]) -> None:
        """See `Scribe`."""
        for scribe in self._scribes:
            try:
                scribe.begun(record, lines)
            except Exception:
                log.exception("internal_error", at=type(scribe).__name__)

    def forwarded(self, record: Record, lines: Sequence[bytes], backend: str) -> Sequence[bytes]:
        """See `Scribe`."""
        for scribe in self._scribes:
            try:
                lines = scribe.forwarded(record, lines, backend)
            except Exception:
                log.exception("internal_error", at=type(scribe).__name__)
        return lines

    def done(self, record: Record) -> None:
        """See `Scribe`."""
        for scribe in self._scribes:
            try:
                scribe.done(record)
            except Exception:
                log.exception("internal_error", at=type(scribe).__name__)


class Recording(Exchange):
    """What the two kinds of exchanges have in common. The one attribute is a slot of each of them: two bases of a class
    cannot both have some."""

    __slots__ = ()

    if TYPE_CHECKING:
        _record: Record

    def _begun(self) -> Record:
        client = self._recorder
        record = client.record_of(self._request)
        client.scribes.begun(record, self._request.lines)
        return record

    @property
    def _recorder(self) -> RecordedClient:
        return cast("RecordedClient", self._client)

    def _route(self) -> None:
        self._record.key = shown_key(self._shared.access, self._request)
        super()._route()

    def granted(self, waited: float, switched: bool) -> None:
        """See `llmux.ports.Requester`."""
        self._record.waited, self._record.switched = waited, switched
        if self._state == QUEUED:
            self._waited_until_now()
        super().granted(waited, switched)

    def refused(self, error: LlmuxError, switched: bool = False) -> None:
        """See `llmux.ports.Requester`."""
        if self._state == QUEUED:
            self._waited_until_now()
            self._record.waited = _seconds_since(self._record)
            self._record.switched = switched
        super().refused(error, switched)

    def aborted(self, error: LlmuxError) -> None:
        """See `llmux.ports.Requester`."""
        if self._state == DRAINING:
            self._record.ended_early, self._record.error = CUT, error.code
        super().aborted(error)

    def client_gone(self) -> None:
        """See `Exchange`."""
        if self._state == QUEUED:
            self._waited_until_now()
            self._record.waited = _seconds_since(self._record)
        if self._state != DONE and not self._may_be_left:
            self._record.ended_early = LEFT
        super().client_gone()

    @property
    def _may_be_left(self) -> bool:
        """Is it no early end if the client leaves now?"""
        return False

    def _waited_until_now(self) -> None:
        self._record.queued = True
        self._record.queue_ended_ns = time.time_ns()

    def _forward(self) -> None:
        if self._model is not None:
            self._name()
            address = str(self._shared.backends[self._model].address)
            self._request.lines = self._recorder.scribes.forwarded(self._record, self._request.lines, address)
        super()._forward()

    def received(self, data: bytes, response: ResponseReader) -> None:
        """See `llmux.upstream.Receiver`."""
        if self._state == WAITING and self._record.first_byte is None:
            self._record.first_byte = _seconds_since(self._record)
        super().received(data, response)

    def _count_tokens(self, model: str, last: bytes) -> tuple[int, int] | None:
        self._record.tokens = tokens = super()._count_tokens(model, last)
        return tokens

    def _fail(self, error: LlmuxError) -> None:
        self._record.error = error.code
        super()._fail(error)

    def _cut(self, error: LlmuxError) -> None:
        self._record.ended_early, self._record.error = CUT, error.code
        super()._cut(error)

    def _complete(self) -> None:
        self._record.relayed_ns = time.time_ns()
        super()._complete()

    def _finish(self, *, tell_client: bool) -> None:
        if self._state != DONE:  # first, as the next request of this client may be served before this returns
            record = self._record
            self._name()
            record.duration = _seconds_since(record)
            record.status = self._status or CLIENT_GONE
            if self._status and record.first_byte is None:
                record.first_byte = record.duration
            record.for_control = self._to_control
            if self._response is not None and self._response.head_done:
                record.backend_status = self._response.status
            self._recorder.hand_over(record)
        super()._finish(tell_client=tell_client)

    def _name(self) -> None:
        self._record.model = self._model
        self._record.request_id = self._request_id if self._request_id >= 0 else None


class RecordedExchange(Recording):
    """An exchange of which a record is made."""

    __slots__ = ("_record",)

    def __init__(self, shared: Shared, client: ClientConnection, request: Request, held: int) -> None:
        super().__init__(shared, client, request, held)
        self._record = self._begun()


class RecordedTunnel(Recording, Tunnel):
    """A tunnel of which a record is made."""

    __slots__ = ("_record",)

    def __init__(self, shared: Shared, client: ClientConnection, request: Request, held: int, key: bytes) -> None:
        Tunnel.__init__(self, shared, client, request, held, key)
        self._record = self._begun()

    @property
    def _may_be_left(self) -> bool:
        return self._open  # a WebSocket lasts until somebody closes it


class RecordedClient(ClientConnection):
    """A client's connection that counts what it sends.

    Attributes:
        scribes: who wants to know.
    """

    __slots__ = ("_before", "_peer", "_sent", "scribes")

    _EXCHANGE = RecordedExchange
    _TUNNEL_EXCHANGE = RecordedTunnel

    def __init__(self, shared: Shared, scribes: Scribes) -> None:
        super().__init__(shared)
        self.scribes = scribes
        self._peer = ""
        self._sent = 0
        self._before = 0  # what was sent when the request under way had come

    def record_of(self, request: Request) -> Record:
        """The record of a request that has come just now."""
        self._before = self._sent
        return Record(
            at_ns=time.time_ns(),
            started=time.monotonic(),
            client=client_of(self._peer, request, self._shared.settings, trusted=self.trusted),
            method=request.method.decode("latin-1"),
            path=path_of(request),
            said_id=_said_id(request.lines),
        )

    def hand_over(self, record: Record) -> None:
        """The request of that record is over."""
        record.sent = self._sent - self._before
        self.scribes.done(record)

    def write(self, data: bytes) -> None:
        """See `ClientConnection`."""
        if self._transport is not None:
            self._sent += len(data)
        super().write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._peer = peer_of(transport)
        super().connection_made(transport)

    def _refuse(self, error: LlmuxError, limit: Limit | None) -> None:
        # It has no exchange, because it is not, or not yet, a request.
        record = self.record_of(self._reader.request)
        record.status, record.error, record.first_byte = error.status, error.code, 0.0
        super()._refuse(error, limit)
        self.hand_over(record)


def _seconds_since(record: Record) -> float:
    return time.monotonic() - record.started


def _said_id(lines: Sequence[bytes]) -> str | None:
    for line in lines:
        if line[:13].lower() == b"x-request-id:":
            return printable(line[13:].strip().decode("latin-1"), MAX_ID)
    return None
