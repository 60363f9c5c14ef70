"""The one place that turns an `LlmuxError` into bytes for a client; `llmux.wire.sse` puts them into event streams.

Pure. May import errors only. It never puts raw control characters, or more than `LlmuxError.message_limit` characters,
into what it makes: a message ends up in terminals and logs, and may repeat what came from a client.
"""

from __future__ import annotations

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


def error_body(error: LlmuxError) -> bytes:
    """``{"error": {"message", "type", "param", "code"}}`` as OpenAI's API has it; ``type`` is ``llmux_error``."""
    message = printable(error.message, error.message_limit)
    return _ENCODER.encode(_Body(_Error(message=message, type="llmux_error", param=error.param, code=error.code)))
