"""Carries out a core's effects in virtual time: hooks run for as long as planned, timers fire when they should.

What becomes of requests is not known here: whoever owns the world says what to do about grants and the like. Never
calls the core: what happens is handed to the owner, who tells the core and brings back its effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from llmux.messages import (
    CancelHook,
    CancelTimer,
    Effect,
    Event,
    Hook,
    HookEnded,
    Outcome,
    RunHook,
    SetTimer,
    TimerFired,
)
from llmux.virtual.clock import Timer, VirtualClock

_CANCELLED = Outcome.CANCELLED


class HookPlan(NamedTuple):
    """How a run of a hook goes: `duration` in seconds (infinite: it hangs), then `outcome`."""

    duration: float
    outcome: Outcome = Outcome.OK
    exit_code: int | None = None
    detail: str = ""


class World:
    """Hooks and timers.

    Args:
        clock: the time, which its owner moves on.
        deliver: called with each event, when it happens.
        plan: asked how a hook's run will go, when it begins. One that takes longer than its timeout is cut short there.
        others: what to do about effects of further kinds, by their type; those that nobody names ask for nothing.

    Attributes:
        up: models whose backend is up, by the wake and sleep hooks that succeeded.
        running: the hook runs that have not ended.
    """

    def __init__(
        self,
        clock: VirtualClock,
        *,
        deliver: Callable[[Event], object],
        plan: Callable[[RunHook], HookPlan],
        others: Mapping[type, Callable[[Any], object]],
    ) -> None:
        self.up: set[str] = set()
        self.running: dict[int, RunHook] = {}
        self._clock = clock
        self._deliver = deliver
        self._plan = plan
        self._began: dict[int, float] = {}
        self._ends: dict[int, Timer] = {}
        self._timers: dict[str, Timer] = {}
        self._apply: dict[type, Callable[[Any], object]] = {
            RunHook: self._run_hook,
            CancelHook: self._cancel_hook,
            SetTimer: self._set_timer,
            CancelTimer: self._cancel_timer,
            **others,
        }

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Do what the effects ask for, in their order."""
        for effect in effects:
            apply = self._apply.get(type(effect))
            if apply is not None:
                apply(effect)

    def alive(self, model: str, seconds: float) -> HookPlan:
        """The run of an alive hook that tells the truth."""
        return HookPlan(seconds, Outcome.OK if model in self.up else Outcome.FAILED)

    # --- hooks -----------------------------------------------------------------------------------------------

    def _run_hook(self, run: RunHook) -> None:
        plan = self._plan(run)
        if run.timeout is not None and plan.duration > run.timeout:
            plan = HookPlan(run.timeout, Outcome.TIMEOUT)
        now = self._clock.now
        self.running[run.run_id] = run
        self._began[run.run_id] = now
        self._ends[run.run_id] = self._clock.call_at(now + plan.duration, self._end_hook, run, plan)

    def _cancel_hook(self, effect: CancelHook) -> None:
        run = self.running.get(effect.run_id)
        if run is not None:
            self._ends[effect.run_id].cancel()
            plan = HookPlan(0.0, _CANCELLED)
            self._ends[effect.run_id] = self._clock.call_at(self._clock.now, self._end_hook, run, plan)

    def _end_hook(self, run: RunHook, plan: HookPlan) -> None:
        del self.running[run.run_id], self._ends[run.run_id]
        began = self._began.pop(run.run_id)
        if plan.outcome is Outcome.OK and run.hook is Hook.WAKE:
            self.up.add(run.model)
        elif plan.outcome is Outcome.OK and run.hook is Hook.SLEEP:
            self.up.discard(run.model)
        duration = plan.duration if plan.outcome is not _CANCELLED else self._clock.now - began
        exit_code = plan.exit_code
        if exit_code is None and plan.outcome in (Outcome.OK, Outcome.FAILED):
            exit_code = 0 if plan.outcome is Outcome.OK else 1
        self._deliver(HookEnded(run.run_id, plan.outcome, duration, exit_code, plan.detail))

    # --- timers ----------------------------------------------------------------------------------------------

    def _set_timer(self, effect: SetTimer) -> None:
        old = self._timers.get(effect.key)
        if old is not None:
            old.cancel()
        self._timers[effect.key] = self._clock.call_at(effect.at, self._fire, effect.key)

    def _cancel_timer(self, effect: CancelTimer) -> None:
        timer = self._timers.pop(effect.key, None)
        if timer is not None:
            timer.cancel()

    def _fire(self, key: str) -> None:
        del self._timers[key]
        self._deliver(TimerFired(key))
