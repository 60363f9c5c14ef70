"""Requests out of bytes: whole, one at a time, whatever way they arrive."""

from __future__ import annotations

from dataclasses import dataclass

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux.errors import BadRequestError, BodyTooLargeError, HeadersTooLargeError, LlmuxError
from llmux.wire.heads import request_head
from llmux.wire.request import Request, RequestReader
from tests.wire.messages import FIELDS, Body, Copied, framed, splits


def reader(max_head: int = 8192, max_body: int = 1 << 20) -> RequestReader:
    return RequestReader(max_head_bytes=max_head, max_body_bytes=max_body)


def read(pieces: list[bytes]) -> list[Request]:
    """All requests in `pieces`, which must end with one."""
    requests, reading = [], reader()
    for piece in pieces:
        while piece:
            piece = reading.feed(piece)  # noqa: PLW2901  (it goes round until nothing is left of it)
            if reading.complete:
                requests.append(reading.request)
                reading.reset()
    assert not reading.started
    return requests


@dataclass(frozen=True)
class Sent:
    method: str
    target: str
    fields: list[tuple[str, bytes]]
    body: Body | None

    @property
    def wire(self) -> bytes:
        fields = b"".join(b"%b:%b\r\n" % (name.encode(), b" " + value) for name, value in self.fields)
        body = (self.body.fields + b"\r\n" + self.body.wire) if self.body else b"\r\n"
        return b"%b %b HTTP/1.1\r\nHost: a\r\n%b%b" % (self.method.encode(), self.target.encode(), fields, body)


REQUESTS = st.lists(
    st.builds(
        Sent,
        method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"]),
        target=st.sampled_from(["/", "/v1/x?a=b", "/a%20b/", "/?", "//x"]),
        fields=FIELDS,
        body=st.one_of(st.none(), framed()),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.fault(3)
@given(st.data(), REQUESTS)
def test_requests_survive_any_split(data: st.DataObject, sent: list[Sent]) -> None:
    got = read(data.draw(splits(b"".join(request.wire for request in sent))))
    assert len(got) == len(sent)
    for request, original in zip(got, sent, strict=True):
        assert request.method.decode() == original.method
        assert (request.path + request.query).decode() == original.target
        assert list(request.lines) == [b"%b: %b" % (name.encode(), value) for name, value in original.fields]
        assert request.framed == (original.body is not None)
        assert bytes(request.body) == (original.body.content if original.body else b"")
        assert request.host == b"a"


@pytest.mark.fault(2, 3)
@given(st.data(), REQUESTS)
def test_a_forwarded_request_is_one_message_and_the_same(data: st.DataObject, sent: list[Sent]) -> None:
    for request in read(data.draw(splits(b"".join(original.wire for original in sent)))):
        head = request_head(
            request, base=b"/base", path=request.path, host=b"backend:1", forwarded=b"X-Forwarded-For: c\r\n"
        )
        backend = h11.Connection(h11.SERVER)
        backend.receive_data(head + bytes(request.body))
        event = backend.next_event()
        assert isinstance(event, h11.Request)
        assert event.target == b"/base" + request.path + request.query
        assert [value for name, value in event.headers if name == b"host"] == [b"backend:1"]
        own = [(n, v) for n, v in event.headers if n.startswith(b"x-t-")]
        parts = [line.partition(b":") for line in request.lines]
        assert own == [(name.lower(), value.strip()) for name, _, value in parts]
        body = bytearray()
        while not isinstance(event := backend.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data)
            body += event.data
        assert body == request.body
        assert backend.trailing_data == (b"", False), "exactly one message"


@pytest.mark.fault(1, 3)
@given(st.data(), REQUESTS)
def test_damaged_requests_are_refused_or_read_but_never_break(data: st.DataObject, sent: list[Sent]) -> None:
    wire = bytearray(b"".join(original.wire for original in sent))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(wire)))
        how = data.draw(st.sampled_from(["change", "insert", "delete", "repeat"]))
        junk = data.draw(
            st.one_of(st.binary(min_size=1, max_size=3), st.sampled_from([b"\r\n", b"\n", b" ", b":", b"\0"]))
        )
        if how == "change":
            wire[at : at + len(junk)] = junk
        elif how == "insert":
            wire[at:at] = junk
        elif how == "delete":
            del wire[at : at + 2]
        else:
            wire[at:at] = wire[at : at + 20]
    outcomes = []
    for pieces in ([bytes(wire)], data.draw(splits(bytes(wire)))):
        requests: list[tuple[bytes, ...]] = []
        reading = reader()
        error: str | None = None
        try:
            for piece in pieces:
                while piece:
                    piece = reading.feed(piece)  # noqa: PLW2901  (as above)
                    if reading.complete:
                        got = reading.request
                        requests.append((got.method, got.path, got.query, *got.lines, bytes(got.body)))
                        reading.reset()
        except LlmuxError as refused:
            error = type(refused).__name__
        outcomes.append((requests, error))
    assert outcomes[0] == outcomes[1], "how it arrives must not matter"


