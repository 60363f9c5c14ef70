"""How a case of what clients may send is written down.

Forms of request smuggling go by the names they are known under: CL.TE is a request whose length one server takes from
Content-Length and the next from Transfer-Encoding, and so on.

Each case is followed by one more, good request on the same connection. After a refusal nothing may be read, so that one
must not be answered.
"""

from __future__ import annotations

from dataclasses import dataclass

# A request that would be read if a body ended too early.
HIDDEN = b"GET /upstream/m/hidden HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass(frozen=True)
class Message:
    """A request as both llmux and its backend must read it. `fields` are among its header fields, `absent` are not."""

    method: str = "POST"
    target: str = "/x"
    body: bytes = b""
    fields: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """`status`: it is refused with that, and closed. Else `messages` are read; `closes`: the connection ends after
    them; `unfinished`: what is left waits for more, and is no request when that never comes."""

    name: str
    why: str
    wire: bytes
    rows: tuple[int, ...]
    status: int = 0
    messages: tuple[Message, ...] = ()
    closes: bool = False
    unfinished: bool = False


def post(
    *lines: bytes, body: bytes = b"", host: bytes = b"Host: a", start: bytes = b"POST /upstream/m/x HTTP/1.1"
) -> bytes:
    return b"\r\n".join([start, host, *lines]) + b"\r\n\r\n" + body


def line(start: bytes) -> bytes:
    """Nothing wrong but, perhaps, the request line."""
    return start + b"\r\nHost: a\r\n\r\n"


def field(raw: bytes) -> bytes:
    """Nothing wrong but, perhaps, one header line."""
    return b"GET /upstream/m/x HTTP/1.1\r\nHost: a\r\n" + raw + b"\r\n\r\n"


def length(value: bytes, body: bytes = b"hello") -> bytes:
    return post(b"Content-Length: " + value, body=body)


def coding(raw: bytes, body: bytes = b"5\r\nhello\r\n0\r\n\r\n") -> bytes:
    return post(raw, body=body)


def chunks(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def bad(name: str, why: str, wire: bytes, *rows: int, status: int = 400) -> Case:
    return Case(name, why, wire, rows, status=status)


def good(name: str, why: str, wire: bytes, *rows: int, message: Message, closes: bool = False) -> Case:
    return Case(name, why, wire, rows, messages=(message,), closes=closes)


def short(name: str, why: str, wire: bytes, *rows: int) -> Case:
    return Case(name, why, wire, rows, unfinished=True)


GET = Message("GET")
HELLO = Message(body=b"hello", fields=(("content-length", "5"),), absent=("transfer-encoding",))
EMPTY = Message()
