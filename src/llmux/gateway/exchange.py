"""One request, from the moment it is whole until the last byte of its response has left.

It asks the scheduler for a grant, writes the request to a backend and relays what comes back. Every way out goes
through `_finish`, which is what makes `Scheduler.finished` happen exactly once per grant. It parses nothing and
touches no socket.
"""

from __future__ import annotations

import asyncio
import errno
import math
from typing import TYPE_CHECKING, Final

from llmux import logs
from llmux.errors import (
    BackendError,
    BackendTimeoutError,
    LlmuxError,
    ModelNotFoundError,
    NoModelError,
    OverloadedError,
)
from llmux.gateway.access import admit, answer_fields, check_model, preflight
from llmux.gateway.keepalive import KeptStream, kept_stream
from llmux.gateway.observer import CLIENT_GONE
from llmux.gateway.origin import client_of, origin_of
from llmux.gateway.priority import level_of
from llmux.gateway.rewriting import rename, shape
from llmux.gateway.routing import NOWHERE, Route, find_route, resolve
from llmux.gateway.shared import Shared
from llmux.gateway.usage import TAIL_BYTES, used_tokens
from llmux.messages import Failure
from llmux.native import mypyc_attr
from llmux.ports import Origin
from llmux.upstream import Pool, UpstreamConnection
from llmux.wire.errors import shape_of
from llmux.wire.headers import without_cors
from llmux.wire.heads import empty_response, ends_with_connection, error_response, request_head, response_head
from llmux.wire.request import Request
from llmux.wire.response import DecodingResponseReader, ResponseReader
from llmux.wire.sse import Dialect, dialect_of, sse_error, waited

if TYPE_CHECKING:
    from llmux.gateway.client import ClientConnection

log = logs.get_logger(__name__)

# Where an exchange is. Plain ints: they are compared for every piece of every response.
ARRIVING: Final = 0  # being routed
QUEUED: Final = 1  # waits for its model
REFUSED: Final = 8  # is about to be told so
GRANTED: Final = 2
CONNECTING: Final = 3  # to the backend
WAITING: Final = 4  # for the response's head
STREAMING: Final = 5  # the head was sent to the client
DRAINING: Final = 6  # all of the response was written, not all of it has left
DONE: Final = 7

# RFC 9110, section 9.2.1, less TRACE: what may be sent again if nobody knows whether it was done.
_REPLAYABLE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})

# So many pieces of a response's end are kept before they are joined, and what need not be kept is thrown away.
_MOST_ENDS: Final = 8


