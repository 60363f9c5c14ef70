"""Heads that were read before mean the same the second time, whatever their length says."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux.errors import BadRequestError, BodyTooLargeError, LlmuxError
from llmux.wire.known import MAX_KNOWN, Known, without_length
from llmux.wire.request import Request, RequestReader
from llmux.wire.response import ResponseReader
from llmux.wire.websocket import SwitchingResponseReader

HEAD = (
    b"POST /v1/chat?a=b HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nAuthorization: Bearer k\r\n"
    b"Content-Length: %b\r\nX-B: 2\r\n\r\n"
)
ANSWER = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: keep-alive\r\nContent-Length: %b\r\nX-B: 2\r\n\r\n"


ATTRIBUTES = [name for name, value in vars(Request).items() if inspect.isdatadescriptor(value)]


def read(data: bytes, *, max_body: int = 100) -> Request:
    reader = RequestReader(max_head_bytes=1000, max_body_bytes=max_body)
    assert reader.feed(data) == b""
    assert reader.complete
    return reader.request


def everything(request: Request) -> list[object]:
    return [getattr(request, name) for name in ATTRIBUTES if name != "lines"] + [list(request.lines)]


def test_a_known_head_is_the_same_request_with_a_body_of_its_own() -> None:
    first = read(HEAD % b"2" + b"ab")
    again = read(HEAD % b"3" + b"xyz")
    assert (first.body, again.body) == (b"ab", b"xyz")
    first.body = again.body = b""
    assert everything(first) == everything(again)
    empty = read(HEAD % b"0")
    assert (empty.body, empty.framed) == (b"", True)


def test_no_part_of_a_head_is_forgotten() -> None:
    one, other, untouched = Request(), Request(), Request()
    for name in ATTRIBUTES:
        before = getattr(one, name)
        setattr(one, name, not before if isinstance(before, bool) else (b"x",) if isinstance(before, tuple) else b"x")
    other.take_head(one)
    assert {name for name in ATTRIBUTES if getattr(other, name) != getattr(one, name)} == {"body"}
    assert {name for name in ATTRIBUTES if getattr(other, name) == getattr(untouched, name)} == {"body"}


def test_what_is_taken_out_of_one_request_stays_in_the_next() -> None:
    first = read(HEAD % b"2" + b"ab")
    first.lines = [line for line in first.lines if not line.startswith(b"Authorization")]
    assert b"Authorization: Bearer k" in read(HEAD % b"2" + b"ab").lines


def test_a_known_head_does_not_let_a_body_pass_that_is_too_large() -> None:
    read(HEAD % b"2" + b"ab")
    with pytest.raises(BodyTooLargeError):
        read(HEAD % b"101")
    with pytest.raises(BodyTooLargeError):
        read(HEAD % b"2" + b"ab", max_body=1)


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: \r\nX: y\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX: y\r\nContent-Length: \r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX: y\r\ncontent-length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\nX: y\r\n\r\n",
    ],
)
def test_two_lengths_are_refused_each_time_also_after_a_head_that_is_the_same_but_for_them(head: bytes) -> None:
    read(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX: y\r\n\r\nabcde")
    for _ in range(2):
        with pytest.raises(LlmuxError) as error:
            read(head + b"abcde")
        assert isinstance(error.value, BadRequestError)


def test_a_client_that_waits_to_be_told_to_go_on_is_told_each_time() -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    for _ in range(2):
        reader = RequestReader(max_head_bytes=1000, max_body_bytes=100)
        reader.feed(head)
        assert reader.expects_continue


def test_a_known_head_of_a_response_is_the_same_with_a_length_of_its_own() -> None:
    for length, body in ((b"2", b"ab"), (b"5", b"abcde"), (b"0", b"")):
        reader = ResponseReader(to_head=False)
        assert reader.feed(ANSWER % length + body + b"more") == (body, b"more")
        assert reader.complete
        assert reader.reusable
        assert (reader.status, reader.content_length) == (200, length)
        assert list(reader.lines) == [b"X-A: 1", b"X-B: 2"]


def test_the_answer_to_a_head_request_has_no_body_though_its_head_is_known() -> None:
    ResponseReader(to_head=False).feed(ANSWER % b"2" + b"ab")
    reader = ResponseReader(to_head=True)
    assert reader.feed(ANSWER % b"2") == (b"", b"")
    assert reader.complete


def test_a_head_in_two_pieces_is_read_in_the_ordinary_way() -> None:
    whole = HEAD % b"2" + b"ab"
    expected = everything(read(whole))
    for cut in range(1, len(whole)):
        reader = RequestReader(max_head_bytes=1000, max_body_bytes=100)
        assert reader.feed(whole[:cut]) == b""
        assert reader.feed(whole[cut:]) == b""
        assert [bytes(x) if isinstance(x, bytearray) else x for x in everything(reader.request)] == expected


FIELDS = (
    b"Host: h",
    b"Content-Length: %d",
    b"Content-Length:%d",
    b"content-length: %d",
    b"Content-Length: %d ",
    b"Content-Length: 0%d",
    b"Content-Length: +%d",
    b"Content-Length: %d, %d",
    b"X-Content-Length: %d",
    b"X: y\r\n Content-Length: %d",
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"Connection: x-a, Content-Length",
    b"Connection: upgrade",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"X-A: 1",
)


@given(
    line=st.sampled_from([b"POST /a?b HTTP/1.1", b"GET / HTTP/1.0", b"POST http://h/ HTTP/1.1", b"OPTIONS * HTTP/1.1"]),
    fields=st.lists(st.sampled_from(FIELDS), max_size=5),
    lengths=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_a_request_means_the_same_whatever_was_read_before(
    line: bytes, fields: list[bytes], lengths: tuple[int, int]
) -> None:
    def head(length: int) -> bytes:
        said = [field.replace(b"%d", b"%d" % length) for field in fields]
        return b"\r\n".join([line, *said, b"", b""])

    def outcome(*pieces: bytes) -> object:
        reader = RequestReader(max_head_bytes=1000, max_body_bytes=10)
        try:
            rest = b"".join([reader.feed(piece) for piece in pieces])
        except LlmuxError as error:
            return type(error), str(error)
        return reader.complete, reader.in_body, reader.expects_continue, reader.held, rest, everything(reader.request)

    outcome(head(lengths[0]))
    whole = head(lengths[1])
    assert outcome(whole) == outcome(whole[:9], whole[9:])


def test_only_so_many_heads_are_kept() -> None:
    known: Known[int] = Known()
    for number in range(3 * MAX_KNOWN):
        known.remember((b"%d" % number, b""), number)
        assert known.get((b"%d" % number, b"")) == number
        assert len(known) <= MAX_KNOWN


@pytest.mark.parametrize("line", [b"Content-Length:5", b"CONTENT-LENGTH: 5", b"Content-Length: " + b"5" * 16])
def test_lengths_that_are_written_oddly_are_left_to_the_parser(line: bytes) -> None:
    head = b"POST / HTTP/1.1\r\n" + line + b"\r\n\r\n"
    assert without_length(head, len(head)) is None


def test_a_connection_that_was_asked_to_switch_is_not_used_again_though_the_head_of_its_answer_is_known() -> None:
    ResponseReader(to_head=False).feed(ANSWER % b"2" + b"ab")
    reader = SwitchingResponseReader(to_head=False)
    assert reader.feed(ANSWER % b"2" + b"ab") == (b"ab", b"")
    assert reader.complete
    assert not reader.reusable
