"""Streams that begin before their request is granted, so that nobody between it and its client gives it up.

A streamed request that has waited for long gets its head and, now and then, a comment that says how long it will still
take. One ticker looks after all of them. How many wait ahead of each is worked out for all that wait for a model at
once, not anew for every comment; and like all that happens to many requests at the same moment, comments are written a
few per round of the event loop.

From then on the client cannot be given a status any more: whatever goes wrong is told by an event of the stream.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from typing import Final, Protocol

from llmux.errors import BackendError
from llmux.gateway.turns import AT_ONCE
from llmux.messages import Prospects
from llmux.ports import Scheduler
from llmux.wire.headers import without
from llmux.wire.heads import event_stream_head
from llmux.wire.peek import wants_stream
from llmux.wire.request import Request
from llmux.wire.response import ResponseReader
from llmux.wire.sse import MAX_FAILURE_BYTES, Dialect, backend_error, dialect_of, sse_error, still_waiting

PROSPECTS_FOR: Final = 1.0
"""Seconds for which it is not worked out anew where everybody stands in a queue."""

_SLACK: Final = 1.0
_SLACK_SHARE: Final = 0.05
"""An estimate may be off by so many seconds, and by this part of it."""

_BYTES_PER_TURN: Final = 64 * 1024
"""To look at so much of a request's body takes about as long as to write a comment."""

_CODING: Final = frozenset({b"accept-encoding"})


class Waiting(Protocol):
    """A request that waits for its model."""

    def keep_alive_due(self, now: float) -> int:
        """Its client should hear something. Returns about how many bytes that took to look at, or -1 if it is no stream
        that can be kept alive, and need not be asked again."""


class Keepalives:
    """All requests that wait, by when their clients should hear of them next."""

    __slots__ = ("_busy", "_every", "_loop", "_prospects", "_scheduler")

    def __init__(self, loop: asyncio.AbstractEventLoop, scheduler: Scheduler) -> None:
        self._loop = loop
        self._scheduler = scheduler
        # By the seconds between two comments: within each, whoever came last is due last.
        self._every: dict[float, OrderedDict[Waiting, float]] = {}
        self._prospects: dict[str, tuple[float, Prospects]] = {}
        self._busy = False

    def watch(self, one: Waiting, seconds: float, now: float) -> None:
        """Have `one.keep_alive_due` called every so many `seconds`, until `forget`. O(1)."""
        queue = self._every.get(seconds)
        if queue is None:
            queue = self._every[seconds] = OrderedDict()
        queue[one] = now + seconds

    def forget(self, one: Waiting) -> None:
        """It does not wait any more. O(different intervals)."""
        for queue in self._every.values():
            if queue.pop(one, None) is not None:
                return

    def prospects(self, model: str, now: float) -> tuple[Prospects, float]:
        """Where those who wait for `model` stand, and how many seconds ago: less than `PROSPECTS_FOR`."""
        known = self._prospects.get(model)
        if known is None or now >= known[0] + PROSPECTS_FOR:
            known = self._prospects[model] = (now, self._scheduler.prospects(model))
        return known[1], now - known[0]

    def tick(self) -> None:
        """Called a few times per second."""
        if self._every and not self._busy:
            self._round()

    def _round(self) -> None:
        now = self._loop.time()
        left = AT_ONCE
        for seconds, queue in list(self._every.items()):
            while queue and left > 0:
                one, due = next(iter(queue.items()))
                if due > now:
                    break
                looked_at = one.keep_alive_due(now)
                left -= 1 + max(0, looked_at) // _BYTES_PER_TURN
                if looked_at < 0:
                    del queue[one]
                elif one in queue:  # else it is over: a write may end a connection
                    queue[one] = now + seconds
                    queue.move_to_end(one)
            if not queue:
                del self._every[seconds]
        self._busy = left <= 0
        if self._busy:
            self._loop.call_soon(self._round)
        elif not self._every:
            self._prospects.clear()