@mypyc_attr(allow_interpreted_subclasses=True)  # those that make records
class Exchange:
    """Implements `llmux.ports.Requester`, `llmux.upstream.Connector` and `llmux.upstream.Receiver`.

    Attributes:
        keep_alive: the client's connection may carry another request after this one.
        events: how many server-sent events the backend has sent so far, as near as counting in passing can tell: what
            came as one chunk, by itself, counts as one.
    """

    __slots__ = (
        "_asked",
        "_client",
        "_connect",
        "_connection",
        "_cors",
        "_ends",
        "_first_byte",
        "_granted",
        "_held",
        "_kept",
        "_level",
        "_model",
        "_path",
        "_pool",
        "_refusal",
        "_replayed",
        "_request",
        "_request_id",
        "_response",
        "_shared",
        "_started",
        "_state",
        "_status",
        "_to_control",
        "_waited",
        "events",
        "keep_alive",
    )

    def __init__(self, shared: Shared, client: ClientConnection, request: Request, held: int) -> None:
        self._shared = shared
        self._client = client
        self._request = request
        self._held = held
        self._started = shared.loop.time()
        self._state: int = ARRIVING
        self._model: str | None = None
        self._to_control = False
        self._asked: Route | None = None
        self._level = 0
        self._path = b""
        self._pool: Pool | None = None
        self._request_id = -1
        self._refusal: LlmuxError | None = None
        self._connect: asyncio.Task[None] | None = None
        self._connection: UpstreamConnection | None = None
        self._response: ResponseReader | None = None
        self._granted = False
        self._replayed = False
        self._status = 0
        self._first_byte = 0.0
        self._ends: list[bytes] = []  # the last of what was relayed so far, at least `TAIL_BYTES`
        self._cors: bytes | None = None  # header lines for the page that sent this, if a page did
        self._waited = b""  # header lines that tell how long it has waited, if it has
        self._kept: KeptStream | None = None  # the response, if it began while the request waited
        self.keep_alive = False
        self.events = 0

    def start(self) -> None:
        """Find out whom the request is for and ask for a grant. It may be over when this returns."""
        try:
            if self._request.browser and self._for_browser():
                return
            self._route()
        except LlmuxError as error:
            self._fail(error)
            return
        if self._model is None:
            self._state = GRANTED
        else:
            self._request_id = self._shared.scheduler.arrived(self._model, self, self._level)
        if self._state == GRANTED:
            self._forward()
        elif self._refusal is not None:
            self._fail(self._refusal)
        else:
            self._state = QUEUED
            self._client.deadline = math.inf
            seconds = self._shared.settings.waiting_keepalive.get(self._model or "")
            if seconds:
                self._shared.keepalives.watch(self, seconds, self._started)

    def _for_browser(self) -> bool:
        """Answer a CORS preflight, or find out what the answer tells the browser. Returns whether that was all."""
        shared, request = self._shared, self._request
        self._cors = answer_fields(shared.access, request)
        fields = preflight(shared.access, request)
        if fields is None:
            return False
        self._to_control = True  # it is not for a model, and not reported
        self.keep_alive = request.keep_alive and not shared.stopping
        self._client.write(empty_response(fields, http11=request.http11, keep_alive=self.keep_alive))
        self._complete()
        return True

    def _route(self) -> None:
        shared, request = self._shared, self._request
        try:
            route = find_route(request, shared.scheduler, shared.settings.default_model)
        except LlmuxError:
            admit(shared.access, request, to_model=True)  # strangers do not even hear what is wrong with it
            raise
        self._path = route.path
        key = admit(shared.access, request, to_model=route.name is not None)
        if route.name is None:
            if shared.control is None:
                raise NoModelError
            self._to_control = True
            self._pool = shared.control
            return
        model = shared.scheduler.resolve(route.name) or resolve(shared.scheduler, route.name)
        if model is None or model not in shared.backends:
            raise ModelNotFoundError(route.name)
        check_model(shared.access, request, key, model)
        self._model = model
        if request.priority is not None or route.tier is not None:
            self._level = level_of(request, route.tier, key)
        backend = shared.backends[model]
        if backend.params is not None or route.named == NOWHERE:
            size = len(request.body)
            route = shape(request, backend, route)
            shared.buffered += len(request.body) - size
            self._held += len(request.body) - size
        self._asked = route

    # --- Requester: what the scheduler says -----------------------------------------------------------------------

    def granted(self, waited: float, switched: bool) -> None:
        """See `llmux.ports.Requester`."""
        self._granted = True
        if self._model is not None:
            self._shared.observer.queue_waited(self._model, waited)
        if self._state == QUEUED:
            self._shared.keepalives.forget(self)
            self._waited = _waited_fields(waited, switched)
            self._shared.turns.take(self)
        self._state = GRANTED  # else `start` goes on, once it knows the request's id

    def refused(self, error: LlmuxError, switched: bool = False) -> None:
        """See `llmux.ports.Requester`."""
        self._refusal = error
        if self._state == QUEUED:
            self._shared.keepalives.forget(self)
            self._waited = _waited_fields(self._shared.loop.time() - self._started, switched)
            self._state = REFUSED
            self._shared.turns.take(self)

    def proceed(self) -> None:
        """See `llmux.gateway.turns`. The client may have left in the meantime, or the grant been taken back."""
        if self._state == GRANTED:
            self._forward()
        elif self._state == REFUSED and self._refusal is not None:
            self._fail(self._refusal)

    def broken(self) -> None:
        """See `llmux.gateway.turns`."""
        self.aborted(LlmuxError("internal error while the request was forwarded"))

    def aborted(self, error: LlmuxError) -> None:
        """See `llmux.ports.Requester`. The grant is given back at once, as the backend is free of the request."""
        self._drop_backend()
        if self._state == DRAINING:
            self._client.reset()
            self._finish(tell_client=False)
        elif self._state == STREAMING:
            self._cut(error)
        elif self._state != DONE:
            self._fail(error)
            if self._granted:
                self._give_back()

    def origin(self, most: int) -> Origin:
        """See `llmux.ports.Traceable`."""
        shared, client, request = self._shared, self._client, self._request
        peer = client.peer
        address = None if peer is None else client_of(peer, request, shared.settings, trusted=client.trusted)
        found = origin_of(address, request, self._response, shared.access, most)
        return found if self._kept is None else found._replace(stream=True)

    def keep_alive_due(self, now: float) -> int:
        """See `llmux.gateway.keepalive.Waiting`."""
        assert self._model is not None  # noqa: S101  (nothing else is queued)
        head, size = b"", 0
        if self._kept is None:
            size = len(self._request.body)
            self.keep_alive = self._request.keep_alive and not self._shared.stopping
            self._kept = kept_stream(self._request, self._path, keep_alive=self.keep_alive)
            if self._kept is None:
                return -1
            self.keep_alive = self._kept.keep_alive
            head = self._kept.head(self._cors or b"")
        if not self._client.write_paused:
            prospects, age = self._shared.keepalives.prospects(self._model, now)
            comment = self._kept.still_waiting(self._model, prospects, self._request_id, age, now)
            self._client.write(head + self._kept.framed(comment))
        return size

    # --- forwarding -----------------------------------------------------------------------------------------------

    def _forward(self) -> None:
        if self._model is not None:  # only now: while it waited, its backend may have become another one
            backend = self._shared.backends[self._model]
            self._pool = self._shared.pools[self._model]
            asked = self._asked
            if asked is not None and (backend.send_model_as is not None or asked.name != self._model):
                try:
                    rename(self._request, backend, asked)
                except LlmuxError as error:
                    self._fail(error)
                    return
        assert self._pool is not None  # noqa: S101  (set here or by _route, or start went no further)
        connection = self._pool.take(self._shared.loop.time())
        if connection is None:
            self._connect_anew(self._pool)
        else:
            self._send(connection)

    def _connect_anew(self, pool: Pool) -> None:
        self._state = CONNECTING
        self._client.deadline = self._shared.loop.time() + self._shared.seconds.connect
        self._connect = pool.connect(self)

    def connected(self, connection: UpstreamConnection) -> None:
        """See `llmux.upstream.Connector`."""
        self._connect = None
        self._send(connection)

    def connect_failed(self, error: Exception) -> None:
        """See `llmux.upstream.Connector`."""
        self._connect = None
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self._fail(OverloadedError("out of file descriptors", retry_after=1))
            return
        if self._model is not None and self._shared.take_new_backend(self._model):
            # Nobody is where the old configuration had it. Nothing was sent yet, so the new address may be tried.
            self._shared.scheduler.backend_moved(self._model)
            self._forward()
            return
        refused = isinstance(error, ConnectionRefusedError | FileNotFoundError)
        self._backend_failed("connect", error, Failure.REFUSED if refused else Failure.LOST)
        why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        self._fail(BackendError(f"cannot connect to the backend: {why}"))

    def _send(self, connection: UpstreamConnection) -> None:
        assert self._pool is not None  # noqa: S101  (as in _forward)
        request, pool = self._request, self._pool
        head = request_head(
            request,
            base=pool.base,
            path=self._path,
            host=pool.host,
            forwarded=self._client.forwarded,
            trusted=self._client.trusted,
        )
        kept = self._kept
        if kept is not None:
            kept.leading = waited(self._waited)
        self._response = response = self._reader(request.method == b"HEAD", request.http11 and kept is None)
        self._connection = connection
        self._state = WAITING
        # An operator's order is answered when it was carried out, which may take a drain and two hooks.
        seconds = math.inf if self._to_control else self._shared.seconds.response
        self._client.deadline = self._shared.loop.time() + seconds
        connection.send(head, request.body, response, self)
        if kept is not None and self._client.write_paused:
            connection.pause_reading()
        if self._held and connection.flushed and request.method not in _REPLAYABLE:
            self._release_body()

    def _reader(self, to_head: bool, raw: bool) -> ResponseReader:
        """What reads the response; `raw`: the client can be sent its chunks as they come."""
        return ResponseReader(to_head=to_head) if raw else DecodingResponseReader(to_head=to_head)

    # --- Receiver: what the backend says --------------------------------------------------------------------------

    def received(self, data: bytes, response: ResponseReader) -> None:
        """See `llmux.upstream.Receiver`."""
        client = self._client
        now = self._shared.loop.time()
        if self._state == WAITING and self._kept is not None:
            if not self._kept.takes(response):
                self._answered_otherwise(self._kept, data, response)
                return
            self._state = STREAMING
            self._status = response.status
            self._first_byte = now - self._started
        elif self._state == WAITING:
            self._state = STREAMING
            self._status = response.status
            self._first_byte = now - self._started
            request = self._request
            self.keep_alive = (
                request.keep_alive
                and not self._shared.stopping
                and not ends_with_connection(response, http11=request.http11)
            )
            fields = self._waited
            if self._cors is not None:
                fields += self._cors
                response.lines = without_cors(response.lines)
            data = response_head(response, http11=request.http11, keep_alive=self.keep_alive, fields=fields) + data
        if self._kept is not None:
            data = self._kept.framed(data, last=response.complete)
        if response.complete:
            self._connection = None
            if self._status >= 500 or self._shared.failing:
                self._judge(self._status)
            if data:
                client.write(data)
            if self._model is not None and self._status < 400:
                self._count_tokens(self._model, data)
            self._complete()
        elif data:
            self._keep_end(data)
            if response.event_stream:
                self.events += data.count(b"data:")
            if not client.write_paused:
                client.deadline = now + self._shared.seconds.between_bytes
            client.write(data)

    def chunk_came(self, data: bytes, response: ResponseReader) -> None:
        """See `llmux.upstream.Receiver`. Called for nearly every chunk of most streams; `received` would take three
        times as long."""
        ends = self._ends
        if len(ends) < _MOST_ENDS:
            ends.append(data)
        else:
            self._keep_end(data)
        if response.event_stream:
            self.events += 1  # not counted, which would take 0.5 µs
        client = self._client
        if not client.write_paused:
            client.deadline = self._shared.loop.time() + self._shared.seconds.between_bytes
        client.write(data)

    def _keep_end(self, data: bytes) -> None:
        ends = self._ends
        ends.append(data)
        if len(data) >= TAIL_BYTES:
            ends[:] = [data]  # not a part of it: to copy that costs more than the rest of it
        elif len(ends) > _MOST_ENDS:
            ends[:] = [b"".join(ends)[-TAIL_BYTES:]]

    def _answered_otherwise(self, kept: KeptStream, data: bytes, response: ResponseReader) -> None:
        """The backend did not answer with the stream that the client was promised."""
        if response.complete:
            self._connection = None
        if not kept.collect(data, response):
            self._client.deadline = self._shared.loop.time() + self._shared.seconds.between_bytes
            return
        self._drop_backend()
        self._judge(response.status)
        self._end_kept(kept, *kept.failure(response))

    def _count_tokens(self, model: str, last: bytes) -> tuple[int, int] | None:
        """All of the response has been handed on; `last` was the last of it. Returns what was counted."""
        tokens = used_tokens(b"".join([*self._ends, last]) if self._ends else last)
        if tokens is not None:
            self._shared.observer.tokens_used(model, tokens[0], tokens[1])
        return tokens

    def _judge(self, status: int) -> None:
        """Take note of how the backend answered. A client's own error (4xx) says nothing about the backend, and neither
        does a request for something that it cannot do at all (501, 505)."""
        if self._model is None:
            return
        if status < 400:
            self._shared.failing.pop(self._model, None)
        elif status >= 500 and status not in (501, 505):
            self._shared.backend_failed(self._model, Failure.ANSWER)

    def malformed(self, error: BackendError) -> None:
        """See `llmux.upstream.Receiver`."""
        self._connection = None
        self._backend_failed("malformed", error, Failure.ANSWER)
        self._fail(error)

    def lost(self, reason: Exception | None, response: ResponseReader) -> None:
        """See `llmux.upstream.Receiver`."""
        connection, self._connection = self._connection, None
        stale = connection is not None and connection.used and not response.started
        if stale and not self._replayed and self._request.method in _REPLAYABLE and self._pool is not None:
            self._replayed = True
            self._connect_anew(self._pool)
            return
        self._backend_failed("response", reason)
        what = "in the middle of its response" if response.started else "before it answered"
        self._fail(BackendError(f"the backend closed the connection {what}"))

    # --- what the client does -------------------------------------------------------------------------------------

    def client_paused(self) -> None:
        """The client does not read as fast as the backend writes."""
        if self._connection is not None:
            self._connection.pause_reading()

    def client_resumed(self) -> None:
        """Everything written so far has left."""
        if self._state == DRAINING:
            self._finish(tell_client=True)
        elif self._state == QUEUED:
            self._client.deadline = math.inf
        elif self._connection is not None:
            self._client.deadline = self._shared.loop.time() + self._shared.seconds.between_bytes
            self._connection.resume_reading()

    @property
    def written(self) -> bool:
        """Has all of the response been written, though perhaps not all of it left?"""
        return self._state >= DRAINING

    @property
    def done(self) -> bool:
        """Is it over?"""
        return self._state == DONE

    def client_gone(self) -> None:
        """The client's connection is gone, or as good as."""
        if self._state == QUEUED:
            self._shared.keepalives.forget(self)
            self._shared.scheduler.left(self._request_id)
        self._drop_backend()
        self._finish(tell_client=False)

    def deadline_passed(self) -> None:
        """The backend took too long over what it does now."""
        seconds = self._shared.seconds
        if self._state == CONNECTING:
            error = BackendTimeoutError(f"the backend did not accept a connection within {seconds.connect} s")
            self._backend_failed("connect", error)
        elif self._state == WAITING:
            started = self._response is not None and self._response.started
            what = "finish its response's head" if started else "begin to respond"
            error = BackendTimeoutError(f"the backend did not {what} within {seconds.response} s")
            self._backend_failed("response", error, Failure.ANSWER)
        else:
            error = BackendTimeoutError(f"the backend was silent for {seconds.between_bytes} s amid its response")
            self._backend_failed("silence", error, Failure.ANSWER)
        self._drop_backend()
        self._fail(error)

    # --- ways out -------------------------------------------------------------------------------------------------

    def _fail(self, error: LlmuxError) -> None:
        """Answer with `error`; or end a response under way so that nobody takes it for a whole one."""
        if self._state == STREAMING:
            self._cut(error)
            return
        if self._kept is not None:
            self._end_kept(self._kept, sse_error(error, self._kept.dialect), error.status)
            return
        request = self._request
        self._status = error.status
        self._first_byte = self._shared.loop.time() - self._started
        self.keep_alive = request.keep_alive and not self._shared.stopping
        self._client.write(
            error_response(
                error,
                http11=request.http11,
                keep_alive=self.keep_alive,
                to_head=request.method == b"HEAD",
                fields=self._waited + (self._cors or b""),
                shape=shape_of(self._path or request.path),
            )
        )
        self._complete()

    def _end_kept(self, kept: KeptStream, event: bytes, status: int) -> None:
        """End a stream that the backend has said nothing in with `event`, which tells why; `status` is what would have
        told it."""
        self._status = status
        self._first_byte = self._shared.loop.time() - self._started
        self.keep_alive = kept.keep_alive and not self._shared.stopping
        self._client.write(kept.framed(event, last=True))
        self._complete()

    def _cut(self, error: LlmuxError) -> None:
        """End a response early: with an event that tells, where one can be had, and never with a clean end.

        An event stream in chunks gets one more chunk and then a close without the last chunk, so that the client's
        HTTP parser reports an incomplete body all the same. Every other response ends with a reset.
        """
        self._log("cut", error)
        response, client = self._response, self._client
        dialect = dialect_of(self._path) or Dialect.OPENAI
        if self._kept is not None:
            end = None if client.write_paused else self._kept.cut(sse_error(error, dialect))
            if end is None:
                client.reset()
            else:
                client.write(end)
                client.close()
            self._finish(tell_client=False)
            return
        last_bytes = b"".join(self._ends)[-4:]
        told = (
            response is not None
            and response.event_stream
            and self._request.http11
            and not client.write_paused
            and response.between_chunks(last_bytes)
        )
        if told:
            event = sse_error(error, dialect)
            if last_bytes != b"\n\n\r\n":
                event = b"\n\n" + event  # an unfinished event must not swallow this one
            client.write(b"%x\r\n%b\r\n" % (len(event), event))
            client.close()
        else:
            client.reset()
        self._finish(tell_client=False)

    def _complete(self) -> None:
        """All is written. The exchange lasts until it has left."""
        if self._client.write_paused:
            self._state = DRAINING
            self._client.deadline = self._shared.loop.time() + self._shared.seconds.write
        else:
            self._finish(tell_client=True)

    def _finish(self, *, tell_client: bool) -> None:
        if self._state == DONE:
            return
        self._state = DONE
        if self._held:
            self._release_body()
        if self._granted:
            self._give_back()
        if not self._to_control:
            if not self._status:
                self._status = CLIENT_GONE
                self._first_byte = self._shared.loop.time() - self._started
            self._shared.observer.request_done(self._model, self._status, self._first_byte)
        if tell_client:
            self._client.exchange_done(self)

    def _give_back(self) -> None:
        """Give the grant back."""
        self._granted = False
        self._shared.scheduler.finished(self._request_id)

    def _drop_backend(self) -> None:
        if self._connect is not None:
            self._connect.cancel()
            self._connect = None
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _release_body(self) -> None:
        self._shared.buffered -= self._held
        self._held = 0
        self._request.body = b""
        self._request.lines = []

    def _backend_failed(self, phase: str, reason: Exception | None, failure: Failure = Failure.LOST) -> None:
        if self._state != STREAMING:  # else `_cut` will
            self._log(phase, reason)
        if self._model is not None:
            self._shared.backend_failed(self._model, failure)

    def _log(self, phase: str, reason: Exception | None) -> None:
        log.warning(
            "relay_failed",
            model=self._model,
            backend=None if self._pool is None else str(self._pool.address),
            phase=phase,
            reason=str(reason) if reason is not None else "the connection was closed",
        )


def _waited_fields(seconds: float, switched: bool) -> bytes:
    told = b"true" if switched else b"false"
    return b"x-llmux-wait-ms: %d\r\nx-llmux-switched: %b\r\n" % (seconds * 1000, told)
