"""A model server that only pretends: OpenAI's routes, a load time, a speed, and whatever failures a test asks for.

It listens on a real socket, in the test's own loop or as a process of its own. It answers the same text to the same
question, counts and keeps the requests it got, and never blocks the loop.

    backend = SimulatedBackend("alpha", tokens_per_second=200)
    async with backend.serving() as (host, port):
        backend.fail(Fault("die", after=3))  # the next request's connection drops after three tokens
        ...
    assert backend.requests[-1].model == "alpha"
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import math
import signal
import struct
import sys
import time
import zlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from llmux.testing import _dialects, _listener, _realtime
from llmux.testing._answers import Answer, Wording, answer_text, answer_tokens, last_text
from llmux.testing._exchange import (
    MODEL_PATHS,
    ClientLeftError,
    DroppedError,
    Exchange,
    Fault,
    RequestRecord,
    UnreadableError,
    error_response,
    question_of,
    record_of,
    unreadable,
)

__all__ = ["Fault", "RequestRecord", "SimulatedBackend", "answer_text", "run_backend"]


class SimulatedBackend:
    """An OpenAI-like server. Also an ASGI application, should you want to mount it elsewhere.

    Args:
        model: the model's name, or several; the first is what is answered when a request names none.
        tokens_per_second: speed of one stream.
        batch_tokens_per_second: speed of all streams together; a stream gets ``min(alone, batch / active streams)``.
        batch: most answers generated at a time; further ones wait for a place in turn. None: no limit.
        full_batch_tokens_per_second: speed of each stream when `batch` of them run; in between, the time per token
            grows linearly with their number. None: as fast as alone. Needs `batch`.
        prompt_tokens_per_second: how fast prompts are read, a word counting as a token.
        first_token_secs: time until the first token besides.
        load_secs: after the start, /health and all else answer 503 for so long.
        tokens: length of an answer, unless the request's ``max_tokens`` is lower.
        strict_model: answer 404 to a model that is not one of its own (vLLM does, llama.cpp does not).
        sleep_mode: serve vLLM-like /sleep, /wake_up and /is_sleeping, which take `sleep_secs` and `wake_secs`. While
            asleep /health still says 200, and generation answers 503.
        keep_alive_secs: idle connections are closed after it (uvicorn-based servers: 5).
        faults: see `fail`.
        record_last: how many requests `requests` keeps.

    Attributes:
        counts: requests by path since the start.
        active, most_active: answers being generated, now and at most.
        asleep: whether /sleep was the last word.
    """

    def __init__(
        self,
        model: str | Sequence[str] = "simulated",
        *,
        tokens_per_second: float = 50.0,
        batch_tokens_per_second: float = math.inf,
        batch: int | None = None,
        full_batch_tokens_per_second: float | None = None,
        prompt_tokens_per_second: float = math.inf,
        first_token_secs: float = 0.0,
        load_secs: float = 0.0,
        tokens: int = 16,
        strict_model: bool = False,
        sleep_mode: bool = False,
        sleep_secs: float = 0.0,
        wake_secs: float = 0.0,
        keep_alive_secs: float = 5.0,
        faults: Iterable[Fault] = (),
        record_last: int = 100,
    ) -> None:
        self.models = (model,) if isinstance(model, str) else tuple(model)
        if not self.models or not tokens_per_second > 0 or not batch_tokens_per_second > 0:
            raise ValueError("a backend needs a model and speeds above 0")
        full = tokens_per_second if full_batch_tokens_per_second is None else full_batch_tokens_per_second
        if not 0 < full <= tokens_per_second or not prompt_tokens_per_second > 0 or (batch is not None and batch < 1):
            raise ValueError("a batch has 1 place or more, and speeds above 0, in a full batch no higher than alone")
        if full_batch_tokens_per_second is not None and batch is None:
            raise ValueError("full_batch_tokens_per_second needs a batch")
        self.tokens_per_second = tokens_per_second
        self.batch_tokens_per_second = batch_tokens_per_second
        self.prompt_tokens_per_second = prompt_tokens_per_second
        self.first_token_secs = first_token_secs
        self._slowdown = 0.0 if batch is None else (tokens_per_second / full - 1) / max(1, batch - 1)
        self._places = contextlib.nullcontext() if batch is None else asyncio.Semaphore(batch)
        self.load_secs = load_secs
        self.tokens = tokens
        self.strict_model = strict_model
        self.sleep_secs = sleep_secs
        self.wake_secs = wake_secs
        self.keep_alive_secs = keep_alive_secs
        self.counts: Counter[str] = Counter()
        self.active = 0
        self.most_active = 0
        self.asleep = False
        self._requests: deque[RequestRecord] = deque(maxlen=record_last)
        self._faults: list[tuple[Fault, int]] = []
        self.fail(*faults)
        self._loaded_at = 0.0
        self._serial = itertools.count(1)
        self._changed: asyncio.Event | None = None
        bad = dict.fromkeys(_dialects.MISTAKES, _dialects.refuse) | {UnreadableError: unreadable}
        self._app = Starlette(routes=self._routes(sleep_mode), exception_handlers=bad)

    # --- for tests -----------------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[RequestRecord]:
        """The last requests, oldest first, without health checks and the backend's own /_ paths."""
        return list(self._requests)

    def fail(self, *faults: Fault) -> None:
        """Act these out, in this order, on the requests to come."""
        self._faults.extend((fault, fault.count) for fault in faults)

    def recover(self) -> None:
        """Forget the faults that are still to come."""
        self._faults.clear()

    async def wait_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:  # noqa: ASYNC109  # a test's deadline
        """Return once `condition()` holds; it is looked at whenever a request arrives, ends or sends a token.

        Raises:
            TimeoutError: after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while not condition():
                if self._changed is None:
                    self._changed = asyncio.Event()
                await self._changed.wait()

    @contextlib.asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[tuple[str, int]]:
        """Listen until the context ends, which drops every connection; gives the bound (host, port).

        Raises:
            OSError: the address cannot be bound.
        """
        sock = _listener.bind(host, port)
        address: tuple[str, int] = sock.getsockname()[:2]
        self._loaded_at = time.monotonic() + self.load_secs
        async with _listener.listen(self, sock, keep_alive_secs=self.keep_alive_secs):
            yield address

    # --- ASGI ----------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        self.counts[path] += 1
        if scope["type"] == "websocket":
            await self._talk(scope, receive, send)
            return
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:  # before the request was complete: there was none
            return
        record = record_of(scope, body)
        if path != "/health" and not path.startswith("/_"):
            self._requests.append(record)
        exchange = Exchange(self, scope, receive, send, record)
        self.notify()
        app: ASGIApp = self._app
        if self.loading and not path.startswith("/_"):
            app = error_response(503, "Loading model")
        elif self.asleep and path.startswith(MODEL_PATHS):
            app = error_response(503, "The model is asleep")
        if app is not self._app:
            record.outcome = "failed"
        try:
            await exchange.run(self._take_fault(path), app)
        except ClientLeftError:
            record.outcome = "disconnected"
        except DroppedError:
            record.outcome = "failed"
        finally:
            exchange.close()
            record.outcome = record.outcome or "answered"
            self.notify()

    async def _talk(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket, from its handshake to its end. Faults are for requests."""
        record = record_of(scope)
        self._requests.append(record)
        self.notify()
        try:
            if self.loading or self.asleep:
                why = "Loading model" if self.loading else "The model is asleep"
                await WebSocket(scope, receive, send).send_denial_response(error_response(503, why))
            else:
                await self._app(scope, receive, send)
        finally:
            record.outcome = "failed" if self.loading or self.asleep else "answered"
            self.notify()

    def _take_fault(self, path: str) -> Fault | None:
        for index, (fault, left) in enumerate(self._faults):
            applies = path == fault.path if fault.path else path.startswith(MODEL_PATHS) and path != "/v1/models"
            if applies:
                if left > 1:
                    self._faults[index] = (fault, left - 1)
                else:
                    del self._faults[index]
                return fault
        return None

    def notify(self) -> None:
        """Wake whoever is in `wait_until`."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _routes(self, sleep_mode: bool) -> list[BaseRoute]:
        routes: list[BaseRoute] = [
            Route("/health", self._health),
            Route("/v1/models", self._list_models),
            Route("/v1/chat/completions", self._generate, methods=["POST"]),
            Route("/v1/completions", self._generate, methods=["POST"]),
            Route("/v1/embeddings", self._embed, methods=["POST"]),
            Route("/chat/completions", self._generate, methods=["POST"]),
            Route("/completions", self._generate, methods=["POST"]),
            Route("/embeddings", self._embed, methods=["POST"]),
            Route("/v1/audio/transcriptions", self._transcribe, methods=["POST"]),
            Route("/_script", self._script, methods=["POST"]),
            Route("/_requests", self._show_requests),
            *_dialects.routes(self),
            *_realtime.routes(self),
        ]
        if sleep_mode:
            routes += [
                Route("/sleep", self._sleep, methods=["POST"]),
                Route("/wake_up", self._wake_up, methods=["POST"]),
                Route("/is_sleeping", self._is_sleeping),
            ]
        return routes

    @property
    def slowness(self) -> float:
        """How many times as long as alone everything takes now."""
        return 1 + self._slowdown * (max(1, self.active) - 1)

    @property
    def loading(self) -> bool:
        """Whether `load_secs` have not passed since the start."""
        return time.monotonic() < self._loaded_at

    # --- routes --------------------------------------------------------------------------------------------------

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _list_models(self, request: Request) -> Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "llmux.testing"} for name in self.models]
        return JSONResponse({"object": "list", "data": data})

    async def _generate(self, request: Request) -> Response:
        question = await question_of(request)
        chat = request.url.path.endswith("chat/completions")
        model = str(question.get("model") or self.models[0])
        exchange: Exchange = request.scope["llmux.exchange"]
        exchange.record.model = model
        if self.strict_model and model not in self.models:
            return error_response(404, f"The model `{model}` does not exist.")
        prompt = last_text(question.get("messages")) if chat else str(question.get("prompt", ""))
        limit = question.get("max_completion_tokens") or question.get("max_tokens") or self.tokens
        answer = self.answer(model, prompt, limit, chat=chat)
        if not question.get("stream"):
            return await self.say(exchange, answer, answer.body())
        usage = bool((question.get("stream_options") or {}).get("include_usage"))
        return await self.say(exchange, answer, answer.wording(usage=usage))

    def answer(self, model: str, prompt: str, limit: Any, *, chat: bool) -> Answer:
        """What is said to `prompt`: at most `limit` tokens, if that is a number."""
        pieces = answer_tokens(model, prompt, min(int(limit or self.tokens), self.tokens))
        return Answer(
            serial=next(self._serial),
            chat=chat,
            model=model,
            pieces=pieces,
            finish_reason="length" if len(pieces) < self.tokens else "stop",
            prompt_tokens=len(prompt.split()),
        )

    async def say(self, exchange: Exchange, answer: Answer, wording: Wording | bytes) -> Response:
        """Say it, once there is a place in the batch: streamed in a `wording`, or whole, as these bytes of JSON."""
        async with self._places:
            exchange.record.began = time.monotonic()
            self.active += 1
            self.most_active = max(self.most_active, self.active)
            try:
                if isinstance(wording, bytes):
                    return await exchange.whole(answer, wording)
                return await exchange.stream(answer, wording)
            finally:
                self.active -= 1

    async def _embed(self, request: Request) -> Response:
        question = await question_of(request)
        model = str(question.get("model") or self.models[0])
        request.scope["llmux.exchange"].record.model = model
        given = question.get("input", "")
        inputs = given if isinstance(given, list) else [given]
        data = []
        for index, text in enumerate(inputs):
            vector = [zlib.crc32(f"{model} {text} {i}".encode()) / 2**32 for i in range(8)]
            encoded: list[float] | str = vector
            if question.get("encoding_format") == "base64":
                encoded = base64.b64encode(struct.pack("<8f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": encoded})
        count = sum(len(str(text).split()) for text in inputs)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "model": model, "data": data, "usage": usage})

    async def _transcribe(self, request: Request) -> Response:
        async with request.form() as form:
            upload = form.get("file")
            if upload is None or isinstance(upload, str):
                return error_response(400, "A file is needed.")
            size = len(await upload.read())
            model = str(form.get("model") or self.models[0])
        request.scope["llmux.exchange"].record.model = model
        return JSONResponse({"text": f"{model} heard {size} bytes of {upload.filename}"})

    async def _sleep(self, request: Request) -> Response:
        await asyncio.sleep(self.sleep_secs)
        self.asleep = True
        return Response()

    async def _wake_up(self, request: Request) -> Response:
        await asyncio.sleep(self.wake_secs)
        self.asleep = False
        return Response()

    async def _is_sleeping(self, request: Request) -> Response:
        return JSONResponse({"is_sleeping": self.asleep})

    async def _script(self, request: Request) -> Response:
        try:
            faults = msgspec.json.decode(await request.body(), type=Fault | list[Fault])
        except msgspec.MsgspecError as error:
            return error_response(400, str(error))
        self.fail(*(faults if isinstance(faults, list) else [faults]))
        return JSONResponse({"faults_to_come": len(self._faults)})

    async def _show_requests(self, request: Request) -> Response:
        shown = {"counts": self.counts, "active": self.active, "requests": self.requests}
        return Response(msgspec.json.encode(shown), media_type="application/json")


def run_backend(backend: SimulatedBackend, *, host: str = "127.0.0.1", port: int = 0) -> None:
    """Serve in a loop of its own until SIGTERM or SIGINT, then drop every connection and return.

    Raises:
        OSError: the address cannot be bound.
    """

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with backend.serving(host, port) as (bound_host, bound_port):
            sys.stderr.write(f"simulated {', '.join(backend.models)} on http://{bound_host}:{bound_port}\n")
            await stop.wait()

    asyncio.run(main())
