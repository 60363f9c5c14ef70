"""The seams between the gateway and the driver, small enough to fake on one page.

Only protocols: the gateway is written against `Scheduler` and never sees the driver; the driver is written against
`Requester` and never sees a socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from llmux.addresses import BackendAddress
from llmux.errors import LlmuxError
from llmux.messages import Failure, Outcome, Prospects


class Requester(Protocol):
    """One request as the driver sees it. Every callback runs synchronously on the loop and must not raise.

    Exactly one of `granted` and `refused` is called, possibly from inside `Scheduler.arrived`, unless
    `Scheduler.left` was called first.
    """

    def granted(self, waited: float, switched: bool) -> None:
        """Forward now; `Scheduler.finished` must be called once, later. `waited` in seconds."""

    def refused(self, error: LlmuxError, switched: bool = False) -> None:
        """Answer with this error; the request is over for the scheduler. `switched` says whether it has waited for a
        switch to its model. All that are refused for the same reason at the same time may get the same object, so it
        must be neither raised nor changed."""

    def aborted(self, error: LlmuxError) -> None:
        """A granted request must end at once: close its backend connection, tell its client of the error if that can
        still be done, and call `Scheduler.finished`. Several may get the same object, as with `refused`."""


@runtime_checkable
class Streaming(Protocol):
    """A requester that can tell how far its answer is."""

    @property
    def events(self) -> int:
        """How many server-sent events its backend has sent so far."""
        ...


class Origin(NamedTuple):
    """Where a request came from, and what it asks for; None for what is not known. `stream` says whether its answer
    comes bit by bit, and `looked_at` how many bytes of its body were read to find that out."""

    client: str | None = None
    key: str | None = None
    path: str | None = None
    stream: bool | None = None
    looked_at: int = 0


@runtime_checkable
class Traceable(Protocol):
    """A requester that can tell where it came from."""

    def origin(self, most: int) -> Origin:
        """Worked out anew each time, from what is kept of the request anyway; at most `most` bytes of its body are
        read. For operators who look: nothing on the request path calls this."""
        ...


class Scheduler(Protocol):
    """What the gateway may ask of the driver. All calls are synchronous and must be made on the loop."""

    def resolve(self, name: str) -> str | None:
        """The configured model that `name` (a name or an alias) means, or None."""

    def arrived(self, model: str, requester: Requester, level: int = 0) -> int:
        """Queue a whole request for `model`, of that priority; returns its id. `granted` or `refused` may be called
        before this returns, so the requester must not need the id for that."""

    def left(self, request_id: int) -> None:
        """The client went away before the request was granted."""

    def finished(self, request_id: int) -> None:
        """A granted request is over, however it ended."""

    def prospects(self, model: str) -> Prospects:
        """Where those who wait for `model` stand. O(those)."""

    def backend_failed(self, model: str, failure: Failure, in_a_row: int) -> None:
        """The backend failed a request: that many in a row by now, without one between them that it answered well."""

    def backend_moved(self, model: str) -> None:
        """Nobody listens any more where the backend was, so its new address counts from now on."""


class Backends(Protocol):
    """What the driver may ask of the gateway."""

    def close_backend(self, model: str) -> None:
        """Close all idle pooled connections to the backend of `model`, and forget what it failed."""

    def send_canary(
        self, model: str, timeout: float | None, ended: Callable[[Outcome, float, str], None]
    ) -> Callable[[], None]:
        """Send the canary of `model` to its backend.

        ``ended(outcome, seconds, detail)`` is called once, from the loop, after this has returned: OK if it was
        answered well within `timeout` seconds (None: no limit). The function returned ends it early, with CANCELLED.
        """

    def waking(self, model: str) -> None:
        """The wake hook of `model` begins: what the configuration says of its backend counts from now on."""

    def reported(self, model: str, address: BackendAddress) -> None:
        """The wake hook of `model` has said where its backend is: there, until the next one begins."""

    def removed(self, model: str) -> None:
        """There will be no request for `model` any more."""
