"""Responses out of bytes: relayed as they came, ended where they end."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux.errors import BackendError
from llmux.wire.heads import ends_with_connection, response_head
from llmux.wire.response import CHUNKED, UNTIL_CLOSE, DecodingResponseReader, ResponseReader
from tests.wire.messages import FIELDS, Body, Copied, framed, splits


def feed(reading: ResponseReader, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """What was handed on, and what was past the end."""
    handed, excess = bytearray(), bytearray()
    for piece in pieces:
        if reading.complete:
            excess += piece
            continue
        if reading.is_chunk(piece):
            handed += piece
            continue
        body, rest = reading.feed(piece)
        handed += body
        excess += rest
    return bytes(handed), bytes(excess)


INTERIM = st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nX-T-Link: x\r\n\r\n" * 2])
EXCESS = st.sampled_from([b"", b"\r\n", b"x", b"HTTP/1.1 200 OK\r\n\r\n", b"0\r\n\r\n"])


@pytest.mark.fault(32)
@given(st.data(), FIELDS, framed(), INTERIM, EXCESS, st.booleans())
def test_responses_survive_any_split(
    data: st.DataObject, fields: list[tuple[str, bytes]], body: Body, interim: bytes, excess: bytes, decode: bool
) -> None:
    lines = [b"%b: %b" % (name.encode(), value) for name, value in fields]
    head = b"HTTP/1.1 200 Fine\r\n" + b"".join(line + b"\r\n" for line in lines) + body.fields + b"\r\n"
    reading = (DecodingResponseReader if decode else ResponseReader)(to_head=False)
    handed, rest = feed(reading, data.draw(splits(interim + head + body.wire + excess)))
    assert reading.complete
    assert (reading.status, reading.reason, list(reading.lines)) == (200, b"Fine", lines)
    assert handed == (body.content if decode else body.wire)
    assert rest == excess
    assert reading.reusable

    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    ends = ends_with_connection(reading, http11=not decode)
    client.receive_data(response_head(reading, http11=not decode, keep_alive=not ends) + handed)
    if ends:
        client.receive_data(b"")
    event = client.next_event()
    assert isinstance(event, h11.Response)
    assert [(n, v) for n, v in event.headers if n.startswith(b"x-t-")] == [
        (name.lower().encode(), value) for name, value in fields
    ]
    content = bytearray()
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        content += event.data
    assert content == body.content


@pytest.mark.fault(32)
@given(st.data(), framed())
def test_damaged_responses_are_refused_or_read_but_never_break(data: st.DataObject, body: Body) -> None:
    wire = bytearray(b"HTTP/1.1 200 OK\r\nX-T-A: b\r\n" + body.fields + b"\r\n" + body.wire)
    at = data.draw(st.integers(0, len(wire)))
    wire[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    outcomes = []
    for pieces in ([bytes(wire)], data.draw(splits(bytes(wire)))):
        reading = ResponseReader(to_head=False)
        try:
            handed: bytes | None = feed(reading, pieces)[0]
        except BackendError:
            handed = None
        outcomes.append((handed, reading.complete if handed is not None else None))
    assert outcomes[0] == outcomes[1], "how it arrives must not matter"


@pytest.mark.fault(30, 32)
def test_a_truncated_response_is_never_complete() -> None:
    for wire in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 204 No\r\n\r\n",
    ):
        for end in range(len(wire)):
            reading = ResponseReader(to_head=False)
            feed(reading, [wire[:end]])
            assert not reading.complete
            assert not reading.end_of_file()
    reading = ResponseReader(to_head=False)
    feed(reading, [b"HTTP/1.1 200 OK\r\n\r\nhello"])
    assert reading.framing == UNTIL_CLOSE
    assert not reading.reusable
    assert not reading.complete
    assert reading.end_of_file()
    assert reading.complete


@pytest.mark.parametrize(
    ("relayed", "boundary"),
    [
        (b"", True),
        (b"5\r\nhello\r\n", True),
        (b"5", False),
        (b"5;x", False),
        (b"5\r", False),
        (b"5\r\n", False),
        (b"5\r\nhel", False),
        (b"5\r\nhello", False),
        (b"5\r\nhello\r", False),
        (b"5\r\nhello\r\n1", False),
        (b"5\r\nhello\r\n0\r\n", False),
        (b"5\r\nhello\r\n0\r\nX: y\r\n", False),
        (b"2\r\n\r\n\r\n", True),
    ],
)
def test_where_a_chunk_may_be_added(relayed: bytes, boundary: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for pieces in ([head + relayed], [head, relayed]):
        reading = ResponseReader(to_head=False)
        feed(reading, pieces)
        assert reading.framing == CHUNKED
        assert reading.between_chunks(head + relayed) is boundary


CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_chunk_like_one_before_needs_no_parser() -> None:
    reading = ResponseReader(to_head=False)
    reading.feed(CHUNKED_HEAD)
    assert not reading.is_chunk(b"4;a=b\r\nda\r\n\r\n")  # the first may be anything
    reading.feed(b"4;a=b\r\nda\r\n\r\n")
    assert not reading.is_chunk(b"4;a=b\r\nda\r\n\r\n")  # such a one was not between two others yet
    reading.feed(b"4;a=b\r\nda\r\n\r\n")
    assert reading.is_chunk(b"4;a=b\r\nta\r\n\r\n")
    for other in (
        b"4;a=c\r\nda\r\n\r\n",  # begins otherwise
        b"4;a=b\r\nda\r\n\rx",  # does not end
        b"4;a=b\r\nda\r\n\r\n\r\n",  # is longer
        b"0\r\n\r\n",
    ):
        assert not reading.is_chunk(other)
    assert feed(reading, [b"4;a=b\r\nta\r\n\r\n", b"0\r\n\r\n"]) == (b"4;a=b\r\nta\r\n\r\n0\r\n\r\n", b"")
    assert reading.complete
    assert reading.reusable


@pytest.mark.parametrize(
    "begun", [b"6\r\n", b"4", b"4\r\nda", b"4\r\ndata", b"4\r\ndata\r", b"0\r\n", b"0\r\na: b\r\n"]
)
def test_what_looks_like_a_chunk_is_none_within_another(begun: bytes) -> None:
    chunk = b"4\r\nda\r\n\r\n"
    reading = ResponseReader(to_head=False)
    for piece in (CHUNKED_HEAD, chunk, chunk):
        reading.feed(piece)
    assert reading.is_chunk(chunk)
    reading.feed(begun)
    assert not reading.is_chunk(chunk)


@given(st.data(), st.lists(st.tuples(st.sampled_from([1, 1, 2, 5]), st.booleans()), min_size=2))
def test_chunks_that_come_alone_are_read_like_all_others(data: st.DataObject, sizes: list[tuple[int, bool]]) -> None:
    chunks = [b"%x%b\r\n%b\r\n" % (size, b";x" * extended, b"\r\n\r\n-"[:size]) for size, extended in sizes]
    wire = [CHUNKED_HEAD, *chunks, b"0\r\n\r\n"]
    damaged = data.draw(st.integers(1, len(wire) - 1))
    at = data.draw(st.integers(0, len(wire[damaged]) - 1))
    wire[damaged] = (
        wire[damaged][:at] + data.draw(st.sampled_from([b"", b"\r", b"\n", b"0", b"-"])) + wire[damaged][at + 1 :]
    )
    outcomes = []
    for take_alone in (True, False):
        reading = ResponseReader(to_head=False)
        handed = b""
        try:
            for piece in wire:
                if reading.complete:
                    break
                handed += piece if take_alone and reading.is_chunk(piece) else reading.feed(piece)[0]
        except BackendError:
            outcomes.append((b"", "refused"))
        else:
            outcomes.append((handed, "whole" if reading.complete else "unfinished"))
    assert outcomes[0] == outcomes[1]


def test_a_body_that_is_decoded_has_no_chunks_to_hand_on() -> None:
    reading = DecodingResponseReader(to_head=False)
    for piece in (CHUNKED_HEAD, *[b"4\r\ndata\r\n"] * 3):
        reading.feed(piece)
    assert not reading.is_chunk(b"4\r\ndata\r\n")


def test_nothing_is_between_chunks_of_a_body_without() -> None:
    reading = ResponseReader(to_head=False)
    feed(reading, [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"])
    assert not reading.between_chunks(b"\r\n")


def test_an_endless_body_is_fine() -> None:
    reading = ResponseReader(to_head=False)
    feed(reading, [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
    feed(reading, [b"3e8\r\n" + b"y" * 1000 + b"\r\n"] * 2000)
    feed(reading, [b"fffffff\r\n"] + [b"z" * 1000] * 2000)
    assert not reading.complete


@pytest.mark.parametrize(
    ("content_type", "stream"),
    [(b"text/event-stream", True), (b"Text/Event-Stream; charset=utf-8", True), (b"application/json", False)],
)
def test_event_streams_are_known(content_type: bytes, stream: bool) -> None:
    reading = ResponseReader(to_head=False)
    feed(reading, [b"HTTP/1.1 200 OK\r\nContent-Type: " + content_type + b"\r\n\r\n"])
    assert reading.event_stream is stream


def test_a_chunk_full_of_empty_lines_is_not_copied_again_for_each() -> None:
    reading = ResponseReader(to_head=False)
    reading.feed(CHUNKED_HEAD)
    body = Copied(b"10000\r\n" + b"\r\n" * 0x8000 + b"\r\n0\r\n\r\n")
    Copied.total = 0
    assert reading.feed(body) == (body, b"")
    assert reading.complete
    assert Copied.total < 4 * len(body)
