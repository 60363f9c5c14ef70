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


class Planner:
    """`llmux.policy.View` over a ledger; `now` is set by the core before each use."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.now = 0.0

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

    def plan(self, name: str, *, avoid: Collection[str] = (), by_operator: bool = False) -> Plan | Blocked:
        """How to make room for model `name` now. An operator's command may also take models that have not been awake
        for `min_active` yet, or are lost, and does not wait for back-off."""
        target = self._ledger.models[name]
        everywhere = tuple(dict.fromkeys(device for placement in target.spec.placements for device in placement))
        wakeable = target.state in (ModelState.ASLEEP, ModelState.UNCONFIRMED)
        if target.switch is not None or not wakeable:
            return Blocked(None, everywhere)
        if self.now < target.wake_not_before and not by_operator:
            return Blocked(target.wake_not_before, ())
        free = free_after(self._ledger.settings.devices, self.claims(besides=target))
        candidates, later = self._evictable(target, by_operator)
        best: tuple[tuple[float, int], Plan] | None = None
        for placement in self._alternatives(target):
            if not placement.keys().isdisjoint(avoid):
                continue
            victims = choose_victims(placement, free, candidates)
            if victims is None:
                continue
            newest = max((self._ledger.models[victim].last_used for victim in victims), default=float("-inf"))
            rank = (newest, len(victims)) if victims else (float("-inf"), 0)
            if best is None or rank < best[0]:
                # A model whose place is not known cannot be woken where it is: it is put to sleep first.
                itself = () if target.placed else (target.name,)
                best = (rank, Plan(name, victims + itself, tuple(placement)))
        if best is not None:
            return best[1]
        return Blocked(later, everywhere)

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

    def _evictable(self, target: Model, by_operator: bool) -> tuple[list[tuple[str, Placement]], float | None]:
        """Those that could be put to sleep for `target` now, least recently used first; and when the next one could
        be, in seconds, None if that takes more than time."""
        settings = self._ledger.settings
        ready: list[Model] = []
        later: float | None = None
        for model in self._ledger.holding.values():
            if model is target or model.switch is not None or model.placement is None:
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
