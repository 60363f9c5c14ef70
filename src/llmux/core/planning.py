"""Room for a model: who would have to go, and whether that could begin now.

Reads the books, changes nothing. It is also the view that a policy gets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from llmux.core.devices import Candidate, choose_victims, covers, fits, free_after
from llmux.core.ledger import Ledger, Model, Switch
from llmux.core.settings import Placement
from llmux.core.worth import Worth, can_share
from llmux.messages import Effect, ModelState
from llmux.policy.base import Blocked, DeviceView, Plan, Stakes

_ASLEEP, _UNCONFIRMED = ModelState.ASLEEP, ModelState.UNCONFIRMED

_T = TypeVar("_T")


class _Evictable(NamedTuple):
    """A model that could be put to sleep now. `loss` in request-seconds, `delay` in seconds until its room is free."""

    model: Model
    claim: Placement
    loss: float
    delay: float
    owes: bool


_Room = tuple[dict[str, int], list[_Evictable], float | None]


#: A choice that is none.
NOTHING_TO_CHOOSE = Stakes(0.0, 0.0)


class Planner:
    """`llmux.policy.View` over a ledger; the core says `look` before each use."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.worth = Worth(ledger)
        self.now = 0.0
        self._room: _Room | None = None
        self._room_seen = 0
        self._waiting: list[Model] | None = None
        self._waiting_seen = 0
        self._given: dict[str, tuple[Plan, int]] = {}  # the last plan for each model, and how many effects there were
        # What was found out for one model goes for all that need the same and hold nothing: by their kind.
        self._kinds: dict[str, int] = {}
        self._kinds_of: tuple[list[Effect], int, float] = ([], -1, 0.0)  # effects, how many there were, and when
        self._blocked: dict[int, Blocked] = {}
        self._obstructed: dict[int, bool] = {}
        self._shut_out: dict[int, tuple[str, ...]] = {}
        self._weightless = False
        self._shared = False
        self.reconfigured()

    def reconfigured(self) -> None:
        """The settings are others now."""
        # A model that needs nothing can be woken whatever else goes on.
        self._weightless = any(
            not any(placement.values()) for spec in self._ledger.settings.models for placement in spec.placements
        )
        # Where no two models can be awake together there is nothing to choose, and policies weigh for themselves.
        self._shared = can_share(self._ledger.settings)
        self.worth.reconfigured()
        numbers: dict[tuple[tuple[tuple[str, int], ...], ...], int] = {}
        self._kinds = {
            spec.name: numbers.setdefault(tuple(tuple(each.items()) for each in spec.placements), len(numbers))
            for spec in self._ledger.settings.models
        }
        self._kinds_of = ([], -1, 0.0)
        self._room = None
        self._waiting = None
        self._given = {}

    def look(self, now: float) -> None:
        """A new event is looked at, and all that was worked out for the one before is forgotten."""
        self.now = now
        self._room = None
        self._waiting = None
        if self._given:
            self._given = {}

    # --- what a policy sees -----------------------------------------------------------------------------------

    def model(self, name: str) -> Model:
        return self._ledger.models[name]

    def models(self) -> Iterable[Model]:
        return self._ledger.models.values()

    def waiting(self) -> Sequence[Model]:
        # Asked for by the core and by its policy: kept until something happens, which always adds to the effects.
        if self._waiting is None or self._waiting_seen != len(self._ledger.out):
            waiting = [
                model
                for model in self._ledger.waiting_models.values()
                if model.switch is None and not model.closed and (model.state is _ASLEEP or model.state is _UNCONFIRMED)
            ]
            if waiting and any(model.pinned for model in self._ledger.holding.values()):
                # Nobody else should wait behind those whom an operator has shut out.
                waiting = [model for model in waiting if not self.pinned_against(model)]
            self._waiting = waiting
            self._waiting_seen = len(self._ledger.out)
        return self._waiting

    def expected_cost(self, from_model: str | None, to_model: str) -> float:
        return self._ledger.costs.expected(from_model, to_model)

    def drain_time(self, name: str) -> float | None:
        return self._ledger.costs.drain(name)

    def expected_sleep(self, name: str) -> float:
        return self._ledger.costs.expected_sleep(name)

    def expected_wake(self, name: str) -> float:
        return self._ledger.costs.expected_wake(name)

    def devices(self) -> Sequence[DeviceView]:
        capacity = self._ledger.settings.devices
        free = free_after(capacity, self.claims())
        awake = sorted(
            [(m.awake_since, m.name, m.claims) for m in self._ledger.holding.values() if m.awake_since is not None],
            key=lambda one: one[0],
        )
        return [
            DeviceView(name, amount, free[name], tuple([(model, at) for at, model, claims in awake if name in claims]))
            for name, amount in capacity.items()
        ]

    def plan(self, name: str, *, avoid: Collection[str] = (), by_operator: bool = False) -> Plan | Blocked:
        """How to make room for model `name` now. An operator's command may also take models that have not been awake
        for `min_active` yet, or are lost, and does not wait for back-off."""
        target = self._ledger.models[name]
        wakeable = target.state in (ModelState.ASLEEP, ModelState.UNCONFIRMED)
        if target.switch is not None or not wakeable or not target.asked or target.closed:
            return Blocked(None, target.spec.everywhere)
        if self.now < target.wake_not_before and not by_operator:
            return Blocked(target.wake_not_before, ())
        alternatives = self._alternatives(target)
        if avoid:
            alternatives = [placement for placement in alternatives if placement.keys().isdisjoint(avoid)]
            if not alternatives:
                return Blocked(None, target.spec.everywhere)
        kind = None if by_operator else self._kind(target)
        if kind is not None and (blocked := self._blocked.get(kind)) is not None:
            return blocked  # and so it is all the more if some devices are to be avoided
        free, evictable, later = self._room_for(target, by_operator)
        plan = self._plan(target, alternatives, free, evictable, avoid)
        if plan is None:
            blocked = Blocked(later, target.spec.everywhere)
            if kind is not None and not avoid:
                self._blocked[kind] = blocked
            return blocked
        if not by_operator:
            self._given[name] = plan, len(self._ledger.out)
        return plan

    def _plan(
        self,
        target: Model,
        alternatives: Sequence[Placement],
        free: Mapping[str, int],
        evictable: Sequence[_Evictable],
        avoid: Collection[str],
    ) -> Plan | None:
        if avoid:  # a model that goes holds up all that its memory is on until it sleeps
            evictable = [each for each in evictable if each.claim.keys().isdisjoint(avoid)]
        if len(evictable) < 2:
            return _only_way(target, alternatives, free, evictable)
        waiting = max(1, target.waiting)
        candidates = [Candidate(e.model.name, e.claim, e.loss + waiting * e.delay) for e in evictable if not e.owes]
        plan = self._cheapest(target, alternatives, free, candidates)
        if plan is None and len(candidates) < len(evictable):
            candidates = [Candidate(e.model.name, e.claim, e.loss + waiting * e.delay) for e in evictable]
            plan = self._cheapest(target, alternatives, free, candidates)
        return plan

    def _cheapest(
        self, target: Model, alternatives: Sequence[Placement], free: Mapping[str, int], candidates: Sequence[Candidate]
    ) -> Plan | None:
        costs = {candidate.name: candidate.cost for candidate in candidates} if len(alternatives) > 1 else {}
        best: tuple[tuple[float, int], Plan] | None = None
        for placement in alternatives:
            victims = choose_victims(placement, free, candidates)
            if victims is None:
                continue
            rank = (sum([costs.get(victim, 0.0) for victim in victims]), len(victims))
            if best is None or rank < best[0]:
                best = (rank, _as_plan(target, victims, placement))
                if not victims:
                    break
        return None if best is None else best[1]

    def stakes(self, plan: Plan) -> Stakes:
        """What the switch of `plan` would cost its victims, and what it would gain those who wait."""
        if not self._shared:
            return NOTHING_TO_CHOOSE
        models = self._ledger.models
        target = models[plan.model]
        victims = [models[name] for name in plan.victims if name != plan.model]
        if any(self._owes(victim) for victim in victims):
            return Stakes(float("inf"), 0.0)
        return self.worth.stakes(target, victims, self.now)

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
        return max(left.values(), default=0) <= 0

    # --- what the core asks besides -----------------------------------------------------------------------------

    def claims(self, besides: Model | None = None) -> list[Placement]:
        """What is held or promised, by or to anyone but `besides`. O(models that hold memory)."""
        held = [m.placement for m in self._ledger.holding.values() if m is not besides and m.placement is not None]
        return held + [placement for target, placement in self.promises() if target is not besides]

    def promises(self) -> list[tuple[Model, Placement]]:
        """The targets of switches that do not hold yet what they will be woken on."""
        return [
            (switch.target, switch.placement)
            for switch in self._ledger.switches.values()
            if switch.target is not None and switch.target.placement is not switch.placement
        ]

    def placement(self, plan: Plan) -> Placement | None:
        """The placement that a plan names by its devices; None if its model has no such one."""
        for placement in self._alternatives(self._ledger.models[plan.model]):
            if tuple(placement) == plan.devices:
                return placement
        return None

    def sound(self, plan: Plan) -> bool:
        """Whether a plan, which may come from a third party's policy, could begin now."""
        given, seen = self._given.get(plan.model, (None, 0))
        if given is plan and seen == len(self._ledger.out):
            return True  # it is the view's own, and nothing has happened since
        target = self._ledger.models.get(plan.model)
        if target is None or isinstance(self.plan(plan.model), Blocked):
            return False
        placement = self.placement(plan)
        candidates = {each.model.name: each.claim for each in self._evictable(target, by_operator=False)[0]}
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

    def still_fits(self, switch: Switch) -> bool:
        """Whether the target of `switch`, which is not being woken yet, could be woken where it is meant to go once the
        victims sleep: since the plan was made, the configuration may have changed. O(models that hold memory)."""
        target, ledger = switch.target, self._ledger
        if target is None or target.leaving or switch.placement not in target.spec.placements:
            return False
        others = [
            model.placement
            for model in ledger.holding.values()
            if model is not target and model.switch is not switch and model.placement is not None
        ]
        reserved = [  # a target that may hold memory already is among the others
            other.placement
            for other in ledger.switches.values()
            if other is not switch and other.target is not None and other.target.state is ModelState.ASLEEP
        ]
        known = [claim for claim in reserved if claim.keys() <= ledger.settings.devices.keys()]
        return fits(switch.placement, free_after(ledger.settings.devices, others + known))

    def obstructed(self, target: Model) -> bool:
        """Whether lost models stand in the way wherever `target` could be placed, or it is lost itself."""
        if target.state is ModelState.LOST:
            return True
        return self._of_kind(self._obstructed, target, self._is_obstructed)

    def _is_obstructed(self, target: Model) -> bool:
        lost = [
            m.placement
            for m in self._ledger.holding.values()
            if m.state is ModelState.LOST and m.placement is not None and m is not target
        ]
        if not lost:
            return False
        free = free_after(self._ledger.settings.devices, lost)
        return not any(fits(placement, free) for placement in self._alternatives(target))

    def pinned_against(self, target: Model) -> tuple[str, ...]:
        """The pinned models because of which there is no room for `target`, wherever it could be placed; none where
        there is, or where others are in its way. O(models that hold memory)."""
        return self._of_kind(self._shut_out, target, self._pinned_against)

    def _pinned_against(self, target: Model) -> tuple[str, ...]:
        fixed = [
            m
            for m in self._ledger.holding.values()
            if m is not target and m.placement is not None and (m.state is ModelState.LOST or (m.pinned and m.placed))
        ]
        pinned = tuple(model.name for model in fixed if model.pinned and model.state is not ModelState.LOST)
        if not pinned or target.state not in (_ASLEEP, _UNCONFIRMED):
            return ()
        free = free_after(self._ledger.settings.devices, [m.placement for m in fixed if m.placement is not None])
        return () if any(fits(placement, free) for placement in self._alternatives(target)) else pinned

    def _of_kind(self, known: dict[int, _T], target: Model, find: Callable[[Model], _T]) -> _T:
        """What `find` says of `target`: found out once for all of its kind, if it has one."""
        kind = self._kind(target)
        if kind is None:
            return find(target)
        if kind not in known:
            known[kind] = find(target)
        return known[kind]

    def _kind(self, target: Model) -> int | None:
        """What `target` has in common with all that need the same and hold nothing; None if it is not one of them. What
        is known of kinds is kept until something happens, as with `_room_for`."""
        if target.state is not _ASLEEP:
            return None
        effects, seen, at = self._kinds_of
        if effects is not self._ledger.out or seen != len(effects) or at != self.now:
            self._kinds_of = self._ledger.out, len(self._ledger.out), self.now
            self._blocked.clear()
            self._obstructed.clear()
            self._shut_out.clear()
        return self._kinds.get(target.name)

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

    def _evictable(self, target: Model, by_operator: bool) -> tuple[list[_Evictable], float | None]:
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
            if model.pinned and model.placed:
                continue
            at = model.sleep_not_before
            if model.awake_since is not None:
                at = max(at, model.awake_since + settings.min_active)
                if self._shared and not settings.drain_before_switch and self._owes(model):
                    patience = model.spec.drain_timeout  # what is cut off is at least given the time of a drain
                    at = max(at, model.awake_since + patience) if patience is not None else float("inf")
            if by_operator or at <= self.now:
                ready.append(model)
            elif at < float("inf") and (later is None or at < later):
                later = at
        if len(ready) == 1:  # no choice, so no need to weigh
            only = ready[0]
            return [_Evictable(only, only.placement or {}, 0.0, 0.0, False)], later
        ready.sort(key=lambda m: (m.last_used, m.order))
        return [self._weighed(model) for model in ready], later

    def _weighed(self, model: Model) -> _Evictable:
        costs = self._ledger.costs
        delay = costs.expected_sleep(model.name)
        if model.granted:
            drain = costs.drain(model.name)
            delay += drain if drain is not None else (model.service_time or 0.0)
        loss = self.worth.credit(model, self.now)
        return _Evictable(model, model.placement or {}, loss, delay, self._shared and self._owes(model))

    def _owes(self, model: Model) -> bool:
        """Whether somebody who waited for the wake of `model` is not served yet."""
        if model.awake_since is None:
            return False
        for oldest in model.granted.values():
            return oldest.granted_at is not None and oldest.granted_at <= model.awake_since
        return False


def _as_plan(target: Model, victims: tuple[str, ...], placement: Placement) -> Plan:
    # A model whose place is not known cannot be woken where it is: it is put to sleep first.
    return Plan(target.name, victims if target.placed else (*victims, target.name), tuple(placement))


def _only_way(
    target: Model, alternatives: Sequence[Placement], free: Mapping[str, int], evictable: Sequence[_Evictable]
) -> Plan | None:
    """The plan where there is one model at most that could go, so that there is no choice of victims: what
    `choose_victims` would find, in much less time. That is the usual case of one device with room for one."""
    found: Placement | None = None
    for placement in alternatives:
        if fits(placement, free):
            return _as_plan(target, (), placement)
        if found is None and evictable and covers(evictable[0].claim, placement, free):
            found = placement
    return None if found is None else _as_plan(target, (evictable[0].model.name,), found)
