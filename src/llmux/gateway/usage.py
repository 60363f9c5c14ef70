"""How many tokens a response says that it took: the `usage` at the end of what backends answer.

Pure. It is looked for in the last bytes of a response that has been handed on already, so no client waits for it. What
it cannot read for certain (compressed bodies, a `usage` that a chunk boundary cuts, one that is further from the end)
is not counted: the figures may be too low, never too high.
"""

from __future__ import annotations

import json
from typing import Any, Final

TAIL_BYTES: Final = 2048
"""How much of the end of a response is looked at at least."""

_decode = json.JSONDecoder().raw_decode


def used_tokens(tail: bytes) -> tuple[int, int] | None:
    """Tokens of the prompt and of the answer, from the last `usage` object in `tail`; None where there is none.

    Understands OpenAI's names (``prompt_tokens``, ``completion_tokens``), which APIs for embeddings and rerank share,
    and those of its responses API and of Anthropic (``input_tokens``, ``output_tokens``).
    """
    tail = tail[-2 * TAIL_BYTES :]
    end = len(tail)
    while (end := tail.rfind(b'"usage"', 0, end)) >= 0:
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


def _count(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if type(value) is int and 0 <= value < 2**53:
            return value
    return None
