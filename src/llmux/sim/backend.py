"""A backend in the simulation: continuous batching, first come first served beyond the batch. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush


@dataclass(frozen=True, slots=True)
class BackendModel:
    """How fast a model serves. A request alone takes `overhead` + prompt / `prefill_rate` + output / `rate` seconds.

    Attributes:
        rate: output tokens per second of a request that runs alone.
        batched_rate: output tokens per second of each request when the batch is full; None: as fast as alone. In
            between, the time per token grows linearly with the batch.
        batch: most requests that run together.
        prefill_rate: prompt tokens per second.
        overhead: seconds that every request takes besides.
    """

    rate: float = 40.0
    batched_rate: float | None = None
    batch: int = 16
    prefill_rate: float = 8000.0
    overhead: float = 0.15

    def alone(self, prompt_tokens: int, output_tokens: int) -> float:
        """Seconds that a request takes when it has the backend to itself."""
        return self.overhead + prompt_tokens / self.prefill_rate + output_tokens / self.rate


class Server:
    """One backend at work.

    Time is kept as work done per running request, in seconds alone, since all that run advance at the same speed.
    """

    __slots__ = ("_at", "_batch", "_done", "_queue", "_running", "_slowdown", "model", "started", "version")

    def __init__(self, model: BackendModel, started: list[float | None]) -> None:
        self.model = model
        self.started = started  # by request id: when service began
        self.version = 0  # changes with the time of the next end
        self._batch = model.batch
        full = 1.0 if model.batched_rate is None else model.rate / model.batched_rate
        self._slowdown = (full - 1) / max(1, model.batch - 1)
        self._queue: deque[tuple[int, float]] = deque()
        self._running: list[tuple[float, int]] = []  # a heap of (work done when it ends, request)
        self._done = 0.0
        self._at = 0.0

    @property
    def busy(self) -> int:
        """How many requests run now."""
        return len(self._running)

    def add(self, request: int, work: float, now: float) -> None:
        """A request comes in."""
        if len(self._running) >= self._batch:
            self._queue.append((request, work))
            return
        self._advance(now)
        self._begin(request, work, now)

    def next_end(self) -> float | None:
        """When the next request ends, if nothing changes before."""
        if not self._running:
            return None
        return self._at + (self._running[0][0] - self._done) * (1 + self._slowdown * (len(self._running) - 1))

    def end_next(self, now: float) -> int:
        """The running request that is due ends; gives its id. The next in the queue begins."""
        end, request = heappop(self._running)
        self._done, self._at = end, now
        self.version += 1
        self._refill(now)
        return request

    def remove(self, request: int, now: float) -> None:
        """A request is cut off, wherever it is."""
        self._advance(now)
        for index, (queued, _) in enumerate(self._queue):
            if queued == request:
                del self._queue[index]
                return
        self._running = [item for item in self._running if item[1] != request]
        heapify(self._running)
        self.version += 1
        self._refill(now)

    def _refill(self, now: float) -> None:
        while self._queue and len(self._running) < self._batch:
            request, work = self._queue.popleft()
            self._begin(request, work, now)

    def _begin(self, request: int, work: float, now: float) -> None:
        self.started[request] = now
        end = self._done + work
        if self._slowdown or not self._running or end < self._running[0][0]:
            self.version += 1
        heappush(self._running, (end, request))

    def _advance(self, now: float) -> None:
        if self._slowdown == 0:
            self._done = now  # one second of work per second: no sum of rounding errors
        elif self._running:
            self._done += (now - self._at) / (1 + self._slowdown * (len(self._running) - 1))
        self._at = now
