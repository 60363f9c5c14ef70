"""What the page has to know before it asks for anything: which keys it needs. Told by an answer that is no failure, as
browsers write every failed request into the console.

It tells nothing that a request without a key would not be told, and looks at no key that is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmux.access import Access, is_credential
from llmux.control.guard import admitted
from llmux.control.ui.assets import HEADERS, ROOT
from llmux.errors import LlmuxError

_BEHIND: Final = {"admin": "/admin/v1/state", "api": "/v1/models"}


class Closed(msgspec.Struct, frozen=True):
    """What a request without a key is refused with."""

    status: int
    code: str
    message: str


def route(access: Callable[[], Access]) -> Route:
    """The route. `access` is asked for every request, as it may change."""

    async def doors(request: Request) -> Response:
        bare = [(name, value) for name, value in request.headers.raw if not is_credential(name)]
        found = {door: _closed(access(), path, bare) for door, path in _BEHIND.items()}
        headers = {**HEADERS, "Cache-Control": "no-store"}
        return Response(msgspec.json.encode(found), headers=headers, media_type="application/json")

    return Route(f"{ROOT}/doors", doors)


def _closed(access: Access, path: str, headers: list[tuple[bytes, bytes]]) -> Closed | None:
    try:
        admitted(access, path, headers)
    except LlmuxError as error:
        return Closed(error.status, error.code, str(error))
    return None
