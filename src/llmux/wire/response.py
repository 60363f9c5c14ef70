"""Responses out of a backend's bytes: the head parsed, the body bounded and handed on as it came.

Pure. llhttp (through httptools) judges heads and chunk framing; a head that it has let pass is cut at CR LF and the
first colon. Bodies with a length are only counted. A chunked body is checked and relayed raw, trailers and all, or
decoded for clients that know no chunks. Bytes past the end are never part of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple

from httptools import HttpParserError, HttpResponseParser

from llmux.errors import BackendError
from llmux.wire.framing import HeadReader, Parser, cut
from llmux.wire.headers import (
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    FORWARD,
    PLAIN_OPTIONS,
    RESPONSE_FIELDS,
    TRANSFER_ENCODING,
    connection_options,
    without,
)
from llmux.wire.known import Key, Known

MAX_HEAD_BYTES = 256 * 1024
"""Of a response's head, and of all interim responses before it. What comes after it is handed on, not kept, so it
needs no bound."""

MAX_LONE_CHUNK: Final = 4096
"""Bytes of the chunks, framing included, that are recognized by beginning and end; see `ResponseReader.is_chunk`."""


# What tells where the body ends. Plain ints, as they are compared for every piece of it.
NONE: Final = 0
LENGTH: Final = 1
CHUNKED: Final = 2
UNTIL_CLOSE: Final = 3


class _Known(NamedTuple):
    """The head of a response whose body has a length."""

    status: int
    reason: bytes
    lines: Sequence[bytes]
    event_stream: bool
    reusable: bool


_KNOWN: Final[Known[_Known]] = Known()


class ResponseReader(HeadReader):
    """Feed it what a backend sends in answer to one request.

    Interim responses (1xx) are dropped. A chunked body is handed on with its framing.

    A stream's chunks come one at a time, and most of them are as long as some chunk before them. So the size line that
    llhttp has let pass for a chunk is remembered by the whole chunk's length, and what begins with it and ends as a
    chunk does needs no parser. With what `Exchange.chunk_came` leaves out, all that a chunk takes beside system calls
    and the event loop is 0.9 µs instead of 4 to 5, of 30 to 40 in all.

    Attributes:
        started: some byte has come.
        head_done: status, reason, lines and framing are known.
        lines: the end-to-end header fields, each ``name: value``, in order.
        framing: NONE, LENGTH, CHUNKED or UNTIL_CLOSE.
        content_length: the field's value, as it came.
        event_stream: the content is server-sent events.
        complete: the body is whole too.
        reusable: the connection may carry another request, once complete.
    """

    __slots__ = (
        "_between",
        "_chunks",
        "_in_chunk",
        "_interim",
        "_remaining",
        "_to_head",
        "complete",
        "content_length",
        "event_stream",
        "framing",
        "head_done",
        "lines",
        "reason",
        "reusable",
        "started",
        "status",
    )

    _RAW: ClassVar[bool] = True
    _lone_chunks: ClassVar[dict[int, bytes]] = {}
    """Size lines that llhttp has let pass, by the bytes of the whole chunk. At most `MAX_LONE_CHUNK`."""

    def __init__(self, *, to_head: bool) -> None:
        self._to_head = to_head
        self._expect_head()
        self._between = False  # the next byte begins a chunk
        self._chunks = 0  # that have begun
        self._interim = 0
        self._remaining = 0
        self._in_chunk = False
        self.started = False
        self.head_done = False
        self.complete = False
        self.reusable = False
        self.status = 0
        self.reason = b""
        self.lines: Sequence[bytes] = ()
        self.content_length: bytes | None = None
        self.event_stream = False
        self.framing: int = NONE

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take in `data`: the bytes to hand on to the client, and those past the end of the response.

        Raises:
            BackendError: this is not HTTP. The reader must not be fed again.
        """
        self.started = True
        if not self.head_done:
            while data and not self.head_done:
                data = self._feed_head(data)
            if self.complete or not data:
                return b"", data
        if self.framing == CHUNKED:
            return self._feed_chunked(data)
        if self.framing == UNTIL_CLOSE:
            return data, b""
        self._remaining -= len(data)
        if self._remaining > 0:
            return data, b""
        self._end()
        if self._remaining == 0:
            return data, b""
        end = self._remaining
        return data[:end], data[end:]

    def is_chunk(self, data: bytes) -> bool:
        """Is it clear at a glance that `data` is one chunk, and not the last? Then it is handed on, not fed."""
        if not self._between:
            return False
        beginning = self._lone_chunks.get(len(data))
        return beginning is not None and data.startswith(beginning) and data.endswith(b"\r\n")

    def end_of_file(self) -> bool:
        """The backend will send no more: is the response whole?"""
        if self.head_done and self.framing == UNTIL_CLOSE:
            self._end()
        return self.complete

    def between_chunks(self, relayed: bytes) -> bool:
        """Could another chunk follow `relayed`, which is the end of what was handed on of a chunked body?"""
        # A chunk's size line that is not whole yet does not end in CR LF, and a whole one begins a chunk.
        return self.framing == CHUNKED and not self._in_chunk and relayed.endswith(b"\r\n")

    # --- heads ----------------------------------------------------------------------------------------------------

    def _new_parser(self) -> Parser:
        return HttpResponseParser(self)

    def _head_room(self) -> int:
        return MAX_HEAD_BYTES - self._interim

    def _too_large(self) -> BackendError:
        return BackendError(f"the backend's response head is larger than {MAX_HEAD_BYTES} bytes")

    def _malformed(self, error: HttpParserError) -> BackendError:
        return BackendError(f"the backend's response is malformed: {error}")

    def _switching(self) -> None:
        raise BackendError("the backend switched protocols unasked")

    def _recall(self, key: Key, length: bytes) -> bool:
        known = _KNOWN.get(key)
        if known is None or self._to_head:
            return False
        self.status, self.reason, self.lines, self.event_stream, self.reusable = known
        self.content_length = length
        self.framing = LENGTH
        self._remaining = int(length)
        self.head_done = True
        if not self._remaining:
            self._end()
        return True

    def _remember(self, key: Key, length: bytes) -> None:
        if self.head_done and self.framing == LENGTH and self.content_length == length:
            known = _Known(self.status, self.reason, self.lines, self.event_stream, self.reusable)
            _KNOWN.remember(key, known)

    def _end_head(self, head: bytes) -> None:
        lines = head.lstrip(b"\r\n").split(b"\r\n")
        http11 = self._status_line(lines[0])
        if self.status == 101:
            self._switching()
        if self.status < 200:  # an interim response
            self._interim += len(head)
            self._expect_head()
            return
        self.head_done = True
        kept: list[bytes] = []
        connection = transfer_encoding = None
        for line in lines[1:-2]:
            name, _, value = line.partition(b":")
            kind = RESPONSE_FIELDS[name]
            if kind == FORWARD:
                kept.append(line)
            elif kind == CONTENT_LENGTH:
                self.content_length = value.strip()
            elif kind == CONTENT_TYPE:
                kept.append(line)
                self.event_stream = value.lstrip()[:17].lower() == b"text/event-stream"
            elif kind == TRANSFER_ENCODING:
                transfer_encoding = value if transfer_encoding is None else transfer_encoding + b"," + value
            elif kind == CONNECTION:
                connection = value if connection is None else connection + b"," + value
        keep_alive = http11
        if connection is not None:
            options = connection_options(connection)
            if not options <= PLAIN_OPTIONS:
                kept = without(kept, options)
            keep_alive = b"close" not in options and (http11 or b"keep-alive" in options)
        self.lines = tuple(kept)  # all responses with the same head share them
        self._set_framing(http11, transfer_encoding)
        self.reusable = keep_alive and self.framing != UNTIL_CLOSE
        if self.framing == NONE or (self.framing == LENGTH and not self._remaining):
            self._end()
        elif self.framing != CHUNKED:
            self._parser = None  # it has nothing more to read, and holds on to this reader

    def _status_line(self, line: bytes) -> bool:
        """Reads status and reason; is it HTTP/1.1, else 1.0?"""
        version, status, space = line[:9], line[9:12], line[12:13]
        if version not in (b"HTTP/1.1 ", b"HTTP/1.0 ") or not status.isdigit() or space not in (b" ", b""):
            raise BackendError("the backend's response is malformed: it begins with no status line of HTTP/1")
        self.status = int(status)
        if self.status < 100:
            raise BackendError("the backend's response is malformed: there is no such status")
        self.reason = line[13:]
        return version == b"HTTP/1.1 "

    def _set_framing(self, http11: bool, transfer_encoding: bytes | None) -> None:
        """RFC 9112, section 6.3."""
        if self._to_head or self.status in (204, 304):
            if self.status == 204:
                self.content_length = None
        elif transfer_encoding is not None:
            if not http11 or transfer_encoding.strip().lower() != b"chunked":
                raise BackendError("the backend's response has a transfer coding other than chunked")
            self.framing = CHUNKED
        elif self.content_length is not None:
            self.framing = LENGTH
            self._remaining = int(self.content_length)
        else:
            self.framing = UNTIL_CLOSE

    # --- bodies ---------------------------------------------------------------------------------------------------

    def _feed_chunked(self, data: bytes) -> tuple[bytes, bytes]:
        before, chunks = self._between, self._chunks
        at = 0
        while at < len(data) and not self.complete:
            end, self._tail = cut(self._tail, data, at)
            self._parse(data[at:end])
            at = end
        self._between = self._RAW and not self._in_chunk and not self.complete and data.endswith(b"\r\n")
        if before and self._between and self._chunks == chunks + 1 and at <= MAX_LONE_CHUNK:
            self._lone_chunks[at] = data[: data.find(b"\r\n") + 2]
        return self._decoded(data[:at]), data[at:]

    def _decoded(self, chunks: bytes) -> bytes:
        return chunks

    def _end(self) -> None:
        self.complete = True
        self._parser = None  # and with it the cycle of references

    # --- callbacks of httptools -----------------------------------------------------------------------------------

    def on_chunk_header(self) -> None:
        self._in_chunk = True
        self._chunks += 1

    def on_chunk_complete(self) -> None:
        self._in_chunk = False

    def on_message_complete(self) -> None:
        if self.framing == CHUNKED:
            self._end()


class DecodingResponseReader(ResponseReader):
    """Hands on the content of a chunked body without its framing, for clients that speak HTTP/1.0."""

    __slots__ = ("_pieces",)

    _RAW = False

    def __init__(self, *, to_head: bool) -> None:
        super().__init__(to_head=to_head)
        self._pieces: list[bytes] = []

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def _decoded(self, chunks: bytes) -> bytes:
        content = b"".join(self._pieces)
        self._pieces.clear()
        return content
