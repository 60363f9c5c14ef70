"""What the gateway tells telemetry. Called on the request path: implementations must not block or raise."""

from __future__ import annotations

import enum
from typing import Final, Protocol

CLIENT_GONE: Final = 499
"""The status reported for a request whose client left before anything was sent to it; nginx's number for it."""


class Limit(enum.StrEnum):
    """What can be reached that turns a request or a client away, or ends one; as the configuration calls it."""

    HEAD = "head_bytes"
    BODY = "max_body_bytes"
    BUFFERED = "max_buffered_bytes"
    HEAD_TIMEOUT = "timeouts_secs.head"
    BODY_TIMEOUT = "timeouts_secs.body"
    WRITE_TIMEOUT = "timeouts_secs.write"
    DESCRIPTORS = "descriptors"


class Observer(Protocol):
    """Requests for the control plane are not reported."""

    def queue_waited(self, model: str, seconds: float) -> None:
        """A request for `model` was granted, `seconds` after it arrived."""

    def request_done(self, model: str | None, status: int, seconds_to_first_byte: float) -> None:
        """A request is over. `model` is a configured name, or None if the request was for none of them; `status` is
        what its client was sent, or would have been, had it not had the head of a stream already; or `CLIENT_GONE`.
        Called once per request, when its last byte has left."""

    def tokens_used(self, model: str, prompt: int, answer: int) -> None:
        """A response of `model` is complete, and said that it took so many tokens. Called before `request_done`."""

    def limit_hit(self, limit: Limit) -> None:
        """A limit was reached. `request_done` is called too, where a request was answered because of it."""
