"""Answers the operations of the admin API."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from llmux.control.admin.answers import (
    Costs,
    Devices,
    Done,
    HookRuns,
    Models,
    ModelView,
    Requests,
    State,
    Switches,
    Timeline,
)
from llmux.control.admin.operations import MAX_LIMIT, OPERATIONS, PREFIX, document
from llmux.control.admin.ports import Orders, Sight
from llmux.control.admin.stream import events
from llmux.errors import BadRequestError, MethodNotAllowedError, ModelNotFoundError
from llmux.telemetry.history import SWITCHES
from llmux.version import version


class Handlers:
    """One method for each operation, of the same name."""

    def __init__(self, sight: Sight, orders: Orders) -> None:
        self._sight = sight
        self._orders = orders
        self._started = time.time()
        self._version = version()
        self._document = msgspec.json.encode(document(self._version))
        self._under_way: set[asyncio.Task[None]] = set()

    # --- reading ---------------------------------------------------------------------------------------------------

    async def state(self, request: Request) -> Response:
        return _json(self._state())

    async def models(self, request: Request) -> Response:
        return _json(Models(list(self._sight.models())))

    async def model(self, request: Request) -> Response:
        name = request.path_params["model"]
        try:
            return _json(self._find(name))
        except ModelNotFoundError:
            model, _, order = name.rpartition("/")
            if model and order in _ORDERS:  # which is no model, but an order that wants another method
                what = f"{request.method} is not allowed for {request.url.path}: it is an order, so POST it"
                raise MethodNotAllowedError(what, "POST") from None
            raise

    async def devices(self, request: Request) -> Response:
        return _json(Devices(self._sight.snapshot().devices))

    async def requests(self, request: Request) -> Response:
        return _json(Requests(list(self._sight.requests(_limit(request)))))

    async def costs(self, request: Request) -> Response:
        return _json(Costs(list(self._sight.costs())))

    async def switches(self, request: Request) -> Response:
        return _json(Switches(self._sight.history.switches(_limit(request) or SWITCHES)))

    async def hooks(self, request: Request) -> Response:
        model = request.query_params.get("model")
        name = None if model is None else self._find(model).name
        return _json(HookRuns(self._sight.history.hook_runs(name, _limit(request))))

    async def timeline(self, request: Request) -> Response:
        return _json(Timeline(self._sight.history.states(_parameter(request, "since", float) or 0.0)))

    async def events(self, request: Request) -> Response:
        stream = events(self._sight.history, self._state_and_gist)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def openapi(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")

    # --- orders ----------------------------------------------------------------------------------------------------

    async def switch(self, request: Request) -> Response:
        return await self._done(self._orders.switch(self._find(request.path_params["model"]).name))

    async def sleep(self, request: Request) -> Response:
        return await self._done(self._orders.sleep(self._find(request.path_params["model"]).name))

    async def free(self, request: Request) -> Response:
        return await self._done(self._orders.free(self._find(request.path_params["model"]).name))

    async def look(self, request: Request) -> Response:
        return await self._done(self._orders.look(self._find(request.path_params["model"]).name))

    async def drain(self, request: Request) -> Response:
        return await self._done(self._orders.drain(self._find(request.path_params["model"]).name))

    async def undrain(self, request: Request) -> Response:
        return await self._done(self._orders.undrain(self._find(request.path_params["model"]).name))

    async def pin(self, request: Request) -> Response:
        return await self._done(self._orders.pin(self._find(request.path_params["model"]).name))

    async def unpin(self, request: Request) -> Response:
        return await self._done(self._orders.unpin(self._find(request.path_params["model"]).name))

    async def release(self, request: Request) -> Response:
        refuse = request.query_params.get("refuse", "false")
        if refuse not in ("true", "false"):
            raise BadRequestError("refuse must be true or false", param="refuse")
        return await self._done(self._orders.release(refuse=refuse == "true"))

    async def resume(self, request: Request) -> Response:
        return await self._done(self._orders.resume())

    async def cancel(self, request: Request) -> Response:
        try:
            number = int(request.path_params["id"])
        except ValueError:
            raise BadRequestError("a request's id is a whole number", param="id") from None
        self._orders.cancel(number)
        return _json(Done(0.0))

    async def reload(self, request: Request) -> Response:
        return await self._done(self._orders.reload())

    # ---------------------------------------------------------------------------------------------------------------

    async def _done(self, order: Coroutine[object, object, None]) -> Response:
        began = time.monotonic()
        # Shielded: an operator who hangs up has given the order all the same.
        task = asyncio.create_task(order)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)
        return _json(Done(time.monotonic() - began))

    def _find(self, name: str) -> ModelView:
        for model in self._sight.models():
            if name == model.name or name in model.aliases:
                return model
        raise ModelNotFoundError(name)

    def _state(self) -> State:
        snapshot = self._sight.snapshot()
        return State(
            version=self._version,
            started=self._started,
            now=time.time(),
            ready=snapshot.ready,
            reasons=snapshot.reasons,
            policy=self._sight.policy(),
            oldest_waiter_secs=snapshot.oldest_waiter_age,
            last_event_secs=snapshot.seconds_since_last_event,
            switches=snapshot.switches,
            devices=snapshot.devices,
            models=list(self._sight.models()),
            released=snapshot.released,
            hooks=self._sight.history.running(),
        )

    def _state_and_gist(self) -> tuple[bytes, object]:
        state = self._state()
        gist = [(one.state, one.waiting, one.in_flight, one.devices, one.pinned, one.drained) for one in state.models]
        return msgspec.json.encode(state), (
            gist,
            [(one.from_model, one.to_model, one.phase) for one in state.switches],
            state.devices,
            state.reasons,
            state.policy,
            None if state.released is None else (state.released.refuse, state.released.holding),
        )


def routes(sight: Sight, orders: Orders) -> list[Route]:
    """The admin API's routes, for an application that lets only operators reach them."""
    handlers = Handlers(sight, orders)
    return [
        Route(PREFIX + one.path.replace("{model}", "{model:path}"), getattr(handlers, one.name), methods=[one.method])
        # The plainest last: `/models/a/switch` is not the model `a/switch`.
        for one in sorted(OPERATIONS, key=lambda one: one.path.endswith("{model}"))
    ]


_ORDERS = frozenset(one.name for one in OPERATIONS if one.method == "POST" and "{model}" in one.path)

N = TypeVar("N", int, float)


def _parameter(request: Request, name: str, kind: type[N]) -> N | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value = kind(text)
    except ValueError:
        raise BadRequestError(f"{name} must be a number", param=name) from None
    if not math.isfinite(value):
        raise BadRequestError(f"{name} must be finite", param=name)
    return value


def _limit(request: Request) -> int | None:
    limit = _parameter(request, "limit", int)
    if limit is not None and limit < 1:
        raise BadRequestError("limit must be at least 1", param="limit")
    if limit is not None and limit > MAX_LIMIT:
        raise BadRequestError(f"limit must be at most {MAX_LIMIT}", param="limit")
    return limit


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers={"Cache-Control": "no-store"})
