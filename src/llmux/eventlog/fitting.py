"""How much a backend slows its requests down when it serves many together: fitted to who was there when. Pure.

The log has, of every request, when it was granted and when it ended. What is fitted is the backend of
`llmux.sim.backend`: up to so many requests run together, first come first served beyond that, and a request beside n - 1
others takes 1 + slope * (n - 1) times as long as it would alone.

The batch: where more requests are there than run, only the oldest can end. It is the least number such that next to no
request ended with that many older ones still there, although that would have happened many times by chance.

The slope: how long a request would take alone does not depend on how many others there are when it begins. So the slope
is the one for which the times alone, as they follow from the recorded ones, are not correlated with that number. (That
is an instrument, as econometrics has it. The plain regression of times on the mean number of others is wrong here: those
that take long see the others leave.)
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

#: Fewer requests than this say nothing. Of more than this many, the last ones are looked at.
_FEWEST = 100
_MOST = 10_000

#: How much less likely than 1 what was seen must be without a limit of the batch, as a logarithm; and how many ends may
#: contradict the limit, as a share: requests that failed, or a backend that is not quite first come first served.
_SURE = 12.0
_CONTRADICT = 0.02

#: Requests that nothing is known of but that they took no time have taken that long alone, in seconds.
_LEAST = 1e-3

_STEEPEST = 4.0
_HALVINGS = 30


class Stay(NamedTuple):
    """One request at its backend: granted at `begin`, gone at `end`, in seconds. `whole` says that it was served to its
    end, not cut off or given up."""

    begin: float
    end: float
    whole: bool


@dataclass(frozen=True, slots=True)
class Fit:
    """What a backend is like.

    Attributes:
        slope: how much longer, in parts of its time alone, each other request makes a request take.
        error: the standard error of `slope`.
        batch: how many requests run together; None if no limit was seen.
        requests: how many it is fitted to.
        most: how many were served together at most.
    """

    slope: float
    error: float
    batch: int | None
    requests: int
    most: int

    def slowdown(self, together: int) -> float:
        """How many times as long as alone a request takes when so many are served together."""
        return 1 + self.slope * (together - 1)


def fit(stays: Sequence[Stay]) -> Fit | None:
    """Fit a backend to its requests, which are in the order of their grants; None where they say too little."""
    looked_at = stays[-_MOST:]
    whole = [index for index, stay in enumerate(looked_at) if stay.whole]
    if len(whole) < _FEWEST:
        return None
    batch = _batch(looked_at)
    _, began_with = _served(looked_at, batch, 0.0)
    others = [began_with[index] for index in whole]
    mean = fmean(others)
    centred = [number - mean for number in others]
    if sum(one * one for one in centred) < 0.25 * len(centred):
        return None  # always about as many: there is nothing to compare

    def moments(slope: float) -> list[float]:
        alone, _ = _served(looked_at, batch, slope)
        logs = [math.log(max(_LEAST, alone[index])) for index in whole]
        level = fmean(logs)
        return [one * (log - level) for one, log in zip(centred, logs, strict=True)]

    low, high = 0.0, _STEEPEST
    if fmean(moments(low)) <= 0:
        high = low
    elif fmean(moments(high)) > 0:
        return None
    for _ in range(_HALVINGS if high > low else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if fmean(moments(middle)) > 0 else (low, middle)
    slope = (low + high) / 2
    here, step = moments(slope), max(0.01, slope / 20)
    falls = (fmean(here) - fmean(moments(slope + step))) / step
    if falls <= 0:
        return None
    error = math.sqrt(sum(one * one for one in here)) / len(here) / falls
    most = max(began_with)
    if error * (most - 1) > 0.25 * (1 + slope * (most - 1)):
        return None  # it could as well be half as much, or half as much again
    return Fit(slope, error, batch, len(whole), most)


def alone(stays: Sequence[Stay], fitted: Fit) -> list[float]:
    """Seconds that each of these requests would have taken alone."""
    return _served(stays, fitted.batch, fitted.slope)[0]


def _events(stays: Sequence[Stay]) -> list[tuple[float, int, int]]:
    """Ends and begins in the order of time; at one moment, ends first."""
    events = [(stay.begin, 1, index) for index, stay in enumerate(stays)]
    events += [(max(stay.end, stay.begin), 2 if stay.end <= stay.begin else 0, index) for index, stay in enumerate(stays)]
    events.sort()
    return events


def _batch(stays: Sequence[Stay]) -> int | None:
    """How many run together; None if no limit was seen."""
    there: list[int] = []  # by grant
    ends: list[tuple[int, int]] = []  # of each whole end: how many were there, and how many of them were older
    for _, kind, index in _events(stays):
        if kind == 1:
            there.append(index)
            continue
        older = there.index(index)
        if stays[index].whole:
            ends.append((len(there), older))
        del there[older]
    for limit in range(1, max((number for number, _ in ends), default=0)):
        crowded = [(number, older) for number, older in ends if number > limit]
        against = sum(older >= limit for _, older in crowded)
        if against <= _CONTRADICT * len(crowded) and sum(math.log(n / limit) for n, _ in crowded) > _SURE:
            return limit
    return None


def _served(stays: Sequence[Stay], batch: int | None, slope: float) -> tuple[list[float], list[int]]:
    """By request: the time that it would have taken alone, in seconds, and how many ran once it had begun."""
    most = len(stays) if batch is None else batch
    running: dict[int, float] = {}  # what was done of any request when it began
    queue: deque[int] = deque()
    fresh: list[int] = []
    done = at = 0.0
    took, began_with = [0.0] * len(stays), [1] * len(stays)
    for now, kind, index in _events(stays):
        if now > at:
            for one in fresh:
                began_with[one] = len(running)
            fresh.clear()
            done += (now - at) / (1 + slope * max(0, len(running) - 1))
            at = now
        if kind == 1:
            queue.append(index)
        elif index in running:
            took[index] = done - running.pop(index)
        else:  # it ended out of turn
            queue.remove(index)
            took[index] = (stays[index].end - stays[index].begin) / (1 + slope * max(0, len(running) - 1))
        while queue and len(running) < most:
            one = queue.popleft()
            running[one] = done
            fresh.append(one)
    return took, began_with
