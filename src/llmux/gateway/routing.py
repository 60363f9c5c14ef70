"""Whom a request is for: a model, or the control plane.

Pure. The order: llmux's own `/admin` and `/ui` (whose bodies may well name a model, of which an operator wants
something) and Ollama's `/api/show` (which clients ask of every model before they use one, so that it must wake none),
`/upstream/<model>/…` (llmux's own where a page's slash is missing), the body, `?model=`, the other paths of the control
plane, and then the model that is for requests which name none.
"""

from __future__ import annotations

from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from llmux.errors import NoModelError, UnsupportedEncodingError
from llmux.wire.names import other_spelling
from llmux.wire.peek import model_and_tier, model_in_target
from llmux.wire.request import Request

_ALWAYS_CONTROL: Final = (b"/admin", b"/ui", b"/api/show")
_CONTROL: Final = frozenset(
    {b"/v1/models", b"/models", b"/metrics", b"/health", b"/ready", b"/api/tags", b"/api/ps", b"/api/version"}
)
_CONTROL_TREES: Final = (b"/v1/models/", b"/models/")
_UPSTREAM: Final = b"/upstream/"
_MOST_PARTS: Final = 8
"""Parts between slashes that a model's name may have in a path, unless its slashes are written ``%2F``."""

_PAGES: Final = frozenset({b"GET", b"HEAD"})
_SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})

# Where a request names its model. Plain ints, as for the states of an exchange.
IN_PATH: Final = 0
IN_BODY: Final = 1
IN_QUERY: Final = 2
NOWHERE: Final = 3
"""It names none, and is for the model that such requests are for."""


class Route:
    """`name` is the model or alias asked for, None for the control plane. `path` is what to ask the backend for.
    `named` tells where the name was found. `tier` is the `service_tier` of a body that was looked at."""

    __slots__ = ("name", "named", "path", "tier")

    def __init__(self, name: str | None, path: bytes, named: int = IN_PATH, tier: str | None = None) -> None:
        self.name = name
        self.path = path
        self.named = named
        self.tier = tier


class Names(Protocol):
    """The part of `llmux.ports.Scheduler` that is needed here."""

    def resolve(self, name: str) -> str | None:
        """The configured model that `name` (a name or an alias) means, or None."""


def find_route(request: Request, names: Names, default: str | None = None) -> Route:
    """Whom `request` is for. `default` is the model for requests that ask for work and name none.

    Raises:
        NoModelError: nobody.
        BadRequestError: its body, path or query cannot be read.
        UnsupportedEncodingError: only its body could tell, and that is compressed.
    """
    path = request.path
    if path.startswith(_UPSTREAM):
        if request.method in _PAGES and request.websocket is None and _is_bare(path, names):
            return Route(None, path)  # which sends it to the same with a slash: links of that page are relative to it
        return _under_upstream(path, names)
    if path.startswith(_ALWAYS_CONTROL) and any(_is_under(path, root) for root in _ALWAYS_CONTROL):
        return Route(None, path)
    coding = request.content_encoding
    compressed = coding is not None and coding.lower() != b"identity" and bool(request.body)
    tier = None
    if request.body and not compressed:
        name, tier = model_and_tier(request.content_type, request.body)
        if name is not None:
            return Route(name, path, IN_BODY, tier)
    if request.query:
        name, _ = model_in_target(path, request.query[1:])
        if name is not None:
            return Route(name, path, IN_QUERY, tier)
    if path in _CONTROL or path.startswith(_CONTROL_TREES):
        return Route(None, path)
    if path == b"/" and request.method in _PAGES and request.websocket is None:
        return Route(None, path)  # Ollama's clients ask for it before anything else
    if compressed:
        raise UnsupportedEncodingError("the request's body is compressed, so no model can be read from it")
    # A page's icon, or a scanner's GET, must not wake a model that nobody asked for.
    if default is not None and (request.method not in _SAFE or request.websocket is not None):
        return Route(default, path, NOWHERE, tier)
    raise NoModelError


def resolve(names: Names, name: str) -> str | None:
    """The configured model that `name` means, or None, however it is spelt."""
    found = names.resolve(name)
    if found is not None:
        return found
    other = other_spelling(name)
    return None if other is None else names.resolve(other)


def _under_upstream(path: bytes, names: Names) -> Route:
    """Of several names that the path may begin with, the longest: `org/name` rather than `org`."""
    parts = path[len(_UPSTREAM) :].split(b"/", _MOST_PARTS)
    for count in range(min(len(parts), _MOST_PARTS), 1, -1):
        name = unquote_to_bytes(b"/".join(parts[:count])).decode(errors="replace")
        if names.resolve(name) is not None:
            return Route(name, b"/" + b"/".join(parts[count:]))
    first, rest = model_in_target(path, b"")
    return Route(first, rest)


def _is_bare(path: bytes, names: Names) -> bool:
    """Is `path` a model and nothing more, not even a slash?"""
    return resolve(names, unquote_to_bytes(path[len(_UPSTREAM) :]).decode(errors="replace")) is not None


def _is_under(path: bytes, root: bytes) -> bool:
    return path == root or path.startswith(root + b"/")
