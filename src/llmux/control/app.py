"""The web application of the control plane: the list of models, metrics, health and readiness.

Every route but the admin API's is read-only. Whatever goes wrong is answered in the shape that OpenAI's clients
read, through `llmux.wire.errors`. No route may run a hook or wake a model: probes must not cost a switch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmux.access import Access
from llmux.control import ui
from llmux.control.admin.handlers import routes as admin_routes
from llmux.control.admin.operations import PREFIX
from llmux.control.admin.ports import Orders, Sight
from llmux.control.guard import Guard
from llmux.control.listing import Listing
from llmux.control.view import ControlView
from llmux.errors import LlmuxError, MethodNotAllowedError, NoModelError, NoSuchPathError
from llmux.snapshot import DeviceSnapshot, ModelSnapshot, ReleasedSnapshot, SwitchSnapshot
from llmux.telemetry import CONTENT_TYPE, Telemetry
from llmux.version import plain, version
from llmux.wire.errors import error_body

_OPERATORS: Final = ("/admin", "/ui")
_VERSION = version()  # here, as it reads files, which no request should


class _Health(msgspec.Struct, frozen=True):
    version: str
    status: str = "ok"


class _Readiness(msgspec.Struct, frozen=True):
    """`reasons` says why not, and is empty when `ready`. Ages are in seconds, memory is in bytes."""

    ready: bool
    reasons: list[str]
    oldest_waiter_secs: float | None
    last_event_secs: float
    switches: tuple[SwitchSnapshot, ...]
    devices: tuple[DeviceSnapshot, ...]
    models: tuple[ModelSnapshot, ...]
    released: ReleasedSnapshot | None


class _Handlers:
    def __init__(self, view: ControlView, telemetry: Telemetry, *, with_page: bool) -> None:
        self._view = view
        self._telemetry = telemetry
        self._with_page = with_page

    async def root(self, request: Request) -> Response:
        """What Ollama's clients send a HEAD to, to see whether anybody is there, and people open in a browser."""
        if self._with_page and "text/html" in request.headers.get("accept", ""):
            return ui.to_page()
        return Response("llmux is running\n", media_type="text/plain", headers={"Vary": "Accept"})

    async def metrics(self, request: Request) -> Response:
        # In a thread: writing thousands of series takes longer than streams on this loop should have to wait.
        render = partial(self._telemetry.render, self._view.snapshot(), tasks=len(asyncio.all_tasks()))
        body = await run_in_threadpool(render)
        return Response(body, media_type=CONTENT_TYPE)

    async def health(self, request: Request) -> Response:
        return _json(_Health(_VERSION))

    async def ready(self, request: Request) -> Response:
        snapshot = self._view.snapshot()
        readiness = _Readiness(
            ready=snapshot.ready,
            reasons=snapshot.reasons,
            oldest_waiter_secs=snapshot.oldest_waiter_age,
            last_event_secs=snapshot.seconds_since_last_event,
            switches=snapshot.switches,
            devices=snapshot.devices,
            models=snapshot.models,
            released=snapshot.released,
        )
        return _json(readiness, HTTPStatus.OK if snapshot.ready else HTTPStatus.SERVICE_UNAVAILABLE)


def build_control(
    view: ControlView,
    telemetry: Telemetry,
    access: Callable[[], Access] = Access,
    *,
    sight: Sight | None = None,
    orders: Orders | None = None,
) -> Starlette:
    """The application. The `created` time of all models is the time of this call. `access` is asked for each request
    who is let in. Without `sight` and `orders` there is no admin API and no dashboard; with them, the dashboard's files
    are read, so this must not be called on a loop then."""
    handlers = _Handlers(view, telemetry, with_page=sight is not None and orders is not None)
    routes = [
        Route("/", handlers.root),
        Route("/metrics", handlers.metrics),
        Route("/health", handlers.health),
        Route("/ready", handlers.ready),
    ]
    if sight is not None and orders is not None:
        routes += admin_routes(sight, orders)
        routes += ui.routes(access)
    routes += Listing(view, plain(_VERSION)).routes()
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, access=access, refuse=_error)],
        exception_handlers={LlmuxError: _refuse, HTTPException: _translate, Exception: _refuse},
    )
    app.router.redirect_slashes = False
    return app


def _json(value: object, status: int = HTTPStatus.OK) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


async def _refuse(request: Request, exc: Exception) -> Response:
    return _error(exc if isinstance(exc, LlmuxError) else LlmuxError("Internal error"))


async def _translate(request: Request, exc: Exception) -> Response:
    """Starlette's own refusals: the router knows the path but not the method, or does not know the path."""
    if isinstance(exc, HTTPException) and exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (exc.headers or {}).get("Allow", "")
        return _error(MethodNotAllowedError(f"{request.method} is not allowed for {request.url.path}", allowed))
    path = request.url.path
    if path.startswith(_OPERATORS):
        return _error(NoSuchPathError(f"there is no {path}; {PREFIX}/openapi.json has all that there is"))
    return _error(NoModelError())


def _error(error: LlmuxError) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
    if isinstance(error, MethodNotAllowedError):
        headers["Allow"] = error.allowed
    return Response(error_body(error), status_code=error.status, headers=headers, media_type="application/json")
