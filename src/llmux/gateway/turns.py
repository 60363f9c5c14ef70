"""What all happens at the same moment takes its turns, a few per round of the event loop.

When a model wakes up for ten thousand requests, or cannot be woken, all of them are granted or refused in one event.
To connect or to write an answer takes some 100 µs each: in one go, everybody else would wait for a second. The same
goes for ten thousand clients that send, or leave, in one instant: the event loop hears of all of them before it looks
at anything else. The first few go on at once, as they all do on an ordinary day, and the others take turns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from llmux import logs

AT_ONCE: Final = 32
"""How many get on in one round of the event loop."""

log = logs.get_logger(__name__)


class Waiting(Protocol):
    """What takes turns."""

    def proceed(self) -> None:
        """Its turn has come."""

    def broken(self) -> None:
        """`proceed` has raised: this one is given up."""


class Turns:
    """First come, first served."""

    __slots__ = ("_gone", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Waiting] = deque()
        self._gone = 0  # how many got on at once, not many rounds ago

    def at_once(self) -> bool:
        """May one more get on now? Else it has to `take` its turn. At most `AT_ONCE` may in one round of the loop.

        The count begins anew in the round after half of them are gone, not in every round: the loop need not be woken
        for it more often than once in so many requests.
        """
        gone = self._gone = self._gone + 1
        if gone == AT_ONCE // 2:
            self._loop.call_soon(self._begin_anew)
        return gone <= AT_ONCE

    def _begin_anew(self) -> None:
        self._gone = 0

    def take(self, one: Waiting) -> None:
        """Have `one.proceed` called soon."""
        if not self._waiting:
            self._loop.call_soon(self._round)
        self._waiting.append(one)

    def _round(self) -> None:
        waiting = self._waiting
        try:
            for _ in range(min(AT_ONCE, len(waiting))):
                one = waiting.popleft()
                try:
                    one.proceed()
                except Exception:  # a bug; whoever waits behind this one must not hang for it
                    log.exception("internal_error", at=type(one).__name__)
                    one.broken()
        finally:
            if waiting:
                self._loop.call_soon(self._round)
