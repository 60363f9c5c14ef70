"""The error body: its shape, and what it does to hostile text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux.errors import BadRequestError, LlmuxError, ModelNotFoundError
from llmux.wire.errors import Shape, error_body, printable, shape_of


def test_shape_of_an_unknown_model() -> None:
    assert json.loads(error_body(ModelNotFoundError("gpt-9"))) == {
        "error": {
            "message": "Model not found: gpt-9",
            "type": "llmux_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_param_is_null_where_no_field_is_to_blame() -> None:
    assert json.loads(error_body(BadRequestError("no")))["error"]["param"] is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("Grüße, 模型 🦙", "Grüße, 模型 🦙"),
        ("a\nb\r\x1b[31m", r"a\nb\r\x1b[31m"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("\u202eevil\u2028", r"\u202eevil\u2028"),
        ("lone \ud800", r"lone \ud800"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_long_text_is_cut() -> None:
    assert printable("x" * LlmuxError.message_limit) == "x" * LlmuxError.message_limit
    cut = printable("x" * 10_000_000)
    assert cut == "x" * (LlmuxError.message_limit - 1) + "…"
    assert printable("\n" * 30, 10) == r"\n\n\n\n\…"


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_message_makes_one_short_printable_line(message: str) -> None:
    shown = json.loads(error_body(ModelNotFoundError(message)))["error"]["message"]
    assert shown.isprintable()
    assert len(shown) <= LlmuxError.message_limit


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        (b"/v1/messages", Shape.ANTHROPIC),
        (b"/messages", Shape.ANTHROPIC),
        (b"/v1/messages/count_tokens", Shape.ANTHROPIC),
        (b"/upstream/gamma/v1/messages", Shape.ANTHROPIC),
        (b"/v1/threads/t/messages", Shape.OPENAI),
        (b"/v1/chat/completions", Shape.OPENAI),
        (b"", Shape.OPENAI),
    ],
)
def test_the_messages_api_has_errors_of_its_own(path: bytes, shape: Shape) -> None:
    assert shape_of(path) is shape


def test_anthropics_error_says_what_the_status_means() -> None:
    assert json.loads(error_body(ModelNotFoundError("gpt-9"), Shape.ANTHROPIC)) == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "Model not found: gpt-9"},
    }
