"""A clock that moves only when told, for anything that takes its time from outside.

Pure: a number and a heap. Touches no real clock and never sleeps.

    >>> clock = VirtualClock()
    >>> timer = clock.call_later(3600, lambda: print("an hour later"))
    >>> clock.advance(3599)
    >>> clock.advance(1)
    an hour later
    >>> clock.now
    3600.0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Timer:
    """One appointment of a `VirtualClock`; `cancel()` may be called at any time, also after it fired."""

    __slots__ = ("_arguments", "_callback", "when")

    def __init__(self, when: float, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.when = when
        self._callback: Callable[..., object] | None = callback
        self._arguments = arguments

    @property
    def active(self) -> bool:
        """Whether it is still going to fire."""
        return self._callback is not None

    def cancel(self) -> None:
        """Never fire."""
        self._callback = None

    def _fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(*self._arguments)


class VirtualClock:
    """Time in float seconds, and what is to happen when. Appointments for one moment fire in the order they were made.

    A callback may make further appointments, also for the present moment: they fire after those already made for it.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._heap: list[tuple[float, int, Timer]] = []  # compared by time and order, which never are the same for two
        self._sequence = 0

    @property
    def now(self) -> float:
        """The present, in seconds."""
        return self._now

    def call_at(self, when: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Call `callback(*arguments)` at time `when`; at the present moment if `when` is past. An infinite `when` never
        comes."""
        if not when >= self._now:
            if when != when:
                raise ValueError("an appointment needs a time, not NaN")
            when = self._now
        timer = Timer(when, callback, arguments)
        if when != math.inf:
            self._sequence = sequence = self._sequence + 1
            heappush(self._heap, (when, sequence, timer))
        return timer

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Call `callback(*arguments)` in `delay` seconds."""
        return self.call_at(self._now + delay, callback, *arguments)

    def next_at(self) -> float | None:
        """The time of the next appointment, or None."""
        heap = self._heap
        while heap and heap[0][2]._callback is None:
            heappop(heap)
        return heap[0][0] if heap else None

    def step(self) -> bool:
        """Go to the next appointment and keep it. False if there is none."""
        when = self.next_at()
        if when is None:
            return False
        self._now = when
        heappop(self._heap)[2]._fire()
        return True

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, keeping every appointment on the way."""
        if not seconds >= 0:
            raise ValueError(f"time does not go back: {seconds}")
        self.advance_to(self._now + seconds)

    def advance_to(self, when: float) -> None:
        """Go to the time `when`, keeping every appointment up to and including it."""
        heap = self._heap
        while heap and heap[0][0] <= when:
            coming, _, timer = heappop(heap)
            callback = timer._callback
            if callback is not None:
                self._now = coming
                timer._callback = None
                callback(*timer._arguments)
        if when > self._now:
            self._now = when

    def run_until_idle(self, *, max_steps: int = 100_000) -> int:
        """Keep appointments until none is left; returns how many there were.

        Raises:
            RuntimeError: after `max_steps` of them: something reschedules itself for ever (a periodic timer, say; use
                `advance` then).
        """
        for steps in range(max_steps):
            if not self.step():
                return steps
        raise RuntimeError(f"still busy after {max_steps} steps, at {self._now} s")
