"""Heads as llmux writes them."""

from __future__ import annotations

import pytest

from llmux.errors import BackoffError, LlmuxError, NoModelError, QueueFullError
from llmux.wire.errors import error_body
from llmux.wire.framing import cut
from llmux.wire.headers import FORWARD, REQUEST_FIELDS, RESPONSE_FIELDS
from llmux.wire.heads import error_response, response_head
from llmux.wire.response import ResponseReader


def test_error_response_is_whole() -> None:
    body = error_body(NoModelError())
    assert error_response(NoModelError(), keep_alive=True) == (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )


@pytest.mark.parametrize(
    ("http11", "keep_alive", "connection"),
    [(True, True, b""), (True, False, b"Connection: close\r\n"), (False, True, b"Connection: keep-alive\r\n")],
)
def test_error_response_says_what_becomes_of_the_connection(http11: bool, keep_alive: bool, connection: bytes) -> None:
    head = error_response(NoModelError(), http11=http11, keep_alive=keep_alive, to_head=True)
    assert head.endswith(b"\r\n" + connection + b"\r\n")


def test_retry_after_is_whole_seconds() -> None:
    assert b"\r\nRetry-After: 3\r\n" in error_response(BackoffError("x", retry_after=2.01))
    assert b"Retry-After" not in error_response(QueueFullError("x"))


def test_every_error_of_the_gateway_has_a_reason() -> None:
    def leaves(kind: type[LlmuxError]) -> list[type[LlmuxError]]:
        return [kind, *(leaf for child in kind.__subclasses__() for leaf in leaves(child))]

    for kind in leaves(LlmuxError):
        if kind.__module__ != LlmuxError.__module__:  # the control plane's own never pass here
            continue
        error = kind.__new__(kind)
        error.message = "x"
        assert b" Error\r\n" not in error_response(error).replace(b"Internal Server Error", b""), kind


def test_a_reason_has_no_control_characters() -> None:
    response = ResponseReader(to_head=False)
    response.feed(b"HTTP/1.1 200 a\x00b\x0b\xffc\r\nContent-Length: 0\r\n\r\n")
    assert response_head(response, http11=True, keep_alive=True).startswith(b"HTTP/1.1 200 ab\xffc\r\n")


def test_the_memory_of_spellings_is_bounded() -> None:
    for fields in (REQUEST_FIELDS, RESPONSE_FIELDS):
        for number in range(3000):
            assert fields[b"x-made-up-%d" % number] == FORWARD
        assert fields[b"y" * 10_000] == FORWARD
        assert len(fields) <= 1024
        assert fields[b"kEEP-aLIVE"] != FORWARD


def test_cut_finds_empty_lines_across_pieces() -> None:
    data = b"a\r\n\r\n\r\n\r\nb\r\n\r\r\n\r\nc"
    ends = [5, 9, 17]
    for first in range(len(data)):
        for second in range(first, len(data)):
            found, tail, at = [], b"", 0
            for piece in (data[:first], data[first:second], data[second:]):
                while piece:
                    end, tail = cut(tail, piece)
                    at += end
                    if not tail:
                        found.append(at)
                    piece = piece[end:]  # noqa: PLW2901  (it goes round until nothing is left of it)
            assert found == ends, (first, second)
