"""How much a backend slows its requests down when it serves many together: fitted to who was there when. Pure.

The log has, of every request, when it was granted and when it ended. What is fitted is the backend of
`llmux.sim.backend`: up to so many requests run together, first come first served beyond that, and a request beside
n - 1 others takes 1 + slope * (n - 1) times as long as it would alone.

The batch: where more requests are there than run, only the oldest can end. It is the least number such that next to no
request ended with that many older ones still there, although that would have happened many times by chance.

The slope: how likely a request is to end now depends on how much of it is done, and on how fast it advances. So among
those that are equally far, ends must be spread over the numbers of others there as the work done is; the slope is the
one with which they are. (The score of a piecewise constant hazard, with the number there as the covariate. The plain
regression of times on the mean number there is wrong here: those that take long see the others leave.)
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

#: Fewer requests than this say nothing. Of more than this many, the last ones are looked at.
_FEWEST = 100
_MOST = 6000

#: How much less likely than 1 what was seen must be without a limit of the batch, as a logarithm; and how many ends may
#: contradict the limit, as a share: requests that failed, or a backend that is not quite first come first served.
_SURE = 12.0
_CONTRADICT = 0.02

#: The work of a request is looked at in so many parts, of as many ends each.
_PARTS = 60

_STEEPEST = 4.0
_HALVINGS = 14


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
        error: the standard error of `slope`; None where nothing but the batch is known, and `slope` is taken for 0.
        batch: how many requests run together; None if no limit was seen.
        requests: how many it is fitted to.
        most: how many were served together at most.
    """

    slope: float
    error: float | None
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
    steps = _steps(looked_at, batch)
    numbers = {len(step.running) for step in steps}
    most = max(numbers, default=1)
    known = Fit(0.0, None, batch, len(whole), most) if batch is not None else None
    if batch == 1 or len(numbers) < 2:
        return known

    low, high = 0.0, _STEEPEST
    if _score(looked_at, steps, low)[0] >= 0:
        high = low
    elif _score(looked_at, steps, high)[0] < 0:
        return known
    for _ in range(_HALVINGS if high > low else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(looked_at, steps, middle)[0] < 0 else (low, middle)
    slope = (low + high) / 2
    step = max(0.02, slope / 10)
    ahead, information = _score(looked_at, steps, slope + step)
    behind = _score(looked_at, steps, max(0.0, slope - step))[0]
    rises = (ahead - behind) / (step + min(step, slope))
    if rises <= 0:
        return known
    error = math.sqrt(information) / rises
    if error * (most - 1) > 0.25 * (1 + slope * (most - 1)):
        return known  # it could as well be half as much, or half as much again
    return Fit(slope, error, batch, len(whole), most)


def pooled(fits: Mapping[str, Fit]) -> dict[str, Fit]:
    """The same fits, and where their slopes are alike but for chance, all with the slope that fits them together: those
    of models on one machine mostly are, and together they say more."""
    known = [(one.slope, one.error) for one in fits.values() if one.error]
    if len(known) < 2:
        return dict(fits)
    weights = [error**-2 for _, error in known]
    slope = sum([weight * one for weight, (one, _) in zip(weights, known, strict=True)]) / sum(weights)
    error = sum(weights) ** -0.5
    differ = sum([weight * (one - slope) ** 2 for weight, (one, _) in zip(weights, known, strict=True)])
    freedom = len(known) - 1
    if differ > freedom + 2 * math.sqrt(2 * freedom):
        return dict(fits)
    return {name: replace(one, slope=slope, error=error) if one.error else one for name, one in fits.items()}


def alone(stays: Sequence[Stay], fitted: Fit) -> list[float]:
    """Seconds that each of these requests would have taken alone."""
    return _work(stays, _steps(stays, fitted.batch), fitted.slope)


def _events(stays: Sequence[Stay]) -> list[tuple[float, int, int]]:
    """Ends and begins in the order of time; at one moment, ends first."""
    events = [(stay.begin, 1, index) for index, stay in enumerate(stays)]
    for index, stay in enumerate(stays):  # who takes no time ends after it began
        events.append((stay.end, 0, index) if stay.end > stay.begin else (stay.begin, 2, index))
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


class _Step(NamedTuple):
    """For `seconds`, the same requests ran; then one ended and others began."""

    running: tuple[int, ...]
    seconds: float
    ended: int | None


def _steps(stays: Sequence[Stay], batch: int | None) -> list[_Step]:
    """What ran when. O(requests, times how many of them run together)."""
    most = len(stays) if batch is None else batch
    running: dict[int, None] = {}
    queue: deque[int] = deque()
    steps: list[_Step] = []
    at = 0.0
    for now, kind, index in _events(stays):
        if kind == 1:
            if now > at and running:
                steps.append(_Step(tuple(running), now - at, None))
            queue.append(index)
        elif index in running:
            steps.append(_Step(tuple(running), now - at, index))
            del running[index]
        else:  # it ended out of turn
            queue.remove(index)
            if now > at and running:
                steps.append(_Step(tuple(running), now - at, None))
        at = now
        while queue and len(running) < most:
            running[queue.popleft()] = None
    return steps


def _score(stays: Sequence[Stay], steps: Sequence[_Step], slope: float) -> tuple[float, float]:
    """By how much more, in all, ran together when requests ended than the work done says; below 0 where `slope` is too
    small. And its variance."""
    took = _work(stays, steps, slope)
    ends = sorted(took[index] for index, stay in enumerate(stays) if stay.whole)
    edges = [ends[len(ends) * part // _PARTS] for part in range(1, _PARTS)] + [math.inf]
    exposed, weighed = [0.0] * _PARTS, [0.0] * _PARTS
    ended: list[list[int]] = [[] for _ in range(_PARTS)]
    reached: dict[int, tuple[float, int]] = {}  # how much of a request is done, and the part that this is in
    for step in steps:
        number = len(step.running)
        advance = step.seconds / (1 + slope * (number - 1))
        for index in step.running:
            done, part = reached.get(index, (0.0, 0))
            until = done + advance
            while until > edges[part]:
                exposed[part] += edges[part] - done
                weighed[part] += (edges[part] - done) * number
                done = edges[part]
                part += 1
            exposed[part] += until - done
            weighed[part] += (until - done) * number
            reached[index] = until, part
        if step.ended is not None and stays[step.ended].whole:
            ended[reached[step.ended][1]].append(number)
    score = variance = 0.0
    for part, numbers in enumerate(ended):
        if exposed[part] > 0:
            usual = weighed[part] / exposed[part]
            score += sum([number - usual for number in numbers])
            variance += sum([(number - usual) ** 2 for number in numbers])
    return score, variance


def _work(stays: Sequence[Stay], steps: Sequence[_Step], slope: float) -> list[float]:
    """Seconds that each request would have taken alone. One that ended out of turn never ran: it took what it took."""
    took = [stay.end - stay.begin for stay in stays]
    began: dict[int, float] = {}
    done = 0.0
    for step in steps:
        for index in step.running:
            began.setdefault(index, done)
        done += step.seconds / (1 + slope * (len(step.running) - 1))
        if step.ended is not None:
            took[step.ended] = done - began[step.ended]
    return took
