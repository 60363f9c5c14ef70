"""What the built-in policies but fifo share: a bound on waiting, and the search for a switch that could begin.

The bound: a request is *due* once it has waited ``max_wait_secs``. While a model has a due request, nothing that could
make room for it is kept awake for any other reason, and the model whose due request is oldest goes first. So with n
models, on one device or several, where a drain takes at most D seconds, a switch's hooks at most C and
``min_active_secs`` is m,

    no request waits longer for its grant than  max_wait_secs + n * (D + C + m).

For: at the moment a request of model j is due, one switch may be under way, or begin at that moment. Every later one is
to the model with the oldest due request; a model that is served has only younger requests afterwards, so it cannot come
before j twice, and each of the other n - 1 models takes its D + C + m at most once before j gets its own. Drains are
bounded by ``drain_timeout_secs``, hooks by ``hook_timeout_secs``. Hooks that fail, and their back-off, come on top.
docs/policies.md has the proof for several devices: no switch begins that would touch a device which the model with the
oldest due request could be given.

Where several models can be awake together, victims with more to lose than the newcomer gains are kept until it is due.

A model with ``max_in_flight`` k may be left with some of its requests granted and others still waiting. It counts as
waiting since its last grant then (`waiting_since`), so that the argument holds as it stands, and it is left as soon as
another one is due, whoever waits for a place in it. What is bounded is each span of its waiting: when it ends, at least
k requests are granted, the oldest first. So a request with p others of its model before it waits no longer than
1 + p // k times the bound and D.

Without ``max_wait_secs`` the limit is `tours` times the time to switch once to everybody who waits and back, drains
included, as it is measured now, and at least `FLOOR`, which only matters where a tour takes next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llmux.messages import ModelState
from llmux.policy.base import Blocked, Decision, ModelView, Plan, Stay, SwitchTo, View, waiting_since

#: The derived limit on waiting is this many seconds at least.
FLOOR = 5.0

#: The derived limit is worked out anew after that many seconds.
_DERIVED_FOR = 1.0

#: Seconds that a request is taken to need, before one has ended.
SERVICE_PRIOR = 5.0

#: Nothing is looked at again sooner than this, in seconds, so that rounding makes nobody ask for ever.
_SOON = 1e-3

_NEVER = float("inf")


class Candidate(NamedTuple):
    """A model that could be switched to now, if `victims` (all awake, at least one) were given up for it."""

    model: ModelView
    plan: Plan
    victims: tuple[ModelView, ...]


class BoundedPolicy:
    """Base of policies that choose freely until somebody is due.

    Args:
        max_wait_secs: a request that has waited this long goes first; None derives it from what switches take.

    Raises:
        ValueError: it is negative.
    """

    name = "bounded"

    #: Whether `choose` depends on nothing but the models' states, since when somebody waits for each and how urgent
    #: that is, whether victims are idle, and costs. If so, its last answer holds until its time has come or one of
    #: these is different.
    steady = False

    #: The derived limit on waiting, in tours. Tuned: whoever is due breaks a batch up.
    tours = 4.0

    def __init__(self, max_wait_secs: float | None = None) -> None:
        if max_wait_secs is not None and not max_wait_secs >= 0:
            raise ValueError(f"max_wait_secs must be at least 0, not {max_wait_secs}")
        self.max_wait_secs = max_wait_secs
        self._derived = FLOOR
        self._derived_until = float("-inf")
        # The last time that `choose` could choose among all who wait, and did not: what it saw, and when to look again.
        self._situation: object = None
        self.held_back = False  # whether somebody was no candidate, last time, because the victims had more to lose
        self._again = _NEVER

    def choose(self, view: View, candidates: Sequence[Candidate], now: float) -> Candidate | float:
        """The switch to begin, or the time to look again (infinity: only an event could change this answer).

        `candidates` are not empty, the one that has waited longest first; none of them is due.
        """
        raise NotImplementedError

    def decide(self, view: View, now: float) -> Decision:
        # Worked out once for each, as this is asked after every event. The place decides among equals.
        ranked = sorted([(waiting_since(model), place, model) for place, model in enumerate(view.waiting())])
        waiting = [model for _, _, model in ranked]
        limit = self._limit(view, waiting, now)
        situation = _situation(view, waiting) if self.steady else None
        if situation is not None and situation == self._situation and now < self._again:
            due_at = ranked[0][0] + limit
            if now < due_at:
                return Stay(min(self._again, due_at))
        self._situation = None
        self.held_back = False
        recheck = _NEVER
        kept: set[str] = set()
        candidates: list[Candidate] = []
        for since, _, model in ranked:
            name = model.name
            plan = view.plan(name, avoid=kept)
            due_at = since + limit
            if isinstance(plan, Blocked):
                if due_at <= now:
                    kept.update(plan.devices)  # nobody younger may take what it is waiting for
                elif due_at < recheck:
                    recheck = due_at
                if plan.until is not None and plan.until < recheck:
                    recheck = plan.until
                continue
            victims = tuple([victim for victim in map(view.model, plan.victims) if victim.awake_since is not None])
            if due_at <= now or not victims:
                return SwitchTo(name, plan)
            if due_at < recheck:
                recheck = due_at
            stakes = view.stakes(plan)
            if stakes.loss > stakes.gain:  # the gain grows by a second per second for each who waits
                self.held_back = True
                recheck = min(recheck, now + max(_SOON, (stakes.loss - stakes.gain) / max(1, model.waiting)))
                continue
            candidates.append(Candidate(model, plan, victims))
        if candidates:
            choice = self.choose(view, candidates, now)
            if isinstance(choice, Candidate):
                return SwitchTo(choice.model.name, choice.plan)
            if not choice > now:
                raise ValueError(f"{self.name} must choose a candidate, or a time that is yet to come")
            if len(candidates) == len(waiting):
                self._situation, self._again = situation, choice
            recheck = min(recheck, choice)
        return Stay(None if recheck == _NEVER else recheck)

    def latest(self, view: View, names: Sequence[str], now: float) -> list[float]:
        """See `llmux.policy.base.Foreseeing`: they are due then."""
        models = [view.model(name) for name in names]
        limit = self.max_wait_secs
        if limit is None:
            waiting = sorted(view.waiting(), key=waiting_since) or models[:1]
            limit = max(FLOOR, self.tours * tour(view, waiting, [model for model in view.models() if _is_up(model)]))
        return [min(waiting_since(model), now) + limit for model in models]

    def _limit(self, view: View, waiting: Sequence[ModelView], now: float) -> float:
        if self.max_wait_secs is not None:
            return self.max_wait_secs
        if not waiting or now < waiting_since(waiting[0]) + FLOOR:
            return FLOOR  # nobody has waited that long, and the tour need not be known before
        if now >= self._derived_until:
            self._derived = max(FLOOR, self.tours * tour(view, waiting))
            self._derived_until = now + _DERIVED_FOR
        return self._derived


def _situation(view: View, waiting: Sequence[ModelView]) -> object:
    """What a steady policy's answer depends on. None where several models are awake, since the victim then also depends
    on which of them was used last."""
    states = [(model.state, model.awake_since, model.in_flight > 0) for model in view.models()]
    if sum([awake_since is not None for _, awake_since, _ in states]) > 1:
        return None
    return states, [(model.name, waiting_since(model), model.urgency) for model in waiting]


def _is_up(model: ModelView) -> bool:
    """Awake, or in the middle of a switch, after which it or another one will be."""
    return model.state in (ModelState.AWAKE, ModelState.DRAINING, ModelState.SLEEPING, ModelState.WAKING)


def service_time(model: ModelView) -> float:
    """Seconds that a request of `model` takes, with a guess where none has ended."""
    return SERVICE_PRIOR if model.service_time is None else model.service_time


def drain_time(view: View, model: ModelView) -> float:
    """Seconds that draining `model` takes, with its service time where it was never drained."""
    seen = view.drain_time(model.name)
    return service_time(model) if seen is None else seen


def tour(view: View, waiting: Sequence[ModelView], awake: Sequence[ModelView] | None = None) -> float:
    """Seconds to switch to everybody in `waiting` (not empty) once, and back to who is awake now, or to `awake`."""
    if awake is None:
        awake = [model for model in view.models() if model.awake_since is not None]
    start = awake[0].name if awake else None
    away = sum([view.expected_cost(start, model.name) + drain_time(view, model) for model in waiting])
    return away + sum([view.expected_cost(waiting[0].name, model.name) + drain_time(view, model) for model in awake])
