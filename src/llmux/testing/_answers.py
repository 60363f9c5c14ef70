"""What a simulated backend says, and how OpenAI's API writes it. Pure; private to `llmux.testing.backend`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec


def answer_text(model: str, prompt: str, tokens: int) -> str:
    """The answer: the model's name, the prompt, and then it counts, one token for each word or number."""
    return "".join(answer_tokens(model, prompt, tokens))


def answer_tokens(model: str, prompt: str, tokens: int) -> list[str]:
    """`answer_text` in pieces."""
    words = [model, "heard:", *prompt.split()]
    endless = itertools.chain(words, map(str, itertools.count(1)))
    return [word if index == 0 else f" {word}" for index, word in enumerate(itertools.islice(endless, tokens))]


@dataclass(frozen=True, slots=True)
class Wording:
    """How an API writes a stream: what comes first, each piece, and what comes last."""

    media_type: str
    begin: bytes
    piece: Callable[[str], bytes]
    end: bytes


class Answer(msgspec.Struct, frozen=True):
    """What is going to be said, and how it is written in OpenAI's shapes."""

    serial: int
    chat: bool
    model: str
    pieces: list[str]
    finish_reason: str
    prompt_tokens: int

    def usage(self) -> dict[str, int]:
        count = len(self.pieces)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": count,
            "total_tokens": self.prompt_tokens + count,
        }

    def body(self) -> bytes:
        text = "".join(self.pieces)
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "finish_reason": self.finish_reason}
        return msgspec.json.encode({**self._frame(streamed=False), "choices": [choice], "usage": self.usage()})

    def wording(self, *, usage: bool) -> Wording:
        """As a stream of server-sent events; `usage` adds the one with the counts."""
        end = self.event("", finish_reason=self.finish_reason) + (self.usage_event() if usage else b"")
        return Wording("text/event-stream", self.event("", first=True), self.event, end + b"data: [DONE]\n\n")

    def event(self, text: str, *, first: bool = False, finish_reason: str | None = None) -> bytes:
        said: dict[str, Any] = {"text": text}
        if self.chat:
            said = {"delta": ({"role": "assistant"} if first else {}) | ({"content": text} if text else {})}
        choice = {"index": 0, **said, "finish_reason": finish_reason}
        return _sse({**self._frame(streamed=True), "choices": [choice]})

    def usage_event(self) -> bytes:
        return _sse({**self._frame(streamed=True), "choices": [], "usage": self.usage()})

    def _frame(self, *, streamed: bool) -> dict[str, Any]:
        kind = ("chat.completion" + (".chunk" if streamed else "")) if self.chat else "text_completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.serial}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": self.model}


def _sse(data: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def last_text(messages: Any) -> str:
    """The text of the last message, which may be a string or a list of parts."""
    content = messages[-1].get("content") if isinstance(messages, list) and messages else ""
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    return str(content or "")