@pytest.mark.fault(4)
def test_what_is_left_is_never_touched() -> None:
    first = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n"
    for rest in (b"GARBAGE\n\n", b"\r\n\r\nGET / HTTP/1.1\r\n", b"x"):
        reading = reader()
        assert reading.feed(first + rest) == rest
        assert reading.complete
        assert reading.request.body == b"\r\n\r\n"
        assert reading.feed(rest) == rest, "nothing more is taken until it is reset"
        chunked = reader()
        wire = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n\r\n\r\n\r\n\r\n0\r\n\r\n"
        assert chunked.feed(wire + rest) == rest
        assert chunked.request.body == b"\r\n\r\n\r\n"


def test_white_space_before_a_request_is_skipped() -> None:
    (request,) = read([b"\r\n\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n"])
    assert request.path == b"/x"


def test_the_version_is_that_of_the_request_line() -> None:
    (request,) = read([b"GET / HTTP/1.0\r\n", b"X: y HTTP/1.1\r\n\r\n"])
    assert not request.http11
    assert not request.keep_alive
    with pytest.raises(BadRequestError, match=r"HTTP/1\.0"):
        reader().feed(b"GET / HTTP/2.0\r\nX: y HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: x, CLOSE\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nconnection:close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_keep_alive(version: bytes, connection: bytes, keep_alive: bool) -> None:
    (request,) = read([b"GET / HTTP/%b\r\nHost: a\r\n%b\r\n" % (version, connection)])
    assert request.keep_alive is keep_alive


@pytest.mark.fault(10, 11)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_bounds_do_not_depend_on_how_it_arrives(step: int) -> None:
    def feed(reading: RequestReader, wire: bytes) -> None:
        for at in range(0, len(wire), step):
            reading.feed(wire[at : at + step])

    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100 + b"\r\n\r\n"
    feed(reader(max_head=len(head)), head)
    with pytest.raises(HeadersTooLargeError):
        feed(reader(max_head=len(head) - 1), head)
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3\r\nabc\r\n" * 4
    feed(reader(max_body=12), chunked)
    with pytest.raises(BodyTooLargeError):
        feed(reader(max_body=11), chunked)


def test_a_body_that_comes_in_pieces_is_kept_once() -> None:
    reading = reader(max_body=10_000_000)
    reading.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
    for _ in range(30):
        assert reading.in_body
        reading.feed(b"x" * 100_000)
    assert reading.complete
    assert isinstance(reading.request.body, bytearray)
    assert len(reading.request.body) == 3_000_000


def test_a_chunk_full_of_empty_lines_is_not_copied_again_for_each() -> None:
    reading = reader(max_body=1 << 20)
    reading.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    body = Copied(b"10000\r\n" + b"\r\n" * 0x8000 + b"\r\n0\r\n\r\nrest")
    Copied.total = 0
    assert reading.feed(body) == b"rest"
    assert reading.complete
    assert len(reading.request.body) == 0x10000
    assert Copied.total < 3 * len(body)


def test_empty_lines_before_a_request_are_not_copied_again_for_each() -> None:
    reading = reader(max_head=1 << 18)
    many = Copied(b"\r\n" * 0x8000 + b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest")
    Copied.total = 0
    assert reading.feed(many) == b"rest"
    assert (reading.complete, reading.request.path) == (True, b"/")
    assert Copied.total < 3 * len(many)
