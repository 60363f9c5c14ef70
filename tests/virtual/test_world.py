"""Hooks and timers in virtual time; `tests/testing/test_player.py` plays whole stories on them."""

from __future__ import annotations

from llmux.messages import (
    CancelHook,
    CancelTimer,
    CloseBackend,
    Event,
    Grant,
    Hook,
    HookEnded,
    Outcome,
    RunHook,
    SetTimer,
    TimerFired,
)
from llmux.virtual import HookPlan, VirtualClock, World


class Owner:
    """Takes down what happens, and when."""

    def __init__(self, **plans: HookPlan) -> None:
        self.clock = VirtualClock()
        self.plans = plans
        self.heard: list[tuple[float, Event]] = []
        self.granted: list[int] = []
        self.world = World(
            self.clock,
            deliver=lambda event: self.heard.append((self.clock.now, event)),
            plan=lambda run: self.plans[run.model],
            others={Grant: lambda grant: self.granted.append(grant.request_id)},
        )


def test_a_hook_says_exactly_what_was_planned() -> None:
    owner = Owner(a=HookPlan(0.3), b=HookPlan(0.2, Outcome.FAILED, 7, "no memory"))
    owner.clock.advance(0.1)  # 0.1 + 0.3 - 0.1 is not 0.3
    owner.world.carry_out([RunHook(1, "a", Hook.WAKE, None), RunHook(2, "b", Hook.WAKE, None)])
    assert set(owner.world.running) == {1, 2}
    owner.clock.run_until_idle()
    assert [event for _, event in owner.heard] == [
        HookEnded(2, Outcome.FAILED, 0.2, 7, "no memory"),
        HookEnded(1, Outcome.OK, 0.3, 0),
    ]
    assert owner.world.up == {"a"}
    assert not owner.world.running
    assert [owner.world.alive(model, 1.0).outcome for model in "ab"] == [Outcome.OK, Outcome.FAILED]
    owner.world.carry_out([RunHook(3, "a", Hook.SLEEP, None)])
    owner.clock.run_until_idle()
    assert not owner.world.up


def test_deadlines_and_cancelling_end_a_hook_early_and_once() -> None:
    owner = Owner(a=HookPlan(9.0), b=HookPlan(9.0))
    owner.world.carry_out([RunHook(1, "a", Hook.WAKE, 4.0), RunHook(2, "b", Hook.WAKE, None)])
    owner.clock.advance(3.0)
    owner.world.carry_out([CancelHook(2), CancelHook(2), CancelHook(77)])
    owner.clock.run_until_idle()
    assert owner.heard == [
        (3.0, HookEnded(2, Outcome.CANCELLED, 3.0)),
        (4.0, HookEnded(1, Outcome.TIMEOUT, 4.0)),
    ]
    assert not owner.world.up


def test_timers_are_known_by_their_keys_and_other_effects_go_to_the_owner() -> None:
    owner = Owner()
    owner.world.carry_out([SetTimer("kept", 5.0), SetTimer("moved", 6.0), SetTimer("dropped", 7.0)])
    owner.world.carry_out([SetTimer("moved", 8.0), CancelTimer("dropped"), CancelTimer("unknown")])
    owner.world.carry_out([Grant(3, "a", 0.0, False), CloseBackend("a")])
    owner.clock.run_until_idle()
    assert owner.heard == [(5.0, TimerFired("kept")), (8.0, TimerFired("moved"))]
    assert owner.granted == [3]
