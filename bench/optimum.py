"""The best that any online policy can do with two models that take turns: a yardstick, by value iteration.

Poisson arrivals, exponential service times, a batch that serves its requests together without slowing down, switches
that take a fixed time, all rates known, waits counted to the start of service. A policy knows how many requests the
awake model has (`x`, those in the backend's own queue included) and how many wait for the other one (`y`), and says
whether to go on or to leave: take no more requests, drain, switch, release who waits. With these assumptions nothing
else that a policy could look at would help it, so the least mean wait of this Markov decision process is the least
mean wait of all policies of llmux (which switch only to a model that somebody waits for; with `ahead` also to one that
nobody does).

Leaving takes a while: drain and switch are one long step with its exact mean cost, after which as many requests have
come as a Poisson process brings in that time (by quadrature over the drain's distribution). Value iteration runs on
the process made discrete in time (Schweitzer 1971), whose bounds (Odoni 1969) say how far the answer may be off. Queues
are cut off at a length that is reached next to never.

Needs numpy, which comes with `pip install 'llmux-server[plot]'`. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmux.policy import Decision, Stay, SwitchTo, View

Floats = NDArray[np.float64]
Rule = Callable[[int, int, int], bool]  # awake model, its requests, those who wait for the other -> leave?

_NODES = 48  # of the quadrature over the time that a drain takes
_MOST_STEPS = 200_000


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on one device. Times in seconds, rates in requests per second.

    Attributes:
        rates: arrivals per model.
        service: mean time that a request is served.
        cost: time that a switch takes, to either side.
        batch: most requests that are served together.
    """

    rates: tuple[float, float]
    service: float
    cost: float
    batch: int = 16

    @classmethod
    def of(cls, load: float, skew: float, cost: float, service: float = 5.25, batch: int = 16) -> Pair:
        """`load` is the share of one batch that all requests keep busy; the first model gets `skew` times as many as
        the second."""
        total = load * batch / service
        return cls((total * skew / (1 + skew), total / (1 + skew)), service, cost, batch)


@dataclass(frozen=True, slots=True)
class Value:
    """What a policy comes to.

    Attributes:
        mean: mean wait over all requests, in seconds.
        means: mean wait per model.
        slack: how far `mean` may be off, in seconds.
        leaves: per awake model, whether to leave: an array over (its requests, who waits for the other).
    """

    mean: float
    means: tuple[float, float]
    slack: float
    leaves: tuple[NDArray[np.bool_], NDArray[np.bool_]]


def optimum(
    pair: Pair, *, weights: tuple[float, float] = (1.0, 1.0), ahead: bool = False, exact: float = 1e-3
) -> Value:
    """The policy with the least mean wait.

    Args:
        weights: what a second of waiting counts, per model.
        ahead: also look at policies that switch to a model nobody waits for.
        exact: stop when the mean is known to this share of itself.
    """
    process = _Process(pair)
    leaves, _ = process.improve(weights, ahead, exact)
    return process.evaluate(leaves, exact / 4)


def value_of(pair: Pair, rule: Rule, *, exact: float = 1e-3) -> Value:
    """What the mean wait is under a given rule. It is asked only where somebody waits."""
    process = _Process(pair)
    grids = []
    for awake in (0, 1):
        own, other = process.caps[awake], process.caps[1 - awake]
        grids.append(
            np.array([[y > 0 and rule(awake, x, y) for y in range(other + 1)] for x in range(own + 1)], dtype=np.bool_)
        )
    return process.evaluate((grids[0], grids[1]), exact)


class TablePolicy:
    """A policy of `Value.leaves`, to be simulated: the first model is `names[0]`."""

    name = "optimum"

    def __init__(self, names: Sequence[str], leaves: Sequence[NDArray[np.bool_]]) -> None:
        self._places = {name: place for place, name in enumerate(names)}
        self._leaves = leaves

    def decide(self, view: View, now: float) -> Decision:
        for target in view.waiting():
            awake = [model for model in view.models() if model.awake_since is not None]
            if not awake:
                return SwitchTo(target.name)
            table = self._leaves[self._places[awake[0].name]]
            x = min(awake[0].in_flight, table.shape[0] - 1)
            y = min(target.waiting, table.shape[1] - 1)
            if table[x, y]:
                return SwitchTo(target.name)
        return Stay()


