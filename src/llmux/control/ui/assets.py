"""The dashboard's files as routes: one for each, made from a fixed map."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from importlib import resources
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ROOT: Final = "/ui"
PAGE: Final = "index.html"

_HTML: Final = "text/html; charset=utf-8"
_CSS: Final = "text/css; charset=utf-8"
_SCRIPT: Final = "text/javascript; charset=utf-8"

ASSETS: Final[Mapping[str, str]] = {
    PAGE: _HTML,
    "style.css": _CSS,
    "panels.css": _CSS,
    "icon.svg": "image/svg+xml",
    "app.js": _SCRIPT,
    "api.js": _SCRIPT,
    "costs.js": _SCRIPT,
    "dom.js": _SCRIPT,
    "estimates.js": _SCRIPT,
    "format.js": _SCRIPT,
    "gestures.js": _SCRIPT,
    "hooks.js": _SCRIPT,
    "keyboard.js": _SCRIPT,
    "keys.js": _SCRIPT,
    "live.js": _SCRIPT,
    "models.js": _SCRIPT,
    "names.js": _SCRIPT,
    "notices.js": _SCRIPT,
    "orders.js": _SCRIPT,
    "overview.js": _SCRIPT,
    "painting.js": _SCRIPT,
    "playground.js": _SCRIPT,
    "requests.js": _SCRIPT,
    "sections.js": _SCRIPT,
    "segments.js": _SCRIPT,
    "store.js": _SCRIPT,
    "switches.js": _SCRIPT,
    "theme.js": _SCRIPT,
    "timeline.js": _SCRIPT,
}
"""Every file that is served, and its type."""

HEADERS: Final[Mapping[str, str]] = {
    # No script, style, picture or connection but our own, none of it inline, in nobody's frame; and no way from text
    # to markup (Trusted Types): `innerHTML` and its like throw, should somebody write them.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Asked for anew every time, and answered with 304: pages of two versions of llmux must not mix.
    "Cache-Control": "no-cache",
}
"""What every file is sent with."""


def routes() -> list[Route]:
    """The routes of all files. Reads them, so it must not be called on a loop."""
    folder = resources.files(__package__) / "static"
    made = [Route(ROOT, _to_page)]
    for name, kind in ASSETS.items():
        answer = _answer((folder / name).read_bytes(), kind)
        made.append(Route(f"{ROOT}/{name}", answer))
        if name == PAGE:
            made.append(Route(f"{ROOT}/", answer))
    return made


def to_page() -> Response:
    """Sends a browser from beside the page's folder to the page."""
    # Relative, as is all in the page: so it works behind a proxy that puts llmux under a path of its own.
    headers = {**HEADERS, "Location": "ui/", "Vary": "Accept"}
    return Response(status_code=HTTPStatus.TEMPORARY_REDIRECT, headers=headers)


async def _to_page(request: Request) -> Response:
    return to_page()


def _answer(body: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    headers = {**HEADERS, "Content-Type": kind, "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"'}

    async def answer(request: Request) -> Response:
        if _has(request, headers["ETag"]):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(body, headers=headers)

    return answer


def _has(request: Request, tag: str) -> bool:
    """RFC 9110, section 13.1.2: compared weakly."""
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return tag in known or known == ["*"]
