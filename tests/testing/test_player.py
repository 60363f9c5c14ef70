"""The player, with a toy core: one model at a time, first come first served, no drain and no error handling."""

from __future__ import annotations

from collections import deque

import pytest

from llmux.messages import (
    AbortRequests,
    Arrived,
    CancelHook,
    CancelTimer,
    Effect,
    Event,
    Finished,
    Grant,
    Hook,
    HookEnded,
    Left,
    Outcome,
    Refusal,
    Reject,
    RunHook,
    SetTimer,
    Start,
    TimerFired,
)
from llmux.testing import CorePlayer, HookPlan, replay
from llmux.testing.player import NEVER


class ToyCore:
    def __init__(self) -> None:
        self.awake: str | None = None
        self.busy: int | None = None
        self.queue: deque[tuple[int, str, float]] = deque()
        self.hook: tuple[int, Hook, str] | None = None
        self.runs = 0

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects: list[Effect] = []
        match event:
            case Arrived(request_id, model):
                self.queue.append((request_id, model, now))
            case Left(request_id):
                self.queue = deque(waiting for waiting in self.queue if waiting[0] != request_id)
            case Finished(request_id):
                assert self.busy == request_id
                self.busy = None
            case HookEnded(run_id, outcome):
                assert self.hook is not None
                assert self.hook[0] == run_id
                _, hook, model = self.hook
                self.hook = None
                if outcome is not Outcome.OK:
                    request_id, model, since = self.queue.popleft()
                    effects.append(Reject(request_id, model, Refusal.HOOK_FAILED, outcome.value, now - since))
                else:
                    self.awake = model if hook is Hook.WAKE else None
        return effects + self.go_on(now)

    def go_on(self, now: float) -> list[Effect]:
        if not self.queue or self.busy is not None or self.hook is not None:
            return []
        request_id, model, since = self.queue[0]
        if self.awake == model:
            self.queue.popleft()
            self.busy = request_id
            return [Grant(request_id, model, now - since, now > since)]
        self.runs += 1
        hook, target = (Hook.WAKE, model) if self.awake is None else (Hook.SLEEP, self.awake)
        self.hook = (self.runs, hook, target)
        return [RunHook(self.runs, target, hook, timeout=30.0)]


class Recorder:
    """Answers each event with the effects it was given for it."""

    def __init__(self, *answers: list[Effect]) -> None:
        self.answers = deque(answers)
        self.heard: list[tuple[float, Event]] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.heard.append((now, event))
        return self.answers.popleft() if self.answers else []


def grants(player: CorePlayer) -> list[tuple[float, str]]:
    return [(at, grant.model) for at, grant in player.said(Grant)]


def test_requests_are_served_in_virtual_time_with_the_hooks_own_durations() -> None:
    player = CorePlayer(ToyCore(), hooks={("b", Hook.WAKE): 4.0}, hook_secs=1.0, service={"a": 2.0, "b": 3.0})
    player.arrive("a")
    player.arrive("b", at=0.5)
    player.arrive("a", at=0.6)
    player.run_until_idle()
    # a: wake 1; served until 3; sleep 1; b: wake 4, served 8 to 11; sleep 1, wake 1, served 13 to 15
    assert grants(player) == [(1.0, "a"), (8.0, "b"), (13.0, "a")]
    assert player.now == 15.0
    assert player.up == {"a"}
    assert not player.waiting
    assert not player.in_flight
    assert not player.running


def test_hook_plans_may_be_chosen_by_a_callable_and_fail() -> None:
    def plan(run: RunHook) -> HookPlan | float:
        return HookPlan(2.0, Outcome.FAILED, 7, "no memory") if run.model == "bad" else 1.0

    player = CorePlayer(ToyCore(), hooks=plan)
    player.arrive("bad")
    player.arrive("good")
    player.run_until_idle()
    (_, ended), *_ = player.said(HookEnded)
    assert ended == HookEnded(1, Outcome.FAILED, 2.0, 7, "no memory")
    assert [(at, reject.request_id) for at, reject in player.said(Reject)] == [(2.0, 1)]
    assert grants(player) == [(3.0, "good")]
    assert player.up == {"good"}


def test_a_hook_that_hangs_ends_at_its_deadline() -> None:
    player = CorePlayer(ToyCore(), hooks={("a", Hook.WAKE): NEVER})
    player.arrive("a")
    player.run_until_idle()
    assert player.said(HookEnded) == [(30.0, HookEnded(1, Outcome.TIMEOUT, 30.0))]
    assert player.up == set()


def test_a_cancelled_hook_ends_at_once_and_only_once() -> None:
    core = Recorder([RunHook(1, "a", Hook.WAKE, None)], [CancelHook(1)], [CancelHook(1)])
    player = CorePlayer(core, hooks={("a", Hook.WAKE): NEVER})
    player.send(Start())
    player.send(Start(), at=5.0)
    player.run_until_idle()
    assert player.said(HookEnded) == [(5.0, HookEnded(1, Outcome.CANCELLED, 5.0))]


