"""The queue of one model: in which order those who wait for it get on.

Pure; part of the core. Requests have a level, 0 unless they say otherwise, and every level counts as so many seconds of
waiting. So the order between any two never changes once both are there: nobody is overtaken by those who come more than
the difference of their levels, in seconds, after him, and nobody starves.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import merge
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmux.core.ledger import Request


class Waiters(dict[int, "Request"]):
    """Requests by their ids, in the order in which they came. All of it is O(1) per request but `in_order`.

    As long as all levels are alike, as they nearly always are, it is a dict and nothing else. From the first request of
    another level on, until the queue is empty, there is also one queue per level.
    """

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        super().__init__()
        self._lanes: dict[int, dict[int, Request]] | None = None

    def add(self, request: Request) -> None:
        """Put `request`, the youngest, into its place."""
        if self._lanes is None and request.level:
            self._lanes = {0: dict(self)}
        self[request.request_id] = request
        if self._lanes is not None:
            self._lanes.setdefault(request.level, {})[request.request_id] = request

    def remove(self, request: Request) -> None:
        """Take `request` out."""
        del self[request.request_id]
        if self._lanes is not None:
            del self._lanes[request.level][request.request_id]
            if not self:
                self._lanes = None

    @property
    def highest(self) -> int:
        """The highest level of those who wait; 0 if nobody does."""
        if self._lanes is None:
            return 0
        return max(level for level, lane in self._lanes.items() if lane)

    def first(self, level_seconds: float) -> Request:
        """Whose turn is next; there must be somebody. A level is worth `level_seconds` of waiting."""
        if self._lanes is None:
            return next(iter(self.values()))
        heads = [next(iter(lane.values())) for lane in self._lanes.values() if lane]
        return min(heads, key=lambda request: _turn(request, level_seconds))

    def in_order(self, level_seconds: float) -> Iterable[Request]:
        """All of them, in the order of their turns."""
        if self._lanes is None:
            return self.values()
        lanes = [lane.values() for lane in self._lanes.values()]
        return merge(*lanes, key=lambda request: _turn(request, level_seconds))


def _turn(request: Request, level_seconds: float) -> tuple[float, int]:
    return request.arrived - request.level * level_seconds, request.request_id
