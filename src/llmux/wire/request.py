"""Requests out of a client's bytes, one at a time: strict, bounded, and without I/O.

Pure. llhttp (through httptools) judges heads and decodes chunked bodies. It is strict, and a head that it has let
pass is so regular that cutting it at CR LF and at the first colon cannot be misled. What it leaves open (Host, the
target's form, the version, sizes, transfer codings, what `Connection` nominates) is decided here. Trailers are dropped.
Nothing after the end of a request, and nothing after an error, is ever parsed as part of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from httptools import HttpParserError, HttpRequestParser

from llmux.errors import (
    BadRequestError,
    BodyTooLargeError,
    HeadersTooLargeError,
    NotImplementedOnWireError,
)
from llmux.wire.framing import HeadReader, Parser, cut
from llmux.wire.headers import (
    BROWSER,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    CREDENTIAL,
    EXPECT,
    FORWARD,
    FORWARDED,
    HOST,
    PLAIN_OPTIONS,
    PRIORITY,
    REQUEST_FIELDS,
    TRANSFER_ENCODING,
    connection_options,
    without,
)
from llmux.wire.known import Key, Known
from llmux.wire.websocket import handshake_key

_BLANK: Final = 0x20  # no method begins with it, or what is below
_CHUNK_OVERHEAD: Final = 16  # bytes of framing for each of content that are not counted
# A host and port (RFC 9110, section 7.2; RFC 3986, section 3.2.2): unreserved, percent-encoded and sub-delims, or an IP
# literal. An empty one is for requests that have no authority.
_HOST: Final = re.compile(rb"(?:[\w.~%!$&'()*+,;=-]++|\[[\w.~%!$&'()*+,;=:-]++\])(?::[0-9]*+)?+|", re.ASCII)


class Request:
    """A whole request, as its backend needs it.

    Attributes:
        method: as sent.
        path: of the target, not decoded, without the query.
        query: with its question mark, or empty.
        lines: the end-to-end header fields, each ``name: value``, in order.
        credentials: those of them that may show a key.
        browser: those of them that only browsers send.
        host: what the client asked for: the authority of an absolute target, else the Host field.
        priority: the value of ``x-llmux-priority``, if it is there; not among `lines`.
        forwarded: the client's X-Forwarded-* fields, each ``name: value``; not among `lines`.
        http11: whether the client speaks HTTP/1.1, else 1.0.
        keep_alive: whether the client wants the connection to stay open.
        framed: whether the client declared a body, be it an empty one.
        body: decoded of its transfer coding, nothing else.
        websocket: the key of a WebSocket's handshake; None for any other request.
    """

    __slots__ = (
        "body",
        "browser",
        "content_encoding",
        "content_type",
        "credentials",
        "forwarded",
        "framed",
        "host",
        "http11",
        "keep_alive",
        "lines",
        "method",
        "path",
        "priority",
        "query",
        "websocket",
    )

    def __init__(self) -> None:
        self.method = b""
        self.path = b""
        self.query = b""
        self.lines: Sequence[bytes] = ()
        self.credentials: tuple[bytes, ...] = ()
        self.browser: tuple[bytes, ...] = ()
        self.host = b""
        self.forwarded: tuple[bytes, ...] = ()
        self.priority: bytes | None = None
        self.content_type: bytes | None = None
        self.content_encoding: bytes | None = None
        self.http11 = True
        self.keep_alive = True
        self.framed = False
        self.body: bytes | bytearray = b""
        self.websocket: bytes | None = None

    def take_head(self, other: Request) -> None:
        """Have the same head as `other`."""
        self.method = other.method
        self.path = other.path
        self.query = other.query
        self.lines = other.lines
        self.credentials = other.credentials
        self.browser = other.browser
        self.host = other.host
        self.forwarded = other.forwarded
        self.priority = other.priority
        self.content_type = other.content_type
        self.content_encoding = other.content_encoding
        self.http11 = other.http11
        self.keep_alive = other.keep_alive
        self.framed = other.framed
        self.websocket = other.websocket


_KNOWN: Final[Known[Request]] = Known()


class RequestReader(HeadReader):
    """Feed it what a client sends; it stops at the end of each request.

    Attributes:
        request: the request being read.
        started: some of it, or of the white space before it, has come.
        in_body: its head is whole and its body is not.
        complete: it is whole. `reset` makes ready for the next.
        expects_continue: the client waits for ``100 Continue`` before it sends the body.
    """

    __slots__ = (
        "_chunked",
        "_host",
        "_length",
        "_max_body",
        "_max_head",
        "_overhead",
        "_switches",
        "complete",
        "expects_continue",
        "in_body",
        "request",
        "started",
    )

    def __init__(self, *, max_head_bytes: int, max_body_bytes: int) -> None:
        self.set_limits(max_head_bytes=max_head_bytes, max_body_bytes=max_body_bytes)
        self._host = b""  # the last one that was looked at: on a connection, it is nearly always the same
        self.reset()

    def set_limits(self, *, max_head_bytes: int, max_body_bytes: int) -> None:
        """What a head and a body may have at most, in bytes."""
        self._max_head = max_head_bytes
        self._max_body = max_body_bytes

    def reset(self) -> None:
        """Forget the current request and get ready for the next one."""
        self.request = Request()
        self.started = False
        self.in_body = False
        self.complete = False
        self.expects_continue = False
        self._expect_head()
        self._chunked = False
        self._length = 0
        self._overhead = 0
        self._switches = False

    @property
    def held(self) -> int:
        """How many bytes of the current request are in memory."""
        return self._head_size + len(self.request.body)

    def feed(self, data: bytes) -> bytes:
        """Take in `data` up to the end of the current request; returns what is left of it.

        Raises:
            BadRequestError, NotImplementedOnWireError, HeadersTooLargeError, BodyTooLargeError: the rest of the
                client's bytes mean nothing any more. The reader must not be fed again.
        """
        self.started = True
        while data and not self.complete:
            if not self.in_body:
                data = self._feed_head(data)
            elif self._chunked:
                data = self._feed_chunked(data)
            else:
                data = self._feed_length(data)
        return data

    # --- heads ----------------------------------------------------------------------------------------------------

    def _new_parser(self) -> Parser:
        return HttpRequestParser(self)

    def _head_room(self) -> int:
        return self._max_head

    def _too_large(self) -> HeadersTooLargeError:
        return HeadersTooLargeError(f"the request's head is larger than {self._max_head} bytes")

    def _malformed(self, error: HttpParserError) -> BadRequestError:
        return BadRequestError(f"malformed request: {error}")

    def _switching(self) -> None:
        self._switches = True

    def _recall(self, key: Key, length: bytes) -> bool:
        known = _KNOWN.get(key)
        if known is None:
            return False
        self.request.take_head(known)
        self._set_framing(None, length)
        return True

    def _remember(self, key: Key, length: bytes) -> None:
        plain = not (self._chunked or self._switches or self.expects_continue)
        if plain and self._length == int(length):
            known = Request()
            known.take_head(self.request)
            _KNOWN.remember(key, known)

    def _end_head(self, head: bytes) -> None:
        if head[0] <= _BLANK:
            head = _without_empty_lines(head)
        lines = head.split(b"\r\n")
        request = self.request
        if self._switches:
            request.websocket = handshake_key(lines)
        target = self._request_line(lines[0])
        kept: list[bytes] = []
        host = connection = transfer_encoding = length = None
        for line in lines[1:-2]:
            name, _, value = line.partition(b":")
            kind = REQUEST_FIELDS[name]
            if kind == FORWARD:
                kept.append(line)
            elif kind == HOST:
                host = _once(host, value)
            elif kind == CONTENT_LENGTH:
                length = _once(length, value)
            elif kind == CONTENT_TYPE:
                request.content_type = _once(request.content_type, value)
                kept.append(line)
            elif kind == CONNECTION:
                connection = value if connection is None else connection + b"," + value
            elif kind == TRANSFER_ENCODING:
                transfer_encoding = _once(transfer_encoding, value)
            elif kind == CONTENT_ENCODING:
                request.content_encoding = _once(request.content_encoding, value)
                kept.append(line)
            elif kind == CREDENTIAL:
                request.credentials = (*request.credentials, line)
                kept.append(line)
            elif kind == BROWSER:
                request.browser = (*request.browser, line)
                kept.append(line)
            elif kind == EXPECT:  # to be ignored if HTTP/1.0 says it (RFC 9110, section 10.1.1)
                self.expects_continue = request.http11 and value.strip().lower() == b"100-continue"
            elif kind == PRIORITY:
                request.priority = _once(request.priority, value)
            elif kind == FORWARDED:
                request.forwarded += (line,)
        self._set_target(target, host)
        if connection is not None:
            options = connection_options(connection)
            request.keep_alive = b"close" not in options and (request.http11 or b"keep-alive" in options)
            if not options <= PLAIN_OPTIONS:
                kept = without(kept, options)
                request.forwarded = tuple(without(request.forwarded, options))
        request.lines = tuple(kept)  # all requests with the same head share them
        self._set_framing(transfer_encoding, length)

    def _request_line(self, line: bytes) -> bytes:
        parts = line.split()
        version = parts[-1]
        request = self.request
        if version != b"HTTP/1.1":
            if version != b"HTTP/1.0":
                raise BadRequestError("malformed request: only HTTP/1.0 and HTTP/1.1 are spoken here")
            request.http11 = request.keep_alive = False
        request.method = parts[0]
        if request.method == b"TRACE":  # it asks to be sent back what llmux adds and strips: no model has a use for it
            raise NotImplementedOnWireError("TRACE is not supported")
        return parts[1]

    def _set_target(self, target: bytes, host: bytes | None) -> None:
        """RFC 9112, section 3.2: origin-form; of absolute-form, which servers must accept, only path and query."""
        request = self.request
        if host is None:
            if request.http11:
                raise BadRequestError("malformed request: there is no Host field")
        else:
            if host != self._host:
                self._host = _checked_host(host)
            request.host = host
        if not target.startswith(b"/"):
            scheme, separator, rest = target.partition(b"://")
            if not separator or scheme.lower() not in (b"http", b"https"):
                raise BadRequestError("malformed request: the target must be a path")
            at = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
            request.host = _checked_host(rest[:at])
            if not request.host:
                raise BadRequestError("malformed request: the target has no host")
            target = rest[at:] if rest.startswith(b"/", at) else b"/" + rest[at:]
        if b"#" in target:
            raise BadRequestError("malformed request: a target has no fragment")
        path, mark, query = target.partition(b"?")
        request.path = path
        request.query = mark + query

    def _set_framing(self, transfer_encoding: bytes | None, length: bytes | None) -> None:
        request = self.request
        if transfer_encoding is not None:
            if transfer_encoding.lower() != b"chunked":
                raise NotImplementedOnWireError("the only transfer coding supported is chunked")
            if not request.http11:
                raise BadRequestError("malformed request: HTTP/1.0 has no transfer codings")
            self._chunked = request.framed = True
        elif length is not None:
            request.framed = True
            self._length = int(length)  # llhttp has seen to it that it is a number
            if self._length > self._max_body:
                raise BodyTooLargeError(f"the request's body is larger than {self._max_body} bytes")
        if self._chunked or self._length:
            self.in_body = True
        else:
            self.complete = True

    # --- bodies ---------------------------------------------------------------------------------------------------

    def _feed_length(self, data: bytes) -> bytes:
        request = self.request
        missing = self._length - len(request.body)
        piece, rest = (data, b"") if len(data) <= missing else (data[:missing], data[missing:])
        whole = len(piece) == missing
        if whole and not request.body:
            request.body = piece
        else:
            self._append(piece)
        if whole:
            self._end_body()
        return rest

    def _feed_chunked(self, data: bytes) -> bytes:
        at = 0
        while at < len(data) and not self.complete:  # content may be full of empty lines: what is left is not copied
            end, self._tail = cut(self._tail, data, at)
            before = len(self.request.body)
            self._parse(data[at:end])
            size = len(self.request.body)
            if size > self._max_body:
                raise BodyTooLargeError(f"the request's body is larger than {self._max_body} bytes")
            # Chunk sizes, extensions and trailers are read and dropped, but not without end. A chunk of one byte, which
            # is odd but honest, takes five more; what is beyond that counts like a head.
            self._overhead += end - at - (size - before)
            if self._overhead > self._max_head + _CHUNK_OVERHEAD * size:
                raise HeadersTooLargeError("the request's chunk extensions or trailers are too large")
            at = end
        return data[at:]

    def _append(self, piece: bytes) -> None:
        body = self.request.body
        if not isinstance(body, bytearray):
            self.request.body = body = bytearray(body)
        body += piece

    def _end_body(self) -> None:
        self.in_body = False
        self.complete = True

    # --- callbacks of httptools -----------------------------------------------------------------------------------

    def on_body(self, body: bytes) -> None:
        self._append(body)

    def on_message_complete(self) -> None:
        if self._chunked:
            self._end_body()


def _without_empty_lines(head: bytes) -> bytes:
    """RFC 9112, section 2.2: empty lines before a request are skipped. llhttp takes a bare CR or LF for one, too."""
    stripped = head.lstrip(b"\r\n")
    if head[: len(head) - len(stripped)].replace(b"\r\n", b""):
        raise BadRequestError("malformed request: a bare CR or LF before the request line")
    return stripped


def _checked_host(host: bytes) -> bytes:
    """A backend is told of it, and may build links with it."""
    if _HOST.fullmatch(host) is None:
        raise BadRequestError("malformed request: that is no host")
    return host


def _once(before: bytes | None, value: bytes) -> bytes:
    """A field's value, of which there must be one: another would be read by some and not by others."""
    if before is not None:
        raise BadRequestError("malformed request: a field that must be given once is there twice")
    return value.strip()
