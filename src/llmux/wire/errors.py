"""The one place that turns an `LlmuxError` into bytes for a client; `llmux.wire.sse` puts them into event streams.

Pure. May import errors only. It never puts raw control characters, or more than `LlmuxError.message_limit` characters,
into what it makes: a message ends up in terminals and logs, and may repeat what came from a client.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from llmux.errors import LlmuxError

_ENCODER = msgspec.json.Encoder()


class _Error(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str


class _Body(msgspec.Struct, frozen=True):
    error: _Error


class Shape(enum.Enum):
    """How an API's error bodies look."""

    OPENAI = enum.auto()
    ANTHROPIC = enum.auto()


class _AnthropicError(msgspec.Struct, frozen=True):
    type: str
    message: str


class _AnthropicBody(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    error: _AnthropicError


_MESSAGES: Final = frozenset({b"/messages", b"/messages/count_tokens"})
_MESSAGES_UNDER: Final = (b"/v1/messages", b"/v1/messages/count_tokens")

ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_type(status: int) -> str:
    """What the Messages API calls an error of `status`."""
    return ANTHROPIC_TYPES.get(status) or ("invalid_request_error" if 400 <= status < 500 else "api_error")


def shape_of(path: bytes) -> Shape:
    """The shape of errors for a request for `path`: that of Anthropic's Messages API for its routes. Those of OpenAI's
    threads end with ``/messages`` too."""
    return Shape.ANTHROPIC if path in _MESSAGES or path.endswith(_MESSAGES_UNDER) else Shape.OPENAI


def printable(text: str, limit: int = LlmuxError.message_limit) -> str:
    r"""`text` with everything unprintable written as ``\n``, ``\x1b``, ``\ud800``…, cut to `limit` characters.

    Costs no more for a name of a megabyte than for one of `limit` characters.
    """
    if len(text) <= limit and text.isprintable():
        return text
    head = text[: limit + 1]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in head)
    if len(text) <= limit and len(escaped) <= limit:
        return escaped
    return escaped[: limit - 1] + "…"


def error_body(error: LlmuxError, shape: Shape = Shape.OPENAI) -> bytes:
    """``{"error": {"message", "type", "param", "code"}}`` as OpenAI's API has it; ``type`` is ``llmux_error``. Or
    ``{"type": "error", "error": {"type", "message"}}`` as Anthropic's has it."""
    message = printable(error.message, error.message_limit)
    if shape is Shape.ANTHROPIC:
        return _ENCODER.encode(_AnthropicBody(_AnthropicError(type=anthropic_type(error.status), message=message)))
    return _ENCODER.encode(_Body(_Error(message=message, type="llmux_error", param=error.param, code=error.code)))
