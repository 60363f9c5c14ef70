"""How many requests come for a model. Pure, and O(1) per request."""

from __future__ import annotations

#: Length of the window, in seconds: long against a switch, short against a day.
WINDOW = 300.0


class ArrivalRate:
    """Requests per second over about the last `WINDOW` seconds.

    Counts per window, and weighs the last full one by how much of it lies within `WINDOW` seconds of now. Only sums and
    products, no exponentials: a recorded log gives the same figures on every machine.
    """

    __slots__ = ("_began", "_count", "_first", "_previous")

    def __init__(self) -> None:
        self._first: float | None = None
        self._began = 0.0
        self._count = 0
        self._previous = 0

    def record(self, now: float) -> None:
        """A request came in at `now`."""
        if self._first is None:
            self._first = self._began = now
        else:
            self._roll(now)
        self._count += 1

    def per_second(self, now: float) -> float:
        """The rate at `now`; 0 before the first request. Over less than a window, the rate since the first request."""
        if self._first is None:
            return 0.0
        if now - self._began >= WINDOW:
            self._roll(now)
        age = now - self._first
        if age < WINDOW:
            return (self._count + self._previous) / max(age, WINDOW / 10)
        return (self._count + self._previous * (1 - (now - self._began) / WINDOW)) / WINDOW

    def _roll(self, now: float) -> None:
        past = int((now - self._began) // WINDOW)
        if past > 0:
            self._previous = self._count if past == 1 else 0
            self._count = 0
            self._began += past * WINDOW
