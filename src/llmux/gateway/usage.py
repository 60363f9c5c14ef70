"""How many tokens a response says that it took: the `usage` at the end of what backends answer.

Pure. It is looked for in the last bytes of a response that has been handed on already, so no client waits for it. What
it cannot read for certain (compressed bodies, a `usage` that a chunk boundary cuts, one that is further from the end)
is not counted: the figures may be too low, never too high.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

TAIL_BYTES: Final = 2048
"""How much of the end of a response is looked at at least."""

_decode = json.JSONDecoder().raw_decode


class _Flat(msgspec.Struct):
    """A `usage` in which there are no other objects, as nearly all are. Plain ints: to mypyc, a union is any type."""

    prompt_tokens: int = -1
    input_tokens: int = -1
    completion_tokens: int = -1
    output_tokens: int = -1


_FLAT: Final = msgspec.json.Decoder(_Flat)


def used_tokens(tail: bytes) -> tuple[int, int] | None:
    """Tokens of the prompt and of the answer, from the last `usage` object in `tail`; None where there is none.

    Understands OpenAI's names (``prompt_tokens``, ``completion_tokens``), which APIs for embeddings and rerank share,
    and those of its responses API and of Anthropic (``input_tokens``, ``output_tokens``).
    """
    if len(tail) > 2 * TAIL_BYTES:
        tail = tail[-2 * TAIL_BYTES :]
    end = len(tail)
    while (end := tail.rfind(b'"usage"', 0, end)) >= 0:
        flat = _flat(tail, end + 7)
        if flat is not None:
            return flat
        rest = tail[end + 7 :].lstrip()
        if rest[:1] == b":" and (rest := rest[1:].lstrip())[:1] == b"{":
            try:
                usage, _ = _decode(rest.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                return None
            prompt = _count(usage, "prompt_tokens", "input_tokens")
            answer = _count(usage, "completion_tokens", "output_tokens")
            return None if prompt is None and answer is None else (prompt or 0, answer or 0)
    return None


def _flat(tail: bytes, start: int) -> tuple[int, int] | None:
    """What the object behind ``tail[:start]`` says, if there is no other object in it and nothing odd about it: then
    it ends at the next brace, and msgspec reads it in half the time that the json module takes."""
    opened = tail.find(b"{", start, start + 3)
    if opened < 0 or tail[start:opened] not in (b":", b": "):
        return None
    end = tail.find(b"}", opened) + 1
    if end == 0 or tail.find(b"{", opened + 1, end) >= 0:
        return None
    try:
        usage = _FLAT.decode(tail[opened:end])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    prompt = usage.prompt_tokens if _plausible(usage.prompt_tokens) else usage.input_tokens
    answer = usage.completion_tokens if _plausible(usage.completion_tokens) else usage.output_tokens
    if not _plausible(prompt) and not _plausible(answer):
        return None
    return prompt if _plausible(prompt) else 0, answer if _plausible(answer) else 0


def _count(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if type(value) is int and _plausible(value):
            return value
    return None


def _plausible(count: int) -> bool:
    return 0 <= count < 2**53