class _Process:
    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.rate = 1.0 / pair.service
        # Whoever is away for an absence and both drains comes back to that many, give or take.
        away = 3 * pair.cost + 8 * pair.service
        most = [rate * away for rate in pair.rates]
        self.caps = [math.ceil(20 + one + 8 * math.sqrt(one)) for one in most]
        self.step = 1.0 / (sum(pair.rates) + pair.batch * self.rate)
        self._sides = [_Side(self, awake) for awake in (0, 1)]

    def improve(
        self, weights: tuple[float, float], ahead: bool, exact: float
    ) -> tuple[tuple[NDArray[np.bool_], NDArray[np.bool_]], float]:
        """Value iteration; the policy that it ends with, and the cost per second."""
        sides = self._sides
        values: list[Floats] = [side.blank() for side in sides]
        stay = [side.stay_cost(weights) for side in sides]
        leave = [side.leave_cost(weights) for side in sides]
        leaves: list[NDArray[np.bool_]] = []
        low = high = 0.0
        for _ in range(_MOST_STEPS):
            after: list[Floats] = []
            leaves = []
            for side in sides:
                own = values[side.awake]
                going_on = stay[side.awake] + side.go_on(own)
                going = leave[side.awake] + side.go(own, values[1 - side.awake])
                if not ahead:
                    going[:, 0] = np.inf
                leaves.append(going < going_on)
                after.append(np.minimum(going, going_on))
            low, high = _drift(values, after, self.step)
            values = _anchored(after)
            if high - low <= exact * max(low, 1e-12):
                break
        return (leaves[0], leaves[1]), (low + high) / 2

    def evaluate(self, leaves: tuple[NDArray[np.bool_], NDArray[np.bool_]], exact: float) -> Value:
        """The mean waits under one policy."""
        sides = self._sides
        means: list[float] = []
        slack = 0.0
        total = sum(self.pair.rates)
        for counted in (0, 1):
            weights = (1.0, 0.0) if counted == 0 else (0.0, 1.0)
            stay = [side.stay_cost(weights) for side in sides]
            leave = [side.leave_cost(weights) for side in sides]
            values: list[Floats] = [side.blank() for side in sides]
            low = high = 0.0
            for _ in range(_MOST_STEPS):
                after = []
                for side in sides:
                    own = values[side.awake]
                    going_on = stay[side.awake] + side.go_on(own)
                    going = leave[side.awake] + side.go(own, values[1 - side.awake])
                    after.append(np.where(leaves[side.awake], going, going_on))
                low, high = _drift(values, after, self.step)
                values = _anchored(after)
                if high - low <= exact * max(low, 1e-12):
                    break
            means.append((low + high) / 2 / self.pair.rates[counted])
            slack += (high - low) / 2 / total
        mean = sum(rate * one for rate, one in zip(self.pair.rates, means, strict=True)) / total
        return Value(mean, (means[0], means[1]), slack, leaves)


