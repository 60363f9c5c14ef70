"""The section that says what a model is asked after a wake, to see whether it serves."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from llmux.config.fields import Limit, Section

CHAT = "/v1/chat/completions"
_TEXT = "Hi"
#: What is asked where only the path is given: as little as the route allows.
_BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": _TEXT}], "max_tokens": 1},
    "/v1/completions": {"prompt": _TEXT, "max_tokens": 1},
    "/v1/embeddings": {"input": _TEXT},
    "/v1/responses": {"input": _TEXT, "max_output_tokens": 16},
    "/v1/messages": {"messages": [{"role": "user", "content": _TEXT}], "max_tokens": 1},
}
_OURS = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "upgrade", "expect", "te"}
)
_LARGEST = 64 * 1024


def _check_path(path: str) -> str:
    if not re.fullmatch(r"/[!-\"$-~]*", path):
        raise ValueError("must begin with / and be made of visible ASCII characters without #")
    return path


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"{name!r} cannot be the name of a header")
        if name.lower() in _OURS:
            raise ValueError(f"{name} is set by llmux itself")
        if not re.fullmatch(r"[\t -~]*", value):
            raise ValueError(f"the value of {name} must be made of visible ASCII characters")
    return headers


class CanaryConfig(Section):
    """The request that a model must answer with a status of 200 to 299 before it is given any other. `true` is the same
    as a mapping without keys."""

    path: Annotated[str, AfterValidator(_check_path)] = Field(
        default=CHAT,
        description=f"Path that is asked, with POST; the path of the model's `url` comes before it. Default: {CHAT}.",
        examples=["/v1/embeddings"],
    )
    body: dict[str, Any] | None = Field(
        default=None,
        description="JSON to send. A `model` is put in if there is none: `send_model_as`, else the model's name. "
        f"Required for paths other than {', '.join(list(_BODIES)[:-1])} and {list(_BODIES)[-1]}. "
        "Default: as short a question, and as short an answer, as the path allows.",
        examples=[{"input": "Hi", "encoding_format": "float"}],
        validate_default=True,
    )
    headers: Annotated[dict[str, str], AfterValidator(_check_headers)] = Field(
        default={},
        description="Headers to send besides, as for a backend that asks for a key. They are never logged. "
        "Default: none.",
        examples=[{"Authorization": "Bearer sk-of-the-backend"}],
        repr=False,
    )
    timeout_secs: Limit | None = Field(
        default=60.0,
        description="Seconds in which the whole answer must have come. null = no limit. Default: 60.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_true(cls, value: object) -> object:
        return {} if value is True else value

    @field_validator("body")
    @classmethod
    def _check_body(cls, body: dict[str, Any] | None) -> dict[str, Any] | None:
        if body is not None:
            try:
                size = len(json.dumps(body, allow_nan=False))
            except (TypeError, ValueError, RecursionError):
                raise ValueError("must be JSON: text, finite numbers, true, false, null, lists and mappings") from None
            if size > _LARGEST:
                raise ValueError(f"must be no larger than {_LARGEST} bytes")
        return body

    @model_validator(mode="after")
    def _check_whole(self) -> CanaryConfig:
        if self.body is None and self.path not in _BODIES:
            raise ValueError(f"needs a `body`: what to ask {self.path} is not known")
        return self

    def request_body(self, model: str) -> bytes:
        """What is sent, with `model` as the model's name unless the body has one already."""
        body = _BODIES[self.path] if self.body is None else self.body
        return json.dumps({"model": model} | body).encode()
