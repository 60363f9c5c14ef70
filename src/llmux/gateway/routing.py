"""Whom a request is for: a model, or the control plane.

Pure. The order: llmux's own `/admin` and `/ui` (whose bodies may well name a model, of which an operator wants
something), `/upstream/<model>/…`, the body, `?model=`, and then the other paths of the control plane.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from llmux.errors import NoModelError, UnsupportedEncodingError
from llmux.wire.peek import model_in_body, model_in_target
from llmux.wire.request import Request

_ALWAYS_CONTROL: Final = (b"/admin", b"/ui")
_CONTROL: Final = (b"/v1/models", b"/models", b"/metrics", b"/health", b"/ready")
_CONTROL_TREES: Final = (b"/v1/models/", b"/models/")


class Route(NamedTuple):
    """`name` is the model or alias asked for, None for the control plane. `path` is what to ask the backend for.
    `in_body` tells whether it was the body that named it."""

    name: str | None
    path: bytes
    in_body: bool = False


def find_route(request: Request) -> Route:
    """Whom `request` is for.

    Raises:
        NoModelError: nobody.
        BadRequestError: its body, path or query cannot be read.
        UnsupportedEncodingError: only its body could tell, and that is compressed.
    """
    path = request.path
    if path.startswith(b"/upstream/"):
        return Route(*model_in_target(path, request.query[1:]))
    if path.startswith(_ALWAYS_CONTROL) and any(_is_under(path, root) for root in _ALWAYS_CONTROL):
        return Route(None, path)
    coding = request.content_encoding
    compressed = coding is not None and coding.lower() != b"identity" and bool(request.body)
    if request.body and not compressed:
        name = model_in_body(request.content_type, request.body)
        if name is not None:
            return Route(name, path, True)
    if request.query:
        name, _ = model_in_target(path, request.query[1:])
        if name is not None:
            return Route(name, path)
    if path in _CONTROL or path.startswith(_CONTROL_TREES):
        return Route(None, path)
    if compressed:
        raise UnsupportedEncodingError("the request's body is compressed, so no model can be read from it")
    raise NoModelError


def _is_under(path: bytes, root: bytes) -> bool:
    return path == root or path.startswith(root + b"/")
