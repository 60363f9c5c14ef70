"""Requests that all got on at the same moment take their turns, a few per round of the event loop.

When a model wakes up for ten thousand requests, or cannot be woken, all of them are granted or refused in one event.
To connect or to write an answer takes some 100 µs each: in one go, everybody else would wait for a second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

AT_ONCE: Final = 32
"""How many get on in one round of the event loop."""


class Waiting(Protocol):
    """What takes turns."""

    def proceed(self) -> None:
        """Its turn has come. Must not raise."""


class Turns:
    """First come, first served."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Waiting] = deque()

    def take(self, one: Waiting) -> None:
        """Have `one.proceed` called soon."""
        if not self._waiting:
            self._loop.call_soon(self._round)
        self._waiting.append(one)

    def _round(self) -> None:
        waiting = self._waiting
        for _ in range(min(AT_ONCE, len(waiting))):
            waiting.popleft().proceed()
        if waiting:
            self._loop.call_soon(self._round)
