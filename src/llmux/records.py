"""What is known of one request once it is over, and who wants to know. Plain data and one protocol.

The gateway fills a record in, access log and traces read it. Where nobody wants to know, no record is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

CLIENT_GONE: Final = "client_gone"
"""The client left before it had the whole answer, or left it unread for too long, or llmux ended before that."""

CUT: Final = "cut"
"""llmux ended an answer under way, so that nobody takes it for a whole one."""


@dataclass(slots=True)
class Record:
    """One request. Times are in seconds, but for those called `_ns`: nanoseconds since 1970.

    Attributes:
        at_ns: when all of it had come.
        started: the same on the monotonic clock.
        client: the address that it came from; behind a trusted proxy, what that says.
        method, path: as asked for; the path without its query.
        said_id: its ``x-request-id``, if it has one.
        key: the name of the key that it shows, never the key.
        for_control: it is for llmux itself and no model.
        model: the configured name; None if it was for none.
        request_id: what the scheduler calls it.
        queued: it had to wait for its grant.
        queue_ended_ns: when it was granted or refused, or its client left; 0 if it did not wait.
        waited: for how long it did.
        switched: its model was asleep when it came.
        status: what its client was sent, or would have been; 499 if it left before.
        first_byte: from `at_ns` to the head of the answer; None if there was none.
        duration: from `at_ns` until all was over.
        sent: bytes to the client, heads included.
        tokens: of the prompt and of the answer, if the answer said so.
        ended_early: `CLIENT_GONE` or `CUT`; None if the answer was sent as a whole.
        error: the code of the error with which llmux answered, or ended the answer.
        backend_status: the backend's own answer; 0 if there was none.
        relayed_ns: when the backend's answer was written to the client; 0 if it never was.
        trace_id: of its trace, in hexadecimal digits, if there is one.
        trace: belongs to whoever traces.
    """

    at_ns: int
    started: float
    client: str
    method: str
    path: str
    said_id: str | None = None
    key: str | None = None
    for_control: bool = False
    model: str | None = None
    request_id: int | None = None
    queued: bool = False
    queue_ended_ns: int = 0
    waited: float = 0.0
    switched: bool = False
    status: int = 0
    first_byte: float | None = None
    duration: float = 0.0
    sent: int = 0
    tokens: tuple[int, int] | None = None
    ended_early: str | None = None
    error: str | None = None
    backend_status: int = 0
    relayed_ns: int = 0
    trace_id: str | None = None
    trace: Any = None


class Scribe(Protocol):
    """Who wants to know of requests. Called on the request path: must not block."""

    def begun(self, record: Record, lines: Sequence[bytes]) -> None:
        """A whole request has come; `lines` are its header fields, each ``name: value``."""

    def forwarded(self, record: Record, lines: Sequence[bytes], backend: str) -> Sequence[bytes]:
        """It goes to its model's backend, at that address. Returns the header fields that the backend is to be sent.
        Called again if that address was another one."""

    def done(self, record: Record) -> None:
        """It is over, and the record whole. Also called, with neither of the others before, for what could not be read
        as a request; its method may be empty then."""
