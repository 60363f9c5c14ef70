"""When a model can be expected to take requests: what those who wait, and those who are turned away, are told.

Pure. Reads the books and changes nothing, as it is also asked when nothing has happened. A policy that can foresee by
when it lets nobody wait any longer is asked that; it decides nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import NamedTuple

from llmux.core.ledger import Ledger, Model, Switch
from llmux.core.planning import Planner
from llmux.messages import ModelState, Prospects
from llmux.policy.base import Foreseeing, Plan, SwitchPolicy, waiting_since

#: Seconds that a request is taken to need, before one has ended.
SERVICE_PRIOR = 5.0

#: Seconds for which those who are turned away are told the same time.
_TOLD_FOR = 0.5

#: Where more models than this have somebody waiting, the turns of all that are alike are worked out together. With a
#: thousand, one alone takes a millisecond.
_CROWD = 32


class Turn(NamedTuple):
    """When a model will take requests: in about so many `seconds`, or, with `at_most`, in no more; 0 if that time has
    come. `known` is False for a mere guess, that whoever decides will choose this model next. `why` and `begun` are as
    in `Prospects`."""

    seconds: float
    why: str = ""
    at_most: bool = False
    begun: bool = False
    known: bool = True


class _Rest(NamedTuple):
    """What is left of a switch, in seconds; 0 with `known` False: it should be over, and nobody knows when it will."""

    seconds: float
    at_most: bool = False
    known: bool = True


_Told = tuple[object, float, Turn]  # at what state of things, when, and what


class Outlook:
    """Looks ahead in the books of `ledger`, where `policy` decides."""

    def __init__(self, ledger: Ledger, planner: Planner, policy: SwitchPolicy) -> None:
        self._ledger = ledger
        self._planner = planner
        self._foreseeing = policy if isinstance(policy, Foreseeing) else None
        self._told: dict[Model, _Told] = {}  # in events
        self._shown: dict[Model, _Told] = {}  # at other times, so that what is told in events does not depend on it

    def seconds(self, model: Model, now: float) -> float:
        """Seconds until `model` takes requests, at the latest or at a guess: for those who are turned away.

        They may be many, so it is not worked out anew for `_TOLD_FOR`, unless a switch has come further. Only events
        may ask: when it was worked out must be in the log of events, too.
        """
        told = self._remembered(self._told, model, now)
        return max(0.0, told[1] + told[2].seconds - now)

    def _remembered(self, told: dict[Model, _Told], model: Model, now: float) -> _Told:
        """The turn of `model` out of `told`, not older than `_TOLD_FOR`."""
        known = told.get(model)
        if known is None or known[0] != self._things(model) or now >= known[1] + _TOLD_FOR:
            alike: dict[Model, Turn] = {}
            alike[model] = self.turn(model, now, alike)
            for one, turn in alike.items():
                told[one] = self._things(one), now, turn
            known = told[model]
        return known

    def _things(self, model: Model) -> object:
        """A turn that was worked out holds for as long as these do."""
        return model.state, model.switch, self._ledger.last_id, bool(model.waiters)

    def reconfigured(self, policy: SwitchPolicy) -> None:
        """The settings are others, and perhaps `policy` is."""
        self._foreseeing = policy if isinstance(policy, Foreseeing) else None
        self._told.clear()
        self._shown.clear()

    def prospects(self, model: Model, now: float) -> Prospects:
        """Where those who wait for `model` stand. O(those, and what `turn` looks at)."""
        ledger = self._ledger
        in_order = model.waiters.in_order(ledger.settings.level_seconds)
        places = {request.request_id: ahead for ahead, request in enumerate(in_order)}
        pinned = self._planner.pinned_against(model)
        if model.closed or pinned:
            if ledger.released is not None:
                why = "llmux is released"
            elif model.closed:
                why = f"{model.name} is drained"
            else:
                why = f"no room while {_are(pinned)} pinned"
            return Prospects(places, 0.0, held=why)  # for how long, nobody knows
        if len(ledger.waiting_models) > _CROWD:
            _, at, turn = self._remembered(self._shown, model, now)
            seconds = max(0.0, at + turn.seconds - now) if turn.known else 0.0
        else:
            turn = self.turn(model, now)
            seconds = turn.seconds if turn.known else 0.0
        at_once, each = model.spec.max_in_flight, 0.0
        if at_once is not None:
            each = _service(model) / at_once
            if model.state is ModelState.AWAKE and model.switch is None:
                at_once = 1
        return Prospects(places, seconds, at_once, each, "", turn.at_most, turn.begun, turn.why)

    def turn(self, model: Model, now: float, alike: dict[Model, Turn] | None = None) -> Turn:
        """When `model` takes requests again. The planner must have been told to look at `now`. In a crowd, the turns of
        those who wait like it are put into `alike`. O(models)."""
        if model.state is ModelState.AWAKE and model.switch is None:
            if not model.full:
                return Turn(0.0)
            return Turn(_service(model) / max(1, model.in_flight), f"{model.name} serves as many as it may")
        if model.switch is not None and model.switch.target is model:
            rest = self._rest(model.switch, now)
            return Turn(rest.seconds, _stage(model.switch), rest.at_most, begun=True)
        crowd = len(self._ledger.waiting_models) > _CROWD
        return self._next_turn(model, now, alike if crowd else None)

    def _next_turn(self, model: Model, now: float, alike: dict[Model, Turn] | None) -> Turn:
        """No switch to `model` is under way: when will one begin, and be over?"""
        costs, min_active = self._ledger.costs, self._ledger.settings.min_active
        at, at_most, known, why = now, False, True, ""
        before: Model | None = None  # who will be awake, and must make room
        for switch in self._ledger.switches.values():
            rest = self._rest(switch, now)
            if now + rest.seconds >= at:
                at, at_most, known, why = now + rest.seconds, rest.at_most, rest.known, _stage(switch)
                before = switch.target or before
        if before is not None:
            at += min_active
        plan = self._planner.plan(model.name)
        if isinstance(plan, Plan):
            before = self._keeper(self._ledger.models[name] for name in plan.victims)
            why = _kept(before)
        else:
            if before is None:
                before = self._keeper(self._ledger.holding.values())
            if plan.until is not None and plan.until > at:
                at, at_most, known = plan.until, False, True
                why = _not_yet(model, before, plan.until)
        mine = waiting_since(model)
        everywhere = set(model.spec.everywhere)
        queue = [
            one
            for one in self._planner.waiting()
            if one is not model
            and (alike is not None or waiting_since(one) < mine)
            and not everywhere.isdisjoint(one.spec.everywhere)
        ]
        queue = sorted([*queue, model], key=waiting_since)
        latest = self._latest(queue, now)
        if latest is None and isinstance(plan, Plan):
            known = False  # the policy lets it wait, and does not say for how long
        turn = Turn(0.0)
        for one, due in zip(queue, latest or [now] * len(queue), strict=True):
            if due > at:
                at, at_most, known, why = due, True, True, _kept(before)
            if before is not None:
                at += self._drain(before)
            at += costs.expected(None if before is None else before.name, one.name)
            if one is model or (alike is not None and _alike(one, model, now)):
                turn_of_one = Turn(at - now, why or "others go first", at_most, known=known)
                if one is model:
                    turn = turn_of_one
                if alike is not None:
                    alike[one] = turn_of_one
            at += min_active
            before = one
        return turn

    def _latest(self, models: Sequence[Model], now: float) -> Sequence[float] | None:
        """By when the policy has a switch to each of `models` begin, if it can say."""
        if self._foreseeing is None:
            return None
        try:
            latest = list(self._foreseeing.latest(self._planner, [model.name for model in models], now))
            return latest if len(latest) == len(models) and all(map(isfinite, latest)) else None
        except Exception:  # a third party's code; what it decides is looked after elsewhere
            return None

    def _keeper(self, models: Iterable[Model]) -> Model | None:
        """Who of `models` is awake, and was used last."""
        awake = [one for one in models if one.state is ModelState.AWAKE]
        return max(awake, key=lambda one: (one.last_used, -one.order), default=None)

    def _drain(self, model: Model) -> float:
        """Seconds that draining `model` is likely to take."""
        seen = self._ledger.costs.drain(model.name)
        if seen is not None:
            return seen
        busy = (model.granted or model.waiters) and self._ledger.settings.drain_before_switch
        return _service(model) if busy else 0.0

    def _rest(self, switch: Switch, now: float) -> _Rest:
        """How long a switch will go on: as such ones have, and where its drain takes longer, as that may at most."""
        costs = self._ledger.costs
        names = [victim.name for victim in switch.victims]
        if switch.target is None:
            takes = max((costs.sleep(name) or 0.0 for name in names), default=0.0)
        else:
            takes = costs.expected(switch.from_model, switch.target.name)
        if switch.drained is not None:
            rest = switch.drained + takes - now
            return _Rest(max(0.0, rest), known=rest > 0.0)
        drains = [self._drain(victim) for victim in switch.victims if victim.state is ModelState.DRAINING]
        drained = switch.began + max(drains, default=0.0)
        if drained > now:
            return _Rest(drained + takes - now)
        limits = [victim.spec.drain_timeout for victim in switch.victims if victim.granted]
        if None in limits:
            return _Rest(0.0, known=False)
        drained = switch.began + max([limit for limit in limits if limit is not None], default=0.0)
        return _Rest(max(now, drained) + takes - now, at_most=True)


def _service(model: Model) -> float:
    """Seconds that a request takes."""
    return SERVICE_PRIOR if model.service_time is None else model.service_time


def _alike(one: Model, model: Model, now: float) -> bool:
    """Whether a turn of the one comes about as one of the other does, but for their places among those who wait."""
    return (
        one.state is model.state is ModelState.ASLEEP
        and one.asked
        and model.asked
        and one.wake_not_before <= now
        and model.wake_not_before <= now
        and one.spec.placements == model.spec.placements
    )


def _not_yet(model: Model, awake: Model | None, until: float) -> str:
    """Why no switch to `model` can begin before `until`."""
    if model.wake_not_before >= until:
        return f"{model.name} could not be woken and is not tried again yet"
    return f"{'what is awake' if awake is None else awake.name} is not put to sleep yet"


def _kept(model: Model | None) -> str:
    if model is None:
        return "others go first"
    if model.state is ModelState.AWAKE and not model.granted:
        return f"{model.name} is kept awake for those who may ask for it soon"
    return f"{model.name} is kept awake for those it serves"


def _stage(switch: Switch) -> str:
    """How far a switch is, in a few words."""
    target = switch.target
    if switch.draining:
        busy = [victim.name for victim in switch.victims if victim.granted]
        return f"{', '.join(busy)} {'finishes what it serves' if len(busy) == 1 else 'finish what they serve'}"
    if target is not None and target.state is not ModelState.ASLEEP:
        return f"{target.name} is being woken"
    return f"{_are(tuple(victim.name for victim in switch.victims))} being put to sleep"


def _are(names: tuple[str, ...]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
