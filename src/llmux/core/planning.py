"""Room for a model: who would have to go, and whether that could begin now.

Reads the books, changes nothing. It is also the view that a policy gets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from llmux.core.devices import choose_victims, fits, free_after
from llmux.core.ledger import Ledger, Model
from llmux.core.settings import Placement
from llmux.messages import ModelState
from llmux.policy.base import Blocked, Plan

_Room = tuple[dict[str, int], list[tuple[str, Placement]], float | None]


class Planner:
    """`llmux.policy.View` over a ledger; the core says `look` before each use."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.now = 0.0
        self._room: _Room | None = None
        self._room_seen = 0
        self._weightless = False
        self.reconfigured()

    def reconfigured(self) -> None:
        """The settings are others now."""
        # A model that needs nothing can be woken whatever else goes on.
        self._weightless = any(
            not any(placement.values()) for spec in self._ledger.settings.models for placement in spec.placements
        )
        self._room = None

    def look(self, now: float) -> None:
        """A new event is looked at, and all that was worked out for the one before is forgotten."""
        self.now = now
        self._room = None

    # --- what a policy sees -----------------------------------------------------------------------------------

    def model(self, name: str) -> Model:
        return self._ledger.models[name]

    def models(self) -> Iterable[Model]:
        return self._ledger.models.values()

    def waiting(self) -> Sequence[Model]:
        return [
            model
            for model in self._ledger.waiting_models.values()
            if model.switch is None and model.state in (ModelState.ASLEEP, ModelState.UNCONFIRMED)
        ]

    def expected_cost(self, from_model: str | None, to_model: str) -> float:
        return self._ledger.costs.expected(from_model, to_model)

    def drain_time(self, name: str) -> float | None:
        return self._ledger.costs.drain(name)

    def plan(self, name: str, *, avoid: Collection[str] = (), by_operator: bool = False) -> Plan | Blocked:
        """How to make room for model `name` now. An operator's command may also take models that have not been awake
        for `min_active` yet, or are lost, and does not wait for back-off."""
        target = self._ledger.models[name]
        wakeable = target.state in (ModelState.ASLEEP, ModelState.UNCONFIRMED)
        if target.switch is not None or not wakeable or not target.asked:
            return Blocked(None, target.spec.everywhere)
        if self.now < target.wake_not_before and not by_operator:
            return Blocked(target.wake_not_before, ())
        alternatives = self._alternatives(target)
        if avoid:
            alternatives = [placement for placement in alternatives if placement.keys().isdisjoint(avoid)]
            if not alternatives:
                return Blocked(None, target.spec.everywhere)
        free, candidates, later = self._room_for(target, by_operator)
        best: tuple[tuple[float, int], Plan] | None = None
        for placement in alternatives:
            victims = choose_victims(placement, free, candidates)
            if victims is None:
                continue
            newest = max((self._ledger.models[victim].last_used for victim in victims), default=float("-inf"))
            rank = (newest, len(victims))
            if best is None or rank < best[0]:
                # A model whose place is not known cannot be woken where it is: it is put to sleep first.
                itself = () if target.placed else (target.name,)
                best = (rank, Plan(name, victims + itself, tuple(placement)))
        if best is not None:
            return best[1]
        return Blocked(later, target.spec.everywhere)

    def occupied(self) -> bool:
        """Whether the targets of switches under way get all there is of every device, so that none can begin."""
        switches = self._ledger.switches
        if not switches or self._weightless:
            return False
        left = dict(self._ledger.settings.devices)
        for switch in switches.values():
            if switch.target is not None:
                for device, amount in switch.placement.items():
                    left[device] -= amount
        return not any(amount > 0 for amount in left.values())

    # --- what the core asks besides -----------------------------------------------------------------------------

    def claims(self, besides: Model | None = None) -> list[Placement]:
        """What is held or reserved, by anyone but `besides`. O(models that hold memory)."""
        ledger = self._ledger
        held = [m.placement for m in ledger.holding.values() if m is not besides and m.placement is not None]
        reserved = [
            switch.placement
            for switch in ledger.switches.values()
            if switch.target is not None
            and switch.target is not besides
            and switch.target.state is not ModelState.WAKING
        ]
        return held + reserved

    def placement(self, plan: Plan) -> Placement | None:
        """The placement that a plan names by its devices; None if its model has no such one."""
        for placement in self._alternatives(self._ledger.models[plan.model]):
            if tuple(placement) == plan.devices:
                return placement
        return None

    def sound(self, plan: Plan) -> bool:
        """Whether a plan, which may come from a third party's policy, could begin now."""
        target = self._ledger.models.get(plan.model)
        if target is None or isinstance(self.plan(plan.model), Blocked):
            return False
        placement = self.placement(plan)
        candidates = dict(self._evictable(target, by_operator=False)[0])
        others = [victim for victim in plan.victims if victim != plan.model]
        if placement is None or any(victim not in candidates for victim in others):
            return False
        if not target.placed and plan.model not in plan.victims:
            return False
        free = free_after(self._ledger.settings.devices, self.claims(besides=target))
        for victim in others:
            for device, amount in candidates[victim].items():
                free[device] += amount
        return fits(placement, free)

    def obstructed(self, target: Model) -> bool:
        """Whether lost models stand in the way wherever `target` could be placed, or it is lost itself."""
        if target.state is ModelState.LOST:
            return True
        lost = [
            m.placement
            for m in self._ledger.holding.values()
            if m.state is ModelState.LOST and m.placement is not None and m is not target
        ]
        if not lost:
            return False
        free = free_after(self._ledger.settings.devices, lost)
        return not any(fits(placement, free) for placement in target.spec.placements)

    def _alternatives(self, target: Model) -> Sequence[Placement]:
        if target.state is ModelState.UNCONFIRMED and target.placed and target.placement is not None:
            return (target.placement,)
        return target.spec.placements

    def _room_for(self, target: Model, by_operator: bool) -> _Room:
        """What is free, and who could be put to sleep for `target`. The same for all that hold nothing themselves, so
        that policies may ask for many plans: kept until something happens, which always adds to the effects."""
        shared = not by_operator and target.state is ModelState.ASLEEP
        if shared and self._room is not None and self._room_seen == len(self._ledger.out):
            return self._room
        free = free_after(self._ledger.settings.devices, self.claims(besides=target))
        room = (free, *self._evictable(target, by_operator))
        if shared:
            self._room, self._room_seen = room, len(self._ledger.out)
        return room

    def _evictable(self, target: Model, by_operator: bool) -> tuple[list[tuple[str, Placement]], float | None]:
        """Those that could be put to sleep for `target` now, least recently used first; and when the next one could
        be, in seconds, None if that takes more than time."""
        settings = self._ledger.settings
        ready: list[Model] = []
        later: float | None = None
        for model in self._ledger.holding.values():
            if model is target or model.switch is not None or model.placement is None or not model.asked:
                continue
            if model.state is ModelState.LOST and by_operator:
                ready.append(model)
                continue
            if model.state not in (ModelState.AWAKE, ModelState.UNCONFIRMED):
                continue
            at = model.sleep_not_before
            if model.awake_since is not None:
                at = max(at, model.awake_since + settings.min_active)
            if by_operator or at <= self.now:
                ready.append(model)
            elif later is None or at < later:
                later = at
        ready.sort(key=lambda m: (m.last_used, m.order))
        return [(m.name, m.placement) for m in ready if m.placement is not None], later
