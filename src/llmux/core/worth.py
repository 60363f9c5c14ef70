"""What losing an awake model would cost: the order of victims, where several models can be awake together.

Pure; part of the core. Reads the books, changes nothing but its own rent.

GreedyDual-Size (P. Cao and S. Irani, "Cost-Aware WWW Proxy Caching Algorithms", USITS 1997), in the form that N.
Young's Landlord gives it ("On-Line File Caching", SODA 1998): every awake model has a credit, what losing it would
cost, which is renewed whenever it is used. Making room charges all of them rent for the memory that they hold, just
enough that those who must go are out of credit. So a model goes the sooner, the cheaper its wake, the larger its
memory, and the longer nobody asked for it. A hit costs nothing but the note of its time, which the books have anyway.

What is ours: costs are in request-seconds, so that they can be weighed against those who wait. The one whose request
finds its model asleep waits for the wake, c seconds; at an arrival rate of λ, λ·c others come meanwhile and wait c / 2
each. That is lost only if somebody asks, so c · (1 + λ·c / 2) is weighed with h / (h + 1/λ + t), where h is `HORIZON`
and t is how long the model has been idle: the longer it was, the less likely is another request. Sizes are shares of
the contended devices only: memory that nobody competes for costs nothing to hold. The competitive ratio of
GreedyDual-Size is proved for fixed costs, and is not claimed for these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations_with_replacement

from llmux.core.devices import fits, free_after
from llmux.core.ledger import Ledger, Model
from llmux.core.settings import CoreSettings, ModelSpec, Placement
from llmux.policy.base import Stakes

#: Within how many seconds somebody has to ask again for a loss to count as likely. Tuned, and hardly matters.
HORIZON = 60.0

#: Seconds between two requests of a model, where only one has come so far.
_SELDOM = 300.0

#: Part of the loss that those who wait must outweigh. They gain for sure what is only likely to be lost. Tuned.
_CAUTION = 0.5


class Worth:
    """Credits of the models that hold memory, and the rent that they owe."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rent = 0.0  # charged so far, in request-seconds per share of a device
        self._raised_at = float("-inf")
        self._renewed: dict[str, float] = {}  # the rent when the model was last used, of those not used since it rose
        self._contended: frozenset[str] = frozenset()
        self.reconfigured()

    def reconfigured(self) -> None:
        """The settings are others now."""
        settings = self._ledger.settings
        self._contended = contended(settings.models, settings.devices)

    def credit(self, model: Model, now: float) -> float:
        """What losing `model` is expected to cost, in request-seconds."""
        rate = model.arrival_rate(now)
        idle = 0.0
        if not model.granted:
            since = model.last_used if model.awake_since is None else max(model.last_used, model.awake_since)
            idle = max(0.0, now - since) if since > float("-inf") else _SELDOM
        again = HORIZON / (HORIZON + (1.0 / rate if rate > 0 else _SELDOM) + idle)
        cost = self.wake_cost(model, now) * again
        owed = self._rent - self._renewed_at(model)
        return max(0.0, cost - owed * self._size(model.placement)) if owed else cost

    def wake_cost(self, model: Model, now: float) -> float:
        """What it costs those who ask for `model`, in request-seconds, if it has to be woken for the next of them."""
        wake = self._ledger.costs.expected_wake(model.name)
        return wake * (1.0 + model.arrival_rate(now) * wake / 2.0)

    def stakes(self, target: Model, victims: Iterable[Model], now: float) -> Stakes:
        """What it would cost `victims` to give up their room, and what those who wait for `target` would gain."""
        loss = _CAUTION * sum([self.credit(victim, now) for victim in victims])
        return Stakes(loss, target.accumulated_wait(now) + target.waiting * self.wake_cost(target, now))

    def charge(self, victims: Iterable[Model], now: float) -> None:
        """`victims` go, as one: the rent rises until they are out of credit. O(models that hold memory)."""
        credits = sizes = 0.0
        for victim in victims:
            credits += self.credit(victim, now)
            sizes += self._size(victim.placement)
        if credits <= 0.0 or sizes <= 0.0:
            return
        self._renewed = {model.name: self._renewed_at(model) for model in self._ledger.holding.values()}
        self._rent += credits / sizes
        self._raised_at = now

    def _renewed_at(self, model: Model) -> float:
        if model.granted or model.last_used > self._raised_at or model.name not in self._renewed:
            return self._rent
        return self._renewed[model.name]

    def _size(self, placement: Placement | None) -> float:
        devices = self._ledger.settings.devices
        return sum(
            amount / devices[device]
            for device, amount in (placement or {}).items()
            if device in self._contended and devices[device]
        )


def contended(models: Sequence[ModelSpec], devices: Mapping[str, int]) -> frozenset[str]:
    """The devices that have no room for all the models that could be placed there."""
    return frozenset(
        device
        for device, capacity in devices.items()
        if sum(max(placement.get(device, 0) for placement in spec.placements) for spec in models) > capacity
    )


def can_share(settings: CoreSettings) -> bool:
    """Whether any two models that need memory can be awake together. O(pairs of different placements): a thousand
    models usually have a handful."""
    owners: dict[frozenset[tuple[str, int]], set[str]] = {}
    for spec in settings.models:
        if any(any(placement.values()) for placement in spec.placements):
            for placement in spec.placements:
                owners.setdefault(frozenset(placement.items()), set()).add(spec.name)
    return any(
        len(owners[one] | owners[other]) > 1 and fits(dict(one), free_after(settings.devices, [dict(other)]))
        for one, other in combinations_with_replacement(owners, 2)
    )
