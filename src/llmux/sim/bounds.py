"""A mean wait that no policy can go below, however clever and clairvoyant, on given traffic. Pure.

The bound is the value of a Lagrangian dual, which is a lower bound whatever the prices (weak duality):

- Put a price on each device in each stretch of time, for all of its room, per second. A model that is up pays for its
  share of the device from the start of its wake hook to the end of its sleep hook, requests in flight included.
- Let each model choose for itself, knowing all that will come, when to be up, so that what its requests wait plus what
  it pays is least. It is alone in this: it may be up while others are. The wake hook runs while somebody waits for the
  model, the sleep hook only once every request that was served has had its time, alone in the batch.
- In any schedule that a core can produce, the models' claims on a device never exceed it, so that together they pay at
  most what all of the room costs. Hence: total wait >= sum over models of (wait + payment at its own best) - cost of
  all the room.

Without prices, this says that every model stays up for ever. Subgradient steps raise the price where the models'
choices overlap and lower it where the device is free, and the best value seen is taken. Each model's best choice is
found exactly, by dynamic programming over its requests: `_Part.solve`.

What the bound does not see, so that no policy reaches it: limits of the batch, what is between a request and the wake
hook (the drain and the sleep of the predecessor), and whatever finer prices and more steps would still find.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from llmux.core import CoreSettings, ModelSpec
from llmux.sim.backend import BackendModel
from llmux.sim.hooks import HookTimes
from llmux.sim.trace import Arrival

_INFINITY = math.inf

#: Steps at most, and how much work they may be in all, counted in choices looked at: about 5 s on one core.
_STEPS = 80
_WORK = 1_000_000

#: Stretches of time with a price of their own: half the shortest cost of a switch long, but no more of them than this
#: per request, and in all.
_STRETCHES_PER_REQUEST = 20
_MOST_STRETCHES = 4_000


def lower_bound(
    arrivals: Sequence[Arrival],
    settings: CoreSettings,
    hooks: HookTimes,
    backends: BackendModel | Mapping[str, BackendModel] | None = None,
) -> float | None:
    """A lower bound, in seconds, on the mean wait from arrival to the start of service.

    It holds for every policy that serves all of `arrivals` (in the order of time), with everything asleep at first and
    hooks that take what `hooks` says. The same arguments give the same bound. Takes a few seconds at most for traces of
    ten thousand requests, and grows with their number.

    Returns:
        The bound; None where there is none: hooks run into their timeouts, or nothing arrives. Where hook times are
        drawn at random (`HookTimes.noise`), it is that for their means, and only about a bound.
    """
    specs = {spec.name: spec for spec in settings.models}
    arrivals = [arrival for arrival in arrivals if arrival.model in specs]
    if not arrivals:
        return None
    parts: list[_Part] = []
    for spec in settings.models:
        mine = [arrival for arrival in arrivals if arrival.model == spec.name]
        if mine:
            kind = backends.get(spec.name) if isinstance(backends, Mapping) else backends
            part = _part(mine, spec, settings, hooks, kind if kind is not None else BackendModel())
            if part is None:
                return None
            parts.append(part)
    end = arrivals[-1].at + sum(part.wake + part.sleep + max(part.services) for part in parts)
    costs = [part.wake + part.sleep for part in parts if part.wake + part.sleep > 0]
    if not costs:
        return 0.0  # switches take no time, and drains alone are not worth the work
    width = max(min(costs) / 2, end / min(_MOST_STRETCHES, _STRETCHES_PER_REQUEST * len(arrivals)))
    return _ascend(parts, list(settings.devices), end, width) / len(arrivals)


def _part(
    arrivals: Sequence[Arrival], spec: ModelSpec, settings: CoreSettings, hooks: HookTimes, kind: BackendModel
) -> _Part | None:
    others = [other.name for other in settings.models if other is not spec]
    into = [hooks.pairs.get((other, spec.name)) for other in others]
    out = [hooks.pairs.get((spec.name, other)) for other in others]
    wakes = [hooks.wakes[spec.name] if cost is None else cost * (1 - hooks.sleep_share) for cost in [None, *into]]
    sleeps = [hooks.sleeps[spec.name] if cost is None else cost * hooks.sleep_share for cost in out]
    for seconds, timeout in ((wakes, spec.wake_timeout), (sleeps, spec.sleep_timeout)):
        if timeout is not None and max(seconds, default=0.0) > timeout:
            return None
    services = [0.0] * len(arrivals)
    if settings.drain_before_switch:
        longest = _INFINITY if spec.drain_timeout is None else spec.drain_timeout
        services = [min(longest, kind.alone(one.prompt_tokens, one.output_tokens)) for one in arrivals]
    claims = tuple(
        {device: amount / settings.devices[device] for device, amount in placement.items() if amount}
        for placement in spec.placements
    )
    return _Part([one.at for one in arrivals], services, min(wakes), min(sleeps, default=0.0), claims)


def _ascend(parts: Sequence[_Part], devices: Sequence[str], end: float, width: float) -> float:
    """Subgradient ascent over the prices; the best value that was seen, in request-seconds."""
    stretches = math.ceil(end / width) + 1
    prices = {device: _Prices([0.0] * stretches, width) for device in devices}
    best, best_values, ambition, failures, work = 0.0, {name: one.values for name, one in prices.items()}, 1.0, 0, 0
    for _ in range(_STEPS):
        used = {device: [0.0] * stretches for device in devices}
        value = -sum(price.total for price in prices.values())
        before = work
        for part in parts:
            cost, looked = part.solve(prices, used)
            value += cost
            work += looked
        if value > best * 1.001:
            best, best_values, failures = value, {name: one.values for name, one in prices.items()}, 0
        else:
            failures += 1
            if failures == 3:  # too bold: from the best so far on, with smaller steps
                ambition, failures = ambition / 2, 0
                prices = {name: _Prices(values, width) for name, values in best_values.items()}
                if ambition < 1 / 64:
                    break
                continue
        if work + (work - before) > _WORK:
            break
        excess = {
            name: [
                seconds - width if price > 0 or seconds > width else 0.0
                for seconds, price in zip(used[name], prices[name].values, strict=True)
            ]
            for name in devices
        }
        norm = sum(one * one for row in excess.values() for one in row)
        if norm == 0:
            break  # nothing overlaps, and nothing that is paid for is left unused: this is the best there is
        # Polyak's step towards a value that is hoped for: twice the best at first.
        step = (ambition * max(best, 1.0) + best - value) / norm
        prices = {
            name: _Prices(
                [max(0.0, old + step * one) for old, one in zip(price.values, excess[name], strict=True)], width
            )
            for name, price in prices.items()
        }
    return best


class _Prices:
    """What a device costs over time, in request-seconds per second: constant on stretches of `width` seconds, and 0
    after the last."""

    __slots__ = ("highest", "sums", "total", "values", "width")

    def __init__(self, values: list[float], width: float) -> None:
        self.values = values
        self.width = width
        self.sums = [0.0]
        for value in values:
            self.sums.append(self.sums[-1] + value * width)
        self.total = self.sums[-1]
        self.highest = max(values)

    def until(self, at: float) -> float:
        """The cost of the device from the beginning until `at`."""
        stretch = int(at / self.width)
        if stretch >= len(self.values):
            return self.total
        return self.sums[stretch] + (at - stretch * self.width) * self.values[stretch]


class _Bill:
    """What one placement costs over time: shares of devices."""

    __slots__ = ("highest", "prices", "shares")

    def __init__(self, claim: Mapping[str, float], prices: Mapping[str, _Prices]) -> None:
        self.shares = list(claim.values())
        self.prices = [prices[device] for device in claim]
        self.highest = sum(share * price.highest for share, price in zip(self.shares, self.prices, strict=True))

    def until(self, at: float) -> float:
        return sum(share * price.until(at) for share, price in zip(self.shares, self.prices, strict=True))


class _Stay(NamedTuple):
    """How a model that is asleep is best woken: at `ready` its wake hook ends and all its requests up to the one with
    index `last` are served; then it stays up, or is put to sleep, which ends at `gone`."""

    last: int
    ready: float
    gone: float | None
    bill: int


class _Part:
    """One model's side of the bound.

    Attributes:
        arrivals: times, ascending.
        services: seconds that each request takes at least.
        wake, sleep: seconds that the hooks take at least.
        claims: per placement, the share of each device.
    """

    def __init__(
        self,
        arrivals: Sequence[float],
        services: Sequence[float],
        wake: float,
        sleep: float,
        claims: Sequence[Mapping[str, float]],
    ) -> None:
        self.arrivals = arrivals
        self.services = services
        self.wake = wake
        self.sleep = sleep
        self.claims = claims
        self._sums = [0.0]
        self._ends: list[float] = []  # when all requests up to that one can be over, at the earliest
        for at, service in zip(arrivals, services, strict=True):
            self._sums.append(self._sums[-1] + at)
            self._ends.append(max(at + service, self._ends[-1] if self._ends else 0.0))

    def solve(self, prices: Mapping[str, _Prices], used: Mapping[str, list[float]]) -> tuple[float, int]:
        """The least sum of waits and payments, and how many choices were looked at; adds to `used` the seconds that
        the choice takes of each stretch of each device.

        Backwards over the requests: `asleep[k]` is the least cost from the k-th request on when the model is asleep and
        the k-th is the first that waits; `awake[k]` when it is up as the k-th arrives. While it is up nobody waits. It
        can sleep when all that it has served is over: those that it served in an earlier stay were over before this
        one began, so that all requests so far may be counted (`_ends`).
        """
        arrivals, sleep, count = self.arrivals, self.sleep, len(self.arrivals)
        bills = [_Bill(claim, prices) for claim in self.claims]
        asleep = [0.0] * (count + 1)
        awake = [[0.0] * (count + 1) for _ in bills]
        paid = [[bill.until(at) for at in arrivals] for bill in bills]
        leaving = [[bill.until(end + sleep) for end in self._ends] for bill in bills]
        stays: list[_Stay] = [_Stay(0, 0.0, None, 0)] * count
        keeps = [[False] * count for _ in bills]
        looked = 0
        for k in range(count - 1, -1, -1):
            best = _INFINITY
            for index, bill in enumerate(bills):
                up, so_far = awake[index], paid[index]
                up[k] = leaving[index][k] - so_far[k] + asleep[k + 1]
                if k + 1 < count:
                    keeping = so_far[k + 1] - so_far[k] + up[k + 1]
                    if keeping < up[k]:
                        up[k] = keeping
                        keeps[index][k] = True
                cost, stay, choices = self._wake(k, bill, index, asleep, up, so_far)
                looked += choices
                if cost < best:
                    best, stays[k] = cost, stay
            asleep[k] = best
        self._use(stays, keeps, prices, used)
        return asleep[0], looked

    def _wake(
        self, k: int, bill: _Bill, index: int, asleep: list[float], up: list[float], paid: list[float]
    ) -> tuple[float, _Stay, int]:
        """The best way to wake the model when the k-th request is the first that waits: its cost, and how many
        choices were looked at.

        For each last request to be served at once, the cost is piecewise linear in the time of the wake, so it is least
        at an end of the interval or where a price changes. It stops as soon as what waits costs more than staying up
        all the time would have: for all later choices the sum is at least ``up[k] + waits - price of the absence``.
        """
        arrivals, services, sums, wake, until = self.arrivals, self.services, self._sums, self.wake, bill.until
        count = len(arrivals)
        ready = max(arrivals[k], self._ends[k - 1] + self.sleep if k else 0.0) + wake
        last = bisect_right(arrivals, ready, k) - 1
        service = max(services[k : last + 1])
        best = _INFINITY
        choice = (last, ready, True, service)
        looked = 0
        while True:
            waiting = last - k + 1
            waited = sums[last + 1] - sums[k]
            tail = service + self.sleep
            started = until(ready - wake)
            settled = waiting >= bill.highest  # waiting longer costs more than not being up could save
            if settled and up[k] + waiting * ready - waited - (started - paid[k]) >= best:
                break
            following = arrivals[last + 1] if last + 1 < count else _INFINITY
            keep = paid[last + 1] + up[last + 1] if last + 1 < count else _INFINITY
            leave = asleep[last + 1]
            times = (ready,) if settled else (ready, *_kinks(bill, ready, following, wake, tail))
            for at in times:
                looked += 1
                cost = waiting * at - waited - (started if at == ready else until(at - wake))
                if cost + keep < best:
                    best, choice = cost + keep, (last, at, True, service)
                cost += until(at + tail) + leave
                if cost < best:
                    best, choice = cost, (last, at, False, service)
            last += 1
            if last == count:
                break
            ready = max(ready, arrivals[last])
            service = max(service, services[last])
        last, ready, keeps, service = choice
        return best, _Stay(last, ready, None if keeps else ready + service + self.sleep, index), looked

    def _use(
        self,
        stays: Sequence[_Stay],
        keeps: Sequence[Sequence[bool]],
        prices: Mapping[str, _Prices],
        used: Mapping[str, list[float]],
    ) -> None:
        """Follow the best choices from the first request on."""
        k, count = 0, len(self.arrivals)
        while k < count:
            stay = stays[k]
            k, gone = stay.last + 1, stay.gone
            while gone is None:
                if not keeps[stay.bill][k]:
                    gone = self._ends[k] + self.sleep
                k += 1
            for device, share in self.claims[stay.bill].items():
                _add(used[device], prices[device].width, stay.ready - self.wake, gone, share)


def _kinks(bill: _Bill, ready: float, following: float, wake: float, tail: float) -> list[float]:
    """The times after `ready`, up to `following`, at which to have woken a model may be best: its end, and those for
    which the stay begins or ends where a price changes."""
    times = [following] if following < _INFINITY else []
    for price in bill.prices:
        width, end = price.width, len(price.values) * price.width
        for offset in (-wake, tail):
            stretch = math.floor((ready + offset) / width) + 1
            edge = stretch * width
            while edge - offset < following and edge <= end:
                times.append(max(ready, edge - offset))
                stretch += 1
                edge = stretch * width
    return times


def _add(seconds: list[float], width: float, since: float, until: float, share: float) -> None:
    stretch = int(since / width)
    while stretch < len(seconds) and stretch * width < until:
        seconds[stretch] += share * (min(until, (stretch + 1) * width) - max(since, stretch * width))
        stretch += 1
