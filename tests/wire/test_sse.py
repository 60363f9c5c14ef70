"""What llmux says in event streams: comments that nobody has to read, and failures that every client understands."""

from __future__ import annotations

import json

import pytest

from llmux.errors import HookFailedError, NoModelError, WaitTimeoutError
from llmux.messages import Prospects
from llmux.wire.errors import error_body
from llmux.wire.sse import Dialect, backend_error, dialect_of, sse_error, still_waiting, waited


def fields(event: bytes) -> dict[str, str]:
    """The fields of the one event that `event` is."""
    assert event.endswith(b"\n\n")
    assert event.count(b"\n\n") == 1
    lines = event.decode().removesuffix("\n\n").split("\n")
    assert len({line.partition(":")[0] for line in lines}) == len(lines)
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        (b"/v1/chat/completions", Dialect.OPENAI),
        (b"/openai/deployments/x/chat/completions", Dialect.OPENAI),
        (b"/completions", Dialect.OPENAI),
        (b"/completion", Dialect.OPENAI),
        (b"/v1/responses", Dialect.RESPONSES),
        (b"/v1/messages", Dialect.ANTHROPIC),
        (b"/v1/messages/count_tokens", None),
        (b"/api/chat", None),
        (b"/api/generate", None),
        (b"/v1/embeddings", None),
        (b"/", None),
        (b"", None),
    ],
)
def test_which_paths_stream_server_sent_events(path: bytes, dialect: Dialect | None) -> None:
    assert dialect_of(path) is dialect


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, b": it does"),
        (0.2, b", about 1 s"),
        (14.4, b", about 14 s"),
        (89.0, b", about 89 s"),
        (90.0, b", about 2 min"),
        (3000.0, b", about 50 min"),
    ],
)
def test_a_comment_says_how_long_it_will_take(seconds: float, told: bytes) -> None:
    assert (
        still_waiting("llama", 2, seconds, Prospects({}, seconds, why="it does"))
        == b": waiting for llama, 2 ahead" + told + b"\n\n"
    )


def test_a_comment_says_why_nobody_gets_on() -> None:
    told = still_waiting("llama", 2, 0.0, Prospects({}, 0.0, held="llama is\ndrained"))
    assert told == b": waiting for llama, 2 ahead, held: llama is\\ndrained\n\n"


def test_a_comment_says_what_a_bound_comes_from() -> None:
    for seconds, told in ((39.2, b"40 s"), (40.0, b"40 s"), (125.0, b"3 min")):
        comment = still_waiting("b", 0, seconds, Prospects({}, seconds, at_most=True, why="a\nis kept"))
        assert comment == b": waiting for b, 0 ahead, at most about " + told + b": a\\nis kept\n\n"


def test_a_comment_without_number_and_reason_is_short() -> None:
    assert still_waiting("b", 0, 0.0, Prospects({}, 0.0)) == b": waiting for b, 0 ahead\n\n"


@pytest.mark.parametrize("name", ["a\u2028data: x", "a\x85b", "a\rb", "é" * 1000])
def test_a_comment_is_one_line_whatever_the_model_is_called(name: str) -> None:
    comment = still_waiting(name, 0, 1.0, Prospects({}, 1.0)).decode()
    assert comment.endswith("\n\n")
    assert len(comment.splitlines()) == 2  # the comment and the empty line
    assert len(comment) < 300


def test_a_comment_can_carry_header_lines() -> None:
    assert waited(b"x-a: 1\r\nx-b: 2\r\n") == b": x-a: 1\n: x-b: 2\n\n"


def test_an_openai_stream_gets_the_error_body_as_data() -> None:
    assert sse_error(NoModelError()) == b"data: " + error_body(NoModelError()) + b"\n\n"


def test_an_anthropic_stream_gets_an_error_event() -> None:
    event = fields(sse_error(HookFailedError("wake\nfailed"), Dialect.ANTHROPIC))
    assert event["event"] == "error"
    assert json.loads(event["data"]) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "wake\\nfailed"},
    }
    late = fields(sse_error(WaitTimeoutError("late"), Dialect.ANTHROPIC))
    assert json.loads(late["data"])["error"]["type"] == "timeout_error"


def test_a_responses_stream_gets_an_error_event() -> None:
    event = fields(sse_error(HookFailedError("wake failed"), Dialect.RESPONSES))
    assert event["event"] == "error"
    data = json.loads(event["data"])
    assert (data["type"], data["code"], data["message"]) == ("error", "hook_failed", "wake failed")
    assert data["error"]["message"] == "wake failed"


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "too long", "type": "BadRequestError", "code": 400}}',
        b'{\n "object": "error",\n "message": "too long"\n}',
        b'{"type": "error", "error": {"type": "invalid_request_error", "message": "too long"}}',
        b'{"error": "too long"}',
        b'{"detail": "too long"}',
        b'"too long"',
    ],
)
def test_what_a_backend_says_of_its_failure_is_passed_on(dialect: Dialect, body: bytes) -> None:
    event = backend_error(dialect, 400, body)
    assert event is not None
    data = json.loads(fields(event)["data"])
    assert data["error"]["message"] == "too long"
    if dialect is Dialect.ANTHROPIC:
        assert data["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff\xfe", b"[1]", b"{}", b'{"error": 7}', b'{"error": {"message": 7}}', b"[" * 100_000]
)
def test_a_body_without_words_is_none(body: bytes) -> None:
    assert backend_error(Dialect.OPENAI, 500, body) is None
