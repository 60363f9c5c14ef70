"""One request to a simulated backend: its pace, its faults, its record. Private to `llmux.testing.backend`.

It writes its responses through plain ASGI rather than a framework's, to be able to stop at any byte.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmux.testing._answers import Answer, Wording
from llmux.testing._listener import TRANSPORT

MODEL_PATHS = "/v1/"
"""What a fault without a path of its own applies to: every request under this prefix but the list of models."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A failure to act out, for the next `count` requests that it applies to.

    `kind`: ``status`` answers with `status`; ``die`` drops the connection; ``hang`` goes silent but keeps it;
    ``malformed`` sends bytes that are not HTTP (in the middle of a stream: no chunk) and drops it; ``slow`` is only
    late. `after` says when, for the three that need it: None, before the head of the response; k, after the head and k
    tokens (of an answer that is not streamed: in the middle of its body). `delay_secs` pass first, whatever the kind.
    `path` narrows it to requests for that exact path.
    """

    kind: Literal["status", "die", "hang", "malformed", "slow"]
    status: int = 500
    after: int | None = None
    delay_secs: float = 0.0
    count: int = 1
    path: str | None = None


class RequestRecord(msgspec.Struct):
    """What arrived, and how it ended: `outcome` is None until it did, then ``answered``, ``failed`` (by a `Fault`, or
    because the model was loading or asleep) or ``disconnected`` (the client left). `began` is when its answer was, once
    it had a place in the batch (`time.monotonic`, seconds). Header names are in lower case."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    model: str | None = None
    tokens_sent: int = 0
    began: float | None = None
    outcome: Literal["answered", "failed", "disconnected"] | None = None

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        return next((value for key, value in self.headers if key == name.lower()), None)


def record_of(scope: Scope, body: bytes = b"") -> RequestRecord:
    """The record of what has come: a request with its `body`, or a WebSocket's handshake."""
    return RequestRecord(
        method=scope.get("method", "GET"),
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
        body=body,
    )


class Pace(Protocol):
    """What an exchange needs to know of its backend."""

    tokens_per_second: float
    batch_tokens_per_second: float
    prompt_tokens_per_second: float
    first_token_secs: float
    active: int

    @property
    def slowness(self) -> float:
        """How many times as long as alone everything takes now."""

    def notify(self) -> None:
        """Something changed that a test may be waiting for."""


class ClientLeftError(Exception):
    """The client closed its connection before the answer was complete."""


class DroppedError(Exception):
    """The connection was dropped, as a fault asked for."""


class Exchange:
    """One request and its response, with an eye on the client and a hand on the connection."""

    def __init__(self, backend: Pace, scope: Scope, receive: Receive, send: Send, record: RequestRecord) -> None:
        self.backend = backend
        self.record = record
        self._scope = {**scope, "llmux.exchange": self}
        self._receive = receive
        self._send = send
        self._fault: Fault | None = None
        self._body_read = False
        self._gone = asyncio.create_task(self._watch())

    async def run(self, fault: Fault | None, app: ASGIApp) -> None:
        """Act out `fault`, then let `app` answer, if there is anything left to answer."""
        self._fault = fault
        if fault is not None:
            await self._pause(fault.delay_secs)
            if fault.kind == "status":
                self.record.outcome = "failed"
                app = error_response(fault.status, "as scripted")
            await self._strike(None)
        await app(self._scope, self._replay, self._send)

    def close(self) -> None:
        """Stop watching the client."""
        self._gone.cancel()

    async def stream(self, answer: Answer, wording: Wording) -> Response:
        """Send `answer` in pieces, in a `wording`, at the backend's pace."""
        head = [(b"content-type", wording.media_type.encode()), (b"cache-control", b"no-cache")]
        await self._send({"type": "http.response.start", "status": 200, "headers": head})
        if wording.begin:
            await self._write(wording.begin)
        await self._strike(0)
        async for piece in self._paced(answer.pieces, answer.prompt_tokens):
            await self._write(wording.piece(piece))
            self.record.tokens_sent += 1
            self.backend.notify()
            await self._strike(self.record.tokens_sent)
        await self._write(wording.end)
        return _Sent()

    async def whole(self, answer: Answer, body: bytes) -> Response:
        """Send `answer`, of which `body` is the JSON, once it is thought out."""
        fault = self._fault
        stop_at = fault.after if fault is not None else None
        async for _ in self._paced(answer.pieces[:stop_at], answer.prompt_tokens):
            self.record.tokens_sent += 1
        if stop_at is not None:
            head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await self._send({"type": "http.response.start", "status": 200, "headers": head})
            await self._write(body[: len(body) // 2])
            await self._strike(stop_at)
        return Response(body, media_type="application/json")

    async def _paced(self, pieces: list[str], prompt_tokens: int) -> AsyncIterator[str]:
        backend = self.backend
        reading = backend.first_token_secs + prompt_tokens / backend.prompt_tokens_per_second
        due = time.monotonic() + reading * backend.slowness
        for piece in pieces:
            speed = min(backend.tokens_per_second / backend.slowness, backend.batch_tokens_per_second / backend.active)
            due += 1 / speed
            await self._pause(due - time.monotonic())
            yield piece

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.wait({self._gone}, timeout=seconds)
        else:
            await asyncio.sleep(0)
        if self._gone.done():
            raise ClientLeftError

    async def _strike(self, tokens: int | None) -> None:
        """Die or hang if the fault says so at this point: before the head (None) or after so many tokens."""
        fault = self._fault
        if fault is None or fault.kind not in ("die", "hang", "malformed") or fault.after != tokens:
            return
        if fault.kind == "malformed":
            self._transport().write(b"this is not HTTP\r\n\r\n")
            self._transport().close()
        elif fault.kind == "die":
            self._transport().abort()
        await self._gone
        raise ClientLeftError if fault.kind == "hang" else DroppedError

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _replay(self) -> Message:
        if not self._body_read:
            self._body_read = True
            return {"type": "http.request", "body": self.record.body, "more_body": False}
        await self._gone
        return {"type": "http.disconnect"}

    def _transport(self) -> asyncio.WriteTransport:
        transport: asyncio.WriteTransport = self._scope["extensions"][TRANSPORT]
        return transport


class _Sent(Response):
    """The end of a response whose head and body were written already."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def error_response(status: int, message: str) -> Response:
    """An error in OpenAI's shape."""
    body = {"error": {"message": message, "type": "simulated", "param": None, "code": status}}
    return JSONResponse(body, status_code=status)


async def question_of(request: Request) -> dict[str, Any]:
    """The body of a request.

    Raises:
        UnreadableError: it is no JSON object that Python can read: also where a number has too many digits for it.
    """
    try:
        question = await request.json()
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"The body cannot be read: {error}") from error
    if not isinstance(question, dict):
        raise UnreadableError("The body must be an object.")
    return question


class UnreadableError(Exception):
    """A body cannot be read; the message says why."""


async def unreadable(request: Request, error: Exception) -> Response:
    """What is answered then."""
    return error_response(400, str(error))
