"""What llmux itself says in an event stream: that a request still waits, and that it has failed.

Pure. The format is the HTML standard's, section 9.2 "Server-sent events": a line that begins with a colon is a comment,
which every client skips. A failure is told as the API that the stream belongs to tells of one, so that its clients
raise their own error.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from llmux.errors import LlmuxError
from llmux.messages import Prospects
from llmux.wire.errors import ANTHROPIC_TYPES, anthropic_type, error_body, printable

MAX_FAILURE_BYTES: Final = 64 * 1024
"""Of a backend's own words about a failure, what is read before it is put into an event."""


class Dialect(enum.Enum):
    """How an API tells of a failure amid a stream."""

    OPENAI = enum.auto()  # chat completions and completions, and llama.cpp's own
    RESPONSES = enum.auto()  # OpenAI's Responses API
    ANTHROPIC = enum.auto()  # Messages


_STREAMS: Final[Mapping[bytes, Dialect]] = {
    b"/completions": Dialect.OPENAI,
    b"/completion": Dialect.OPENAI,
    b"/infill": Dialect.OPENAI,
    b"/responses": Dialect.RESPONSES,
    b"/messages": Dialect.ANTHROPIC,
}


def dialect_of(path: bytes) -> Dialect | None:
    """The API that a request for `path` speaks; None where it is not known that `"stream": true` means server-sent
    events there. With Ollama's own routes it means lines of JSON, in which there are no comments."""
    return _STREAMS.get(path[path.rfind(b"/") :])


# --- comments -------------------------------------------------------------------------------------------------------


def still_waiting(model: str, ahead: int, seconds: float, prospects: Prospects) -> bytes:
    """A comment: how many requests for `model` will be served before this one, and in about how many `seconds` it will
    be its turn; 0: nobody can tell. Where there is no such number, and where it is but a bound, it says what the
    request waits for, as far as `prospects` tell."""
    about = f"about {_rounded(seconds, up=prospects.at_most)}"
    why = f": {printable(prospects.why, 250)}" if prospects.why else ""
    if prospects.held:
        when = f", held: {printable(prospects.held, 250)}"
    elif seconds <= 0:
        when = why
    elif prospects.at_most:
        when = f", at most {about}{why}"
    else:
        when = f", {about}"
    return f": waiting for {printable(model, 200)}, {ahead} ahead{when}\n\n".encode()


def waited(fields: bytes) -> bytes:
    """A comment with the header lines `fields`, each with its CR LF, that a stream's head came too early for."""
    lines = fields.split(b"\r\n")[:-1]
    return b"".join([b": " + line + b"\n" for line in lines]) + b"\n"


def _rounded(seconds: float, *, up: bool) -> str:
    """No more exact than a guess is; a bound is rounded `up`."""
    to_whole = math.ceil if up else round
    if seconds < 90:
        return f"{max(1, to_whole(seconds))} s"
    return f"{to_whole(seconds / 60)} min"


# --- failures -------------------------------------------------------------------------------------------------------


def sse_error(error: LlmuxError, dialect: Dialect = Dialect.OPENAI) -> bytes:
    """One event that tells of `error`, for a stream that is already under way."""
    if dialect is Dialect.OPENAI:
        return b"data: " + error_body(error) + b"\n\n"
    told = {"message": printable(error.message), "type": "llmux_error", "param": error.param, "code": error.code}
    return _event(dialect, error.status, told)


def backend_error(dialect: Dialect, status: int, body: bytes) -> bytes | None:
    """One event that tells what a backend answered with `status`, an error, and `body`, as far as it was read. None if
    there are no words for it in there."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    error = said.get("error", said) if isinstance(said, dict) else said
    if isinstance(error, str):
        error = {"message": error}
    elif isinstance(error, dict) and "message" not in error and "detail" in error:  # FastAPI's own
        detail = error["detail"]
        error = {"message": detail if isinstance(detail, str) else msgspec.json.encode(detail).decode()}
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    return _event(dialect, status, error)


def _event(dialect: Dialect, status: int, error: dict[str, Any]) -> bytes:
    if dialect is Dialect.OPENAI:
        return b"data: " + _encode({"error": error}) + b"\n\n"
    if dialect is Dialect.RESPONSES:
        # The reference has the fields side by side, the service nests them too, and the official client raises on that.
        message, code, param = error["message"], error.get("code"), error.get("param")
        data = {"type": "error", "sequence_number": 0, "code": code, "message": message, "param": param, "error": error}
    else:
        kind = error.get("type")
        kind = kind if kind in ANTHROPIC_TYPES.values() else anthropic_type(status)
        data = {"type": "error", "error": {"type": kind, "message": error["message"]}}
    return b"event: error\ndata: " + _encode(data) + b"\n\n"


_encode = msgspec.json.Encoder().encode  # in one line, as the data of an event must be