class Promise:
    """By when a request was told that it would be its turn. A number that moves off as fast as time goes by tells
    nothing, so there is none any more once it is known that what was said first does not hold."""

    __slots__ = ("_begun", "_by")

    def __init__(self) -> None:
        self._by = math.inf
        self._begun = False

    def holds(self, seconds: float, begun: bool, now: float) -> bool:
        """Whether it may be told now that it will be its turn in so many `seconds`. Only when the switch to its model
        has `begun` may that be later than it was told before: no policy has a say any more."""
        if begun and not self._begun:
            self._by = math.inf
        self._begun = begun
        by = now + seconds
        if seconds <= 0 or by > self._by + _SLACK + _SLACK_SHARE * seconds:
            return False
        self._by = min(self._by, by)
        return True


class KeptStream:
    """The response to a request that had its head before it was granted.

    Args:
        request: the request.
        dialect: how its API tells of failures.
        keep_alive: the client's connection may carry another request afterwards.
    """

    __slots__ = ("_body", "_http11", "_keep_alive", "_promise", "dialect", "leading")

    def __init__(self, request: Request, dialect: Dialect, *, keep_alive: bool) -> None:
        self.dialect = dialect
        self._http11 = request.http11
        self._keep_alive = keep_alive and request.http11  # HTTP/1.0 knows no chunks: it ends with the connection
        self._body = bytearray()
        self._promise = Promise()
        self.leading = b""
        """What is put before the first bytes of the backend's."""
        # Its backend's head comes too late to say that the content is compressed.
        request.lines = without(request.lines, _CODING)

    @property
    def keep_alive(self) -> bool:
        """The client was told that its connection may carry another request."""
        return self._keep_alive

    def head(self, fields: bytes) -> bytes:
        """Its head; `fields` are more header lines, each with its CR LF."""
        return event_stream_head(http11=self._http11, keep_alive=self._keep_alive, fields=fields)

    def still_waiting(self, model: str, prospects: Prospects, request_id: int, age: float, now: float) -> bytes:
        """A comment about where it stands among those who wait for `model`, as known `age` seconds ago."""
        ahead, seconds = prospects.of(request_id)
        seconds -= age
        if prospects.held or not self._promise.holds(seconds, prospects.begun, now):
            seconds = 0.0
        return still_waiting(model, ahead, seconds, prospects)

    def framed(self, data: bytes, *, last: bool = False) -> bytes:
        """`data` of the stream, none or some, as it goes to the client; with the end if it is the `last`."""
        if data and self.leading:
            data, self.leading = self.leading + data, b""
        if not self._http11:
            return data
        framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        return framed + b"0\r\n\r\n" if last else framed

    def cut(self, event: bytes) -> bytes | None:
        """The end of a stream under way that must not be taken for a whole one: `event` and no last chunk. None where
        only a reset can tell."""
        # The empty line: an unfinished event must not swallow this one.
        return self.framed(b"\n\n" + event) if self._http11 else None

    def takes(self, response: ResponseReader) -> bool:
        """Whether the backend's `response`, of which the head has come, can go on where the comments ended."""
        return response.status == 200 and response.event_stream and not _is_coded(response)

    def collect(self, data: bytes, response: ResponseReader) -> bool:
        """Keep `data` of a response that cannot; returns whether that is enough to tell of it."""
        self._body += data
        return response.complete or response.status < 400 or len(self._body) >= MAX_FAILURE_BYTES

    def failure(self, response: ResponseReader) -> tuple[bytes, int]:
        """The event that tells of that response, and the status that stands for it."""
        if response.status < 400:
            what = "in a content coding that was not asked for" if _is_coded(response) else "with no event stream"
            error = BackendError(f"the backend answered {what} (status {response.status})")
            return sse_error(error, self.dialect), error.status
        event = None if _is_coded(response) else backend_error(self.dialect, response.status, bytes(self._body))
        if event is None:
            event = sse_error(BackendError(f"the backend answered with status {response.status}"), self.dialect)
        return event, response.status


def _is_coded(response: ResponseReader) -> bool:
    for line in response.lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return True
    return False


def kept_stream(request: Request, path: bytes, *, keep_alive: bool) -> KeptStream | None:
    """The stream that answers `request` for `path` of its backend, if comments can keep it alive: if it asked for
    server-sent events. O(its body)."""
    dialect = dialect_of(path)
    if dialect is None or request.method != b"POST" or request.content_encoding is not None:
        return None
    return KeptStream(request, dialect, keep_alive=keep_alive) if wants_stream(request.body) else None
