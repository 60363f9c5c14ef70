"""How much a backend slows its requests down when it serves many together: fitted to who was there when. Pure.

The log has, of every request, when it was granted and when it ended. What is fitted is the backend of
`llmux.sim.backend`: up to so many requests run together, first come first served beyond that, and a request beside
n - 1 others takes 1 + slope * (n - 1) times as long as it would alone.

The batch: where more requests are there than run, only the oldest can end. It is the least number such that next to no
request ended with that many older ones still there, although some would have.

The slope: how likely a request is to end now depends on how much of it is done, and on how fast it advances. So among
those that are equally far, ends must be spread over the numbers of others there as the work done is; the slope is the
one with which they are. (The score of a piecewise constant hazard, with the number there as the covariate. The plain
regression of times on the mean number there is wrong here: those that take long see the others leave.)
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

#: Fewer requests than this say nothing. Of more than this many, the last ones are looked at.
_FEWEST = 100
_MOST = 6000

#: More work than this, as requests looked at whenever one begins or ends, takes more than a second or two.
_MOST_WORK = 120_000
_FEWEST_OF_MANY = 500

#: How many ends beyond a limit of the batch there would be without it, at least, and as a share of all ends while
#: more were there; and which share of them there may be all the same: requests that failed, say.
_SURE = 10.0
_SURE_SHARE = 0.03
_CONTRADICT = 0.05

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
    whole = [stay for stay in looked_at if stay.whole]
    if len(whole) < _FEWEST:
        return None
    steps = _steps(looked_at, None)
    size = sum(len(step.running) for step in steps)
    if size > _MOST_WORK and len(whole) > _FEWEST_OF_MANY:  # long queues: fewer of them say as much
        return fit(looked_at[-max(_FEWEST_OF_MANY, len(looked_at) * _MOST_WORK // size) :])
    free = _slope(looked_at, steps)
    limit = _batch(looked_at, steps, free.slope if free is not None else 0.0)
    if limit is None:
        return None if free is None else Fit(free.slope, free.error, None, len(whole), free.most)
    steps = _steps(looked_at, limit)
    found = _slope(looked_at, steps)
    if found is None:
        return Fit(0.0, None, limit, len(whole), max(len(step.running) for step in steps))
    return Fit(found.slope, found.error, limit, len(whole), found.most)


class _Slope(NamedTuple):
    slope: float
    error: float
    most: int


def _slope(stays: Sequence[Stay], steps: Sequence[_Step]) -> _Slope | None:
    """The slope, if there is enough to tell."""
    numbers = {len(step.running) for step in steps}
    if len(numbers) < 2:
        return None
    most, low, high = max(numbers), 0.0, _STEEPEST
    if _score(stays, steps, low).score >= 0:
        high = low
    elif _score(stays, steps, high).score < 0:
        return None
    for _ in range(_HALVINGS if high > low else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(stays, steps, middle).score < 0 else (low, middle)
    slope = (low + high) / 2
    step = max(0.02, slope / 10)
    ahead, behind = _score(stays, steps, slope + step), _score(stays, steps, max(0.0, slope - step))
    rises = (ahead.score - behind.score) / (step + min(step, slope))
    if rises <= 0:
        return None
    error = math.sqrt(ahead.variance) / rises
    if error * (most - 1) > 0.25 * (1 + slope * (most - 1)):
        return None  # it could as well be half as much, or half as much again
    return _Slope(slope, error, most)


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


def _batch(stays: Sequence[Stay], steps: Sequence[_Step], slope: float) -> int | None:
    """The least batch beyond which next to nothing ended of what would have, had all that were there run: each end is
    as likely to be that of any of them as such requests end, at what was done of them. None if there is no such."""
    seen = _score(stays, steps, slope)
    hazard = [ends / exposed if exposed > 0 else 0.0 for ends, exposed in zip(seen.ends, seen.exposed, strict=True)]
    most = max(len(step.running) for step in steps)
    beyond, expected, crowded = [0.0] * (most + 1), [0.0] * (most + 1), [0.0] * (most + 1)
    reached: dict[int, float] = {}
    for step in steps:
        advance = step.seconds / (1 + slope * (len(step.running) - 1))
        for index in step.running:
            reached[index] = reached.get(index, 0.0) + advance
        if step.ended is None or not stays[step.ended].whole or len(step.running) < 2:
            continue
        rates = [hazard[bisect_left(seen.edges, reached[index])] for index in step.running]  # by grant
        left = total = sum(rates)
        place = step.running.index(step.ended)
        for limit in range(1, len(rates)):
            left -= rates[limit - 1]
            crowded[limit] += 1
            beyond[limit] += place >= limit
            expected[limit] += left / total if total > 0 else 0.0
    for limit in range(1, most):
        enough = expected[limit] >= max(_SURE, _SURE_SHARE * crowded[limit])
        if enough and beyond[limit] <= _CONTRADICT * expected[limit]:
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


class _Seen(NamedTuple):
    """`score`: by how much more, in all, ran together when requests ended than the work done says; below 0 where the
    slope is too small. By part of the work, whose upper ends are `edges`: how much was done, and how many ended."""

    score: float
    variance: float
    edges: list[float]
    exposed: list[float]
    ends: list[int]


def _score(stays: Sequence[Stay], steps: Sequence[_Step], slope: float) -> _Seen:
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
    return _Seen(score, variance, edges, exposed, [len(numbers) for numbers in ended])


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