class _Side:
    """The states in which one of the two models is awake: arrays over (its requests, who waits for the other)."""

    def __init__(self, process: _Process, awake: int) -> None:
        pair, rate = process.pair, process.rate
        self.awake = awake
        self.own, self.other = process.caps[awake], process.caps[1 - awake]
        self._step = process.step
        self._comes, self._others = pair.rates[awake], pair.rates[1 - awake]
        x = np.arange(self.own + 1, dtype=np.float64)
        served = np.minimum(x, pair.batch)
        self._ends = (served * rate)[:, None]
        self._queued = np.maximum(x - pair.batch, 0.0)
        self._idle = 1.0 / process.step - self._comes - self._others - self._ends
        # The drain is a chain of exponential steps, one per request that ends.
        gaps = np.concatenate(([0.0], 1.0 / (served[1:] * rate)))
        drain, spread = np.cumsum(gaps), np.cumsum(gaps**2)
        self._time = pair.cost + drain
        self._square = self._time**2 + spread
        self._drain_queued = np.cumsum(self._queued * gaps)
        self._share = (self._step / self._time)[:, None]
        self._chances, times = _drains(served * rate, drain[-1] + 8 * math.sqrt(spread[-1]))
        times = times + pair.cost
        self._brought = _poisson(self._comes * times, self.own)  # for the awake one, while it is gone
        shifts = _poisson(self._others * times, self.other)
        self._joined = np.zeros((len(times), self.other + 1, self.other + 1))  # who waits -> who is released
        for y in range(self.other + 1):
            self._joined[:, y, y:] = shifts[:, : self.other + 1 - y]
            self._joined[:, y, -1] += shifts[:, self.other + 1 - y :].sum(axis=1)

    def blank(self) -> Floats:
        return np.zeros((self.own + 1, self.other + 1))

    def stay_cost(self, weights: tuple[float, float]) -> Floats:
        """Seconds waited during one step of going on."""
        y = np.arange(self.other + 1, dtype=np.float64)
        mine, others = weights[self.awake], weights[1 - self.awake]
        cost: Floats = self._step * (mine * self._queued[:, None] + others * y[None, :])
        return cost

    def go_on(self, values: Floats) -> Floats:
        more = np.concatenate((values[1:], values[-1:]))
        fewer = np.concatenate((values[:1], values[:-1]))
        another = np.concatenate((values[:, 1:], values[:, -1:]), axis=1)
        after: Floats = self._step * (
            self._comes * more + self._others * another + self._ends * fewer + self._idle * values
        )
        return after

    def leave_cost(self, weights: tuple[float, float]) -> Floats:
        """Seconds waited during drain and switch, per step of that time."""
        y = np.arange(self.other + 1, dtype=np.float64)
        mine, others = weights[self.awake], weights[1 - self.awake]
        cost = (
            others * (y[None, :] * self._time[:, None] + self._others * self._square[:, None] / 2)
            + mine * (self._comes * self._square / 2 + self._drain_queued)[:, None]
        )
        return np.asarray(cost * self._share)

    def go(self, values: Floats, others: Floats) -> Floats:
        gathered = others @ self._brought.T  # over (who is released, node)
        there = np.matmul(self._joined, gathered.T[:, :, None])[:, :, 0]
        after: Floats = self._share * (self._chances @ there) + (1 - self._share) * values
        return after


def _drains(ends: Floats, longest: float) -> tuple[Floats, Floats]:
    """The distribution of the time until all have ended, from each number on: chances over nodes, and the nodes, whose
    first is 0 for those who have nothing to drain."""
    per_node = 40
    step = longest / (_NODES * per_node)
    over = np.zeros(len(ends))  # the chance that it is over by now
    over[0] = 1.0
    before = over.copy()
    chances = np.zeros((len(ends), _NODES + 1))
    chances[0, 0] = 1.0
    for node in range(_NODES):
        for _ in range(per_node):
            # One step of the midpoint rule for d(over[x])/dt = ends[x] * (over[x - 1] - over[x]).
            half = over + step / 2 * ends * (np.concatenate(([1.0], over[:-1])) - over)
            over = over + step * ends * (np.concatenate(([1.0], half[:-1])) - half)
        chances[1:, node + 1] = (over - before)[1:]
        before = over.copy()
    chances[1:, -1] += (1.0 - over)[1:]
    width = longest / _NODES
    return chances, np.concatenate(([0.0], (np.arange(_NODES) + 0.5) * width))


def _poisson(means: Floats, most: int) -> Floats:
    """Chances of 0, 1, ... `most` or more, for each mean."""
    counts = np.arange(most + 1)
    logs = np.array([math.lgamma(count + 1) for count in counts])
    with np.errstate(divide="ignore"):
        chances: Floats = np.exp(counts[None, :] * np.log(means)[:, None] - means[:, None] - logs[None, :])
    chances[:, -1] += np.maximum(0.0, 1.0 - chances.sum(axis=1))
    return chances


def _drift(before: Sequence[Floats], after: Sequence[Floats], step: float) -> tuple[float, float]:
    """Bounds on the cost per second: the least and the largest growth in one step."""
    growth: list[Any] = [new - old for new, old in zip(after, before, strict=True)]
    return min(float(one.min()) for one in growth) / step, max(float(one.max()) for one in growth) / step


def _anchored(values: Sequence[Floats]) -> list[Floats]:
    anchor = values[0][0, 0]
    return [one - anchor for one in values]