def test_alive_hooks_tell_whether_the_backend_is_up() -> None:
    ask: list[Effect] = [RunHook(1, "a", Hook.ALIVE, 10.0)]
    ask_again: list[Effect] = [RunHook(2, "a", Hook.ALIVE, 10.0)]
    player = CorePlayer(Recorder(ask, [], ask_again), hook_secs=1.0)
    player.up.add("a")
    player.send(Start())
    player.kill("a", at=1.0)
    player.send(Start(), at=2.0)
    player.run_until_idle()
    assert [(at, ended.outcome, ended.exit_code) for at, ended in player.said(HookEnded)] == [
        (0.1, Outcome.OK, 0),
        (2.1, Outcome.FAILED, 1),
    ]


def test_timers_are_replaced_and_cancelled_by_key() -> None:
    core = Recorder(
        [SetTimer("kept", 5.0), SetTimer("moved", 6.0), SetTimer("dropped", 7.0)],
        [SetTimer("moved", 9.0), CancelTimer("dropped"), CancelTimer("unknown")],
    )
    player = CorePlayer(core)
    player.send(Start())
    player.send(Start(), at=1.0)
    player.run_until_idle()
    assert player.said(TimerFired) == [(5.0, TimerFired("kept")), (9.0, TimerFired("moved"))]


def test_a_timer_for_the_past_fires_now_and_not_inside_the_call_that_set_it() -> None:
    core = Recorder([SetTimer("late", -3.0)])
    player = CorePlayer(core)
    player.send(Start())
    assert [event for _, event in core.heard] == [Start()]
    player.run_until_idle()
    assert core.heard == [(0.0, Start()), (0.0, TimerFired("late"))]


def test_a_client_that_leaves_is_told_as_what_it_is() -> None:
    player = CorePlayer(ToyCore(), hook_secs=1.0, service=10.0)
    served, queued, gone = player.arrive("a"), player.arrive("a"), player.arrive("a")
    player.leave(gone, at=0.5)
    player.leave(served, at=2.0)
    player.leave(served, at=3.0)
    player.run_until_idle()
    assert player.said(Left) == [(0.5, Left(gone))]
    assert player.said(Finished) == [(2.0, Finished(served)), (12.0, Finished(queued))]


def test_aborted_requests_finish_at_once() -> None:
    core = Recorder([Grant(1, "a", 0.0, False)], [AbortRequests("a", (1, 99), "drain")])
    player = CorePlayer(core, service=NEVER)
    player.arrive("a")
    player.run_until_idle()
    assert player.in_flight == {1: "a"}
    player.send(Start(), at=4.0)
    player.run_until_idle()
    assert player.said(Finished) == [(4.0, Finished(1))]


def test_a_grant_to_nobody_is_an_error_with_the_story_in_it() -> None:
    player = CorePlayer(Recorder([Grant(1, "a", 0.0, False)]))
    with pytest.raises(AssertionError, match="not waiting"):
        player.send(Start())


def test_service_may_be_chosen_for_each_grant() -> None:
    player = CorePlayer(ToyCore(), hook_secs=1.0, service=lambda grant: float(grant.request_id))
    first, second = player.arrive("a"), player.arrive("a")
    player.run_until_idle()
    assert player.said(Finished) == [(2.0, Finished(first)), (4.0, Finished(second))]


def test_run_until_a_condition_or_say_what_happened_instead() -> None:
    player = CorePlayer(ToyCore(), hook_secs=1.0, service=NEVER)
    player.arrive("a")
    player.run_until(lambda: bool(player.in_flight))
    assert player.now == 1.0
    with pytest.raises(AssertionError, match="RunHook"):
        player.run_until(lambda: not player.in_flight)


def test_the_check_sees_the_world_after_every_event() -> None:
    seen: list[tuple[float, int]] = []
    player = CorePlayer(ToyCore(), hook_secs=1.0, check=lambda player: seen.append((player.now, len(player.in_flight))))
    player.arrive("a")
    player.run_until_idle()
    assert seen == [(0.0, 0), (1.0, 1), (2.0, 0)]


def test_the_story_can_be_read_searched_and_replayed() -> None:
    player = CorePlayer(ToyCore())
    player.arrive("a")
    player.arrive("b", at=0.25)
    player.run_until_idle()
    assert str(player).splitlines()[:2] == [
        "     0.000 >> Arrived(request_id=1, model='a', level=0)",
        "     0.000   << RunHook(run_id=1, model='a', hook=<Hook.WAKE: 'wake'>, timeout=30.0, devices=(), "
        "from_model=None, to_model=None)",
    ]
    assert len(player.story("RunHook", "'b'")) == 1
    assert replay(ToyCore(), player.events()) == player.entries
