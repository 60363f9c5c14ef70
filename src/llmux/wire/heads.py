"""Heads as llmux writes them: never the bytes that came, always made anew from what was understood.

Pure. The one place that decides which framing and connection fields go out, to backends and to clients.
"""

from __future__ import annotations

from typing import Final

from llmux.errors import LlmuxError
from llmux.wire.errors import Shape, error_body
from llmux.wire.headers import forwarded_by_proxy
from llmux.wire.request import Request
from llmux.wire.response import CHUNKED, UNTIL_CLOSE, ResponseReader

EVENT_STREAM: Final = (
    b"Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
)
"""Header lines of a stream that llmux begins. The last one keeps nginx from collecting what should arrive at once."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_REASONS: Final = {
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
# Control characters that llhttp lets a reason phrase have, though RFC 9112, section 4, does not.
_NOT_IN_REASON: Final = bytes(range(9)) + bytes(range(10, 32)) + b"\x7f"


def request_head(
    request: Request, *, base: bytes, path: bytes, host: bytes, forwarded: bytes, trusted: bool = False
) -> bytes:
    """The head of `request` for a backend called `host` whose paths begin with `base`.

    `path` takes the place of the request's own. `forwarded` is header lines about the client, each with its CR LF; the
    host that it asked for is added to them. What the client itself says of who asks counts only if it is `trusted`.
    """
    if request.host:
        forwarded += b"X-Forwarded-Host: " + request.host + b"\r\n"
    if trusted and request.forwarded:
        forwarded = forwarded_by_proxy(forwarded, request.forwarded)
    lines = [
        request.method + b" " + base + path + request.query + b" HTTP/1.1\r\nHost: " + host,
        *request.lines,
        forwarded,
    ]
    end = b"Content-Length: %d\r\n\r\n" % len(request.body) if request.framed else b"\r\n"
    return b"\r\n".join(lines) + end


def response_head(response: ResponseReader, *, http11: bool, keep_alive: bool, fields: bytes = b"") -> bytes:
    """The head of a backend's response for a client, and what becomes of its connection.

    `keep_alive` must be False where the body ends with the connection: see `ends_with_connection`. `fields` are header
    lines of llmux's own, each with its CR LF.
    """
    reason = response.reason
    if reason != b"OK":
        reason = reason.translate(None, _NOT_IN_REASON)
    lines = [b"HTTP/1.1 %d %b" % (response.status, reason), *response.lines]
    if response.framing == CHUNKED:
        if http11:
            lines.append(b"Transfer-Encoding: chunked")
    elif response.content_length is not None:
        lines.append(b"Content-Length: " + response.content_length)
    lines.append(fields + _end(http11=http11, keep_alive=keep_alive))
    return b"\r\n".join(lines)


def ends_with_connection(response: ResponseReader, *, http11: bool) -> bool:
    """Does only the end of the connection tell the client where this body ends?"""
    return response.framing == UNTIL_CLOSE or (response.framing == CHUNKED and not http11)


def empty_response(fields: bytes, *, http11: bool, keep_alive: bool) -> bytes:
    """A whole response, 204, that says what its header lines say; each has its CR LF."""
    return b"HTTP/1.1 204 No Content\r\n" + fields + _end(http11=http11, keep_alive=keep_alive)


def event_stream_head(*, http11: bool, keep_alive: bool, fields: bytes = b"") -> bytes:
    """The head of a stream of server-sent events that llmux begins itself; chunked, or ended by the connection's end.

    `fields` are more header lines, each with its CR LF.
    """
    framing = b"Transfer-Encoding: chunked\r\n" if http11 else b""
    return b"HTTP/1.1 200 OK\r\n" + EVENT_STREAM + framing + fields + _end(http11=http11, keep_alive=keep_alive)


def error_response(
    error: LlmuxError,
    *,
    http11: bool = True,
    keep_alive: bool = False,
    to_head: bool = False,
    fields: bytes = b"",
    shape: Shape = Shape.OPENAI,
) -> bytes:
    """A whole response that tells a client of `error`, in the `shape` that it knows; without its body in answer to a
    HEAD request.

    `fields` are more header lines, each with its CR LF.
    """
    body = error_body(error, shape)
    lines = [
        b"HTTP/1.1 %d %b\r\n" % (error.status, _REASONS.get(error.status, b"Error")),
        b"Content-Type: application/json\r\n",
        b"Content-Length: %d\r\n" % len(body),
    ]
    if error.retry_after is not None:
        lines.append(b"Retry-After: %d\r\n" % error.retry_after)
    if error.unwanted:
        lines.append(b"x-should-retry: false\r\n")  # the official clients try a 503 again by themselves, unless told so
    if error.status == 401:
        lines.append(b"WWW-Authenticate: Bearer\r\n")  # RFC 9110, section 15.5.2, wants a challenge
    lines.append(fields + _end(http11=http11, keep_alive=keep_alive))
    if not to_head:
        lines.append(body)
    return b"".join(lines)


def _end(*, http11: bool, keep_alive: bool) -> bytes:
    if not keep_alive:
        return b"Connection: close\r\n\r\n"
    return b"\r\n" if http11 else b"Connection: keep-alive\r\n\r\n"
