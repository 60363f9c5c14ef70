"""`max_queue` and `max_in_flight`: who is turned away, who waits for a place, and that nobody else suffers from it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmux
from llmux.core import CoreSettings, ModelSpec
from llmux.core.ledger import Model
from llmux.core.planning import Planner
from llmux.core.report import snapshot
from llmux.messages import (
    Arrived,
    BackendFailed,
    Effect,
    Finished,
    Grant,
    Hook,
    Left,
    ModelState,
    OperatorSleep,
    Outcome,
    Refusal,
    Reject,
    SwitchStarted,
    TimerFired,
)
from llmux.policy import (
    BreakEvenPolicy,
    DrainFirstPolicy,
    FifoPolicy,
    PriorityPolicy,
    RoundRobinPolicy,
    SwitchPolicy,
    load_policy,
)
from llmux.sim import Arrival, BackendModel, HookTimes, Result, poisson, simulate
from tests.core.harness import Play, two


def narrow(places: int = 2, **overrides: object) -> CoreSettings:
    """Models a, which takes `places` requests at a time, and b, which takes any number."""
    return CoreSettings(models=(ModelSpec("a", max_in_flight=places), ModelSpec("b")), **overrides)  # type: ignore[arg-type]  # test sugar


def woken(play: Play, requests: int) -> list[int]:
    """Bring a up with so many requests for it, granted or waiting."""
    made = [play.arrive("a") for _ in range(requests)]
    play.wake("a", after=1.0)
    return made


# --- max_in_flight --------------------------------------------------------------------------------------------------


def test_more_than_max_in_flight_wait_and_are_granted_in_order() -> None:
    play = Play(narrow(2))
    first, second, third, fourth = woken(play, 4)
    assert set(play.in_flight) == {first, second}
    assert set(play.waiting) == {third, fourth}
    assert play.core.ledger.models["a"].waiting == 2
    play.advance(3.0)
    fifth = play.arrive("a")  # behind those who wait already
    play.finish(second)
    assert set(play.in_flight) == {first, third}
    play.finish(third)
    play.finish(first)
    assert set(play.in_flight) == {fourth, fifth}
    waits = {effect.request_id: effect for effect in play.effects if isinstance(effect, Grant)}
    assert list(waits) == [first, second, third, fourth, fifth]
    assert waits[first].switched
    assert waits[fourth].switched  # it came before its model was awake
    assert not waits[fifth].switched
    assert waits[fourth].waited == 4.0


def test_waiting_for_a_place_asks_for_no_switch_and_no_hook() -> None:
    play = Play(narrow(1, alive_interval=0.0))
    first, second = woken(play, 2)
    before = len(play.effects)
    play.advance(1000.0)
    assert play.effects[before:] == []
    seen = snapshot(play.core, play.now)
    assert (seen.models[0].waiting, seen.models[0].in_flight) == (1, 1)
    assert seen.oldest_waiter_age == 1001.0
    assert not seen.stalled, "it waits for a request that is served, which is no fault of the scheduler"
    assert seen.ready
    play.finish(first)
    assert set(play.in_flight) == {second}


def test_a_waiter_for_a_place_may_leave() -> None:
    play = Play(narrow(1))
    first, second, third = woken(play, 3)
    play.leave(second)
    play.finish(first)
    assert set(play.in_flight) == {third}
    assert play.state("a") is ModelState.AWAKE


def test_a_granted_request_that_leaves_makes_room() -> None:
    play = Play(narrow(1))
    first, second = woken(play, 2)
    del play.in_flight[first]
    play.ends[first] += 1
    play.send(Left(first))
    assert set(play.in_flight) == {second}


def test_a_waiter_for_a_place_has_its_deadline() -> None:
    play = Play(narrow(1, request_timeout=10.0))
    _, second = woken(play, 2)
    play.advance(9.5)
    assert play.rejected[second].reason is Refusal.WAIT_TIMEOUT


def test_a_drain_admits_nobody_and_completes() -> None:
    play = Play(narrow(2, alive_interval=0.0), RoundRobinPolicy(quantum=0.0))
    first, second, third, fourth = woken(play, 4)
    other = play.arrive("b")
    assert play.state("a") is ModelState.DRAINING
    play.finish(first)
    assert set(play.in_flight) == {second}, "a place that gets free in a drain stays free"
    play.finish(second)
    play.sleep("a", after=1.0)
    play.wake("b", after=1.0)
    assert set(play.in_flight) == {other}
    play.advance(1000.0)
    play.finish(other)
    assert play.state("b") is not ModelState.AWAKE, "a's waiters are as good a reason to switch as any"
    play.sleep("b")
    play.wake("a")
    assert set(play.in_flight) == {third, fourth}
    play.settle()


def test_a_drain_that_is_called_off_fills_the_places_again() -> None:
    play = Play(narrow(2), RoundRobinPolicy(quantum=0.0))
    first, second, third, _ = woken(play, 4)
    other = play.arrive("b")
    play.finish(first)
    play.leave(other)
    assert play.state("a") is ModelState.AWAKE
    assert set(play.in_flight) == {second, third}


def test_a_full_model_that_dies_is_woken_for_those_who_wait() -> None:
    play = Play(narrow(1, stable_after=0.0))
    first, second = woken(play, 2)
    play.send(BackendFailed("a"))
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    play.finish(first)
    play.wake("a", after=1.0)
    assert set(play.in_flight) == {second}


def test_an_operators_sleep_of_a_full_model_leaves_nobody_behind() -> None:
    play = Play(narrow(1))
    first, second = woken(play, 2)
    command = play.command(OperatorSleep, "a")
    play.finish(first)
    play.sleep("a")
    assert play.replies[command].reason is None
    play.wake("a")
    assert set(play.in_flight) == {second}


# --- and the policies -------------------------------------------------------------------------------------------------

SERVICE = 4.0
COST = 5.0
BACKEND = BackendModel(rate=1.0, prefill_rate=1e9, overhead=0.0, batch=10_000)  # a request takes its output in seconds

POLICIES: dict[str, Callable[[float], SwitchPolicy]] = {
    "fifo": lambda limit: FifoPolicy(),
    "break-even": BreakEvenPolicy,
    "drain-first": DrainFirstPolicy,
    "round-robin": RoundRobinPolicy,
    "priority": lambda limit: PriorityPolicy(limit, levels={"m0": 1000.0}),
}


def run(
    arrivals: list[Arrival], places: dict[str, int | None], policy: SwitchPolicy, drain: float | None = None
) -> tuple[Result, list[Effect]]:
    core = CoreSettings(
        models=tuple(ModelSpec(name, drain_timeout=drain, max_in_flight=most) for name, most in places.items()),
        alive_interval=0.0,
    )
    effects: list[Effect] = []
    hooks = HookTimes.constant(list(places), COST)
    watch = lambda now, event, out: effects.extend(out)  # noqa: E731  # a name would say no more
    return simulate(arrivals, core, policy, hooks=hooks, backends=BACKEND, check=True, watch=watch), effects


@pytest.mark.parametrize("name", POLICIES)
@given(
    models=st.integers(2, 4),
    rate=st.sampled_from([0.1, 0.5, 1.5]),
    places=st.integers(1, 4),
    both=st.booleans(),
    limit=st.sampled_from([0.0, 20.0, 100.0]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=40)
def test_the_bound_on_waiting_holds(
    name: str, models: int, rate: float, places: int, both: bool, limit: float, seed: int
) -> None:
    """As `llmux.policy.bounded` states it: for models without a limit as ever, and with one for every `places`."""
    names = [f"m{place}" for place in range(models)]
    rates = {one: rate if one == "m0" else rate / 5 for one in names}
    arrivals = [Arrival(a.at, a.model, 0, int(SERVICE)) for a in poisson(rates, 60 / rate, seed, output_tokens=1)]
    limits: dict[str, int | None] = {one: places if both or one == "m0" else None for one in names}
    result, _ = run(arrivals, limits, POLICIES[name](limit))
    assert None not in result.finished
    bound = limit + models * (SERVICE + COST)
    if name == "fifo":
        bound = models * (SERVICE + COST + 2 * COST)
    before: list[int] = []
    for index, model in enumerate(result.model_of):
        granted = result.granted[index]
        assert granted is not None
        waited = granted - result.arrived[index]
        most = limits[model]
        if most is None:
            assert waited <= bound + 1e-6, model
            continue
        ahead = sum(
            1
            for other in range(index)
            if result.model_of[other] == model and (result.granted[other] or 0.0) > result.arrived[index]
        )
        before.append(ahead)
        assert waited <= (1 + ahead // most) * (bound + SERVICE) + 1e-6, f"{model} behind {ahead}"
    granted_in_order = [
        [at for at, model in zip(result.granted, result.model_of, strict=True) if model == one] for one in names
    ]
    assert all(one == sorted(one, key=lambda at: at or 0.0) for one in granted_in_order), "first come, first served"


@pytest.mark.parametrize("name", POLICIES)
def test_an_overloaded_full_model_starves_nobody(name: str) -> None:
    """m0 gets four times what its one place can serve, for ever; every request of m1 is served within the bound."""
    flood = [Arrival(float(second), "m0", 0, 4) for second in range(600)]
    rare = [Arrival(100.0 * number + 50.5, "m1", 0, 4) for number in range(5)]
    arrivals = sorted([*flood, *rare], key=lambda arrival: arrival.at)
    result, _ = run(arrivals, {"m0": 1, "m1": None}, POLICIES[name](20.0))
    waits = [
        (granted or math.inf) - arrived
        for granted, arrived, model in zip(result.granted, result.arrived, result.model_of, strict=True)
        if model == "m1"
    ]
    assert len(waits) == 5
    assert max(waits) <= 20.0 + 2 * (SERVICE + 3 * COST)


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in ("fifo", "drain-first")])
def test_two_overloaded_full_models_share_the_time_and_switching_does_not_eat_it(name: str) -> None:
    arrivals = [Arrival(second / 2, f"m{second % 2}", 0, 4) for second in range(400)]
    result, effects = run(arrivals, {"m0": 2, "m1": 2}, POLICIES[name](40.0))
    assert None not in result.finished
    switches = sum(isinstance(effect, SwitchStarted) for effect in effects)
    assert switches * COST <= 0.55 * result.seconds, f"{switches} switches in {result.seconds:g} s"


def test_fifo_leaves_a_full_model_whose_request_never_ends() -> None:
    """Its older waiters keep it only for so long: then the drain begins, and its deadline cuts what does not end."""
    arrivals = [Arrival(0.0, "m0", 0, 10_000), Arrival(0.5, "m0", 0, 4), Arrival(1.0, "m1", 0, 4)]
    result, _ = run(arrivals, {"m0": 1, "m1": None}, FifoPolicy(), drain=30.0)
    lone = result.granted[2]
    assert lone is not None
    assert lone <= COST + 2 * COST + 30.0 + COST + 1e-6
    assert result.granted[1] is not None


# --- max_queue --------------------------------------------------------------------------------------------------------


@pytest.mark.fault(52)
def test_52_a_models_own_queue_has_a_cap_and_others_go_on() -> None:
    play = Play(CoreSettings(models=(ModelSpec("a", max_queue=2), ModelSpec("b")), max_queue=4))
    kept = [play.arrive("a") for _ in range(2)]
    refused = play.arrive("a")
    assert play.rejected[refused].reason is Refusal.QUEUE_FULL
    assert play.rejected[refused].detail == "2 requests are waiting for a already"
    others = [play.arrive("b") for _ in range(2)]
    assert set(play.waiting) == {*kept, *others}
    refused = play.arrive("b")
    assert play.rejected[refused].reason is Refusal.QUEUE_FULL
    assert play.rejected[refused].detail == "4 requests are waiting already"
    play.leave(kept[0])
    late = play.arrive("a")
    assert late in play.waiting


@pytest.mark.fault(52)
def test_52_waiters_for_a_place_count_and_an_awake_model_with_room_turns_nobody_away() -> None:
    play = Play(CoreSettings(models=(ModelSpec("a", max_queue=1, max_in_flight=1), ModelSpec("b")), max_queue=1))
    first = play.arrive("a")
    play.wake("a")
    waiter = play.arrive("a")
    assert play.rejected[play.arrive("a")].reason is Refusal.QUEUE_FULL
    play.leave(waiter)
    play.finish(first)
    assert play.arrive("a") in play.in_flight


# --- when to come back ------------------------------------------------------------------------------------------------


def retry(play: Play, model: str) -> float:
    after = play.rejected[play.arrive(model)].retry_after
    assert after is not None
    return after


@pytest.mark.fault(52)
def test_retry_after_is_what_is_left_of_the_switch_under_way() -> None:
    play = Play(CoreSettings(models=(ModelSpec("a"), ModelSpec("b")), max_queue=1))
    first = play.arrive("a")
    assert retry(play, "a") == 10.0  # nothing is known yet
    play.wake("a", after=6.0)
    play.finish(first)
    second = play.arrive("b")  # a goes to sleep for it
    play.sleep("a", after=2.0)
    play.wake("b", after=7.0)
    play.finish(second)
    third = play.arrive("a")
    play.sleep("b", after=3.0)
    play.wake("a", after=6.0)
    play.finish(third)
    assert play.core.costs.estimate("a", "b") == 9.0
    play.arrive("b")
    assert retry(play, "b") == 9.0
    play.sleep("a", after=2.5)
    assert retry(play, "b") == 6.5
    play.advance(30.0)  # longer than it ever took
    assert retry(play, "b") == 0.0


@pytest.mark.fault(52)
def test_retry_after_counts_the_switch_before_and_the_drain() -> None:
    play = Play(CoreSettings(models=(ModelSpec("a"), ModelSpec("b"), ModelSpec("c")), max_queue=1))
    play.core.costs.record(None, "b", 4.0)
    play.core.costs.record("b", "c", 5.0)
    play.core.costs.record_drain("b", 3.0)
    play.arrive("b")
    play.advance(1.0)
    assert retry(play, "c") == (4.0 - 1.0) + 3.0 + 5.0


@pytest.mark.fault(52)
def test_retry_after_of_a_full_model_is_the_time_until_a_place_is_free() -> None:
    play = Play(CoreSettings(models=(ModelSpec("a", max_in_flight=4), ModelSpec("b")), max_queue=1))
    requests = [play.arrive("a")]
    play.wake("a")
    play.advance(8.0)
    play.finish(requests[0])
    for _ in range(5):
        play.arrive("a")
    assert retry(play, "a") == 8.0 / 4


def test_those_who_wait_know_their_place_and_when_its_turn_comes() -> None:
    play = Play(CoreSettings(models=(ModelSpec("a", max_in_flight=2), ModelSpec("b"))), FifoPolicy())
    waiting = [play.arrive("a") for _ in range(5)]
    play.advance(4.0)
    prospects = play.core.prospects("a", play.now)
    assert [prospects.of(request)[0] for request in waiting] == [0, 1, 2, 3, 4]
    seconds = [prospects.of(request)[1] for request in waiting]
    assert seconds[0] == seconds[1] < seconds[2] < seconds[3] < seconds[4]  # two get on at once
    play.wake("a")
    later = play.core.prospects("a", play.now)
    assert [later.of(request)[0] for request in waiting[2:]] == [0, 1, 2]
    assert 0.0 < later.of(waiting[2])[1] < later.of(waiting[3])[1]
    play.leave(waiting[2])
    assert play.core.prospects("a", play.now).of(waiting[3])[0] == 0
    assert play.core.prospects("nobody", play.now).of(7) == (0, 0.0)
    play.settle()


def test_who_has_waited_too_long_is_told_when_to_come_back() -> None:
    play = Play(two(request_timeout=10.0))
    play.core.costs.record_wake("a", 60.0)
    request = play.arrive("a")
    play.advance(10.0)
    assert play.rejected[request].reason is Refusal.WAIT_TIMEOUT
    assert play.rejected[request].retry_after == pytest.approx(50.0)


@pytest.mark.fault(52)
def test_retry_after_of_a_model_that_backs_off_includes_the_pause() -> None:
    play = Play(CoreSettings(models=(ModelSpec("a"), ModelSpec("b", max_queue=1)), backoff_base=4.0))
    play.arrive("b")
    play.end(play.run(Hook.WAKE, "b"), Outcome.FAILED)
    play.sleep("b")
    play.arrive("b")  # waits for the end of the pause
    assert retry(play, "b") == 4.0 + 10.0


# --- 10,000 ----------------------------------------------------------------------------------------------------------


def lines_run(what: Callable[[], object]) -> int:
    """How many lines of llmux's own code a call runs: what it costs, on any machine."""
    count = 0

    def local(frame: FrameType, event: str, argument: object) -> object:
        nonlocal count
        count += event == "line"
        return local

    def trace(frame: FrameType, event: str, argument: object) -> object:
        return local if frame.f_code.co_filename.startswith(package) else None

    package = str(Path(llmux.__file__).parent)
    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]  # typeshed wants a named recursive type
    try:
        what()
    finally:
        sys.settrace(before)
    return count


def queue_of(size: int, state: str) -> Play:
    """`size` requests that wait for b: which wakes, or whose room must be drained first, or which is full."""
    spec = ModelSpec("b", max_in_flight=1 if state == "full" else None)
    play = Play(CoreSettings(models=(ModelSpec("a"), spec), max_queue=10**6, request_timeout=1000.0), FifoPolicy())
    if state == "draining":
        play.arrive("a")
        play.wake("a")
    if state == "full":
        play.arrive("b")
        play.wake("b")
    for number in range(size):
        play.core.handle(Arrived(1000 + number, "b"), play.now)
    assert play.core.ledger.models["b"].waiting == size
    return play


@pytest.mark.fault(52)
@pytest.mark.parametrize("state", ["waking", "draining", "full"])
@pytest.mark.parametrize("which", [0.0, 0.5, 1.0])
def test_52_leaving_costs_the_same_wherever_in_a_queue_of_whatever_length(state: str, which: float) -> None:
    costs = []
    for size in (10, 10_000):
        play = queue_of(size, state)
        request = 1000 + round(which * (size - 1))
        core, now = play.core, play.now
        costs.append(lines_run(lambda: core.handle(Left(request), now)))  # noqa: B023  # called at once
        assert core.ledger.queued == size - 1
    assert costs[0] == costs[1]
    assert costs[0] < 120


@pytest.mark.fault(52)
def test_52_arriving_and_being_turned_away_cost_the_same_however_many_wait() -> None:
    arriving, refused, served = [], [], []
    for size in (10, 10_000):
        play = queue_of(size, "full")
        core, now = play.core, play.now
        arriving.append(lines_run(lambda: core.handle(Arrived(1, "b"), now)))  # noqa: B023  # called at once
        served.append(lines_run(lambda: core.handle(Finished(1), now)))  # noqa: B023
        small = CoreSettings(models=core.settings.models, max_queue=size)
        play = Play(small)
        for number in range(size):
            play.core.handle(Arrived(1000 + number, "b"), play.now)
        turned = play.core
        effects: list[Effect] = []
        refused.append(lines_run(lambda: effects.extend(turned.handle(Arrived(1, "b"), now))))  # noqa: B023
        assert isinstance(effects[0], Reject)
    for costs in (arriving, refused, served):
        assert costs[0] == costs[1]


@pytest.mark.fault(52)
def test_52_an_expiry_looks_only_at_what_has_expired() -> None:
    """Requests that wait for an hour more cost a deadline's timer nothing."""
    costs = []
    for size in (10, 10_000):
        play = queue_of(1, "waking")
        core, now = play.core, play.now
        for number in range(size):
            core.handle(Arrived(100_000 + number, "b"), now + 500.0)
        costs.append(lines_run(lambda: core.handle(TimerFired("wait"), now + 1000.0)))  # noqa: B023
        assert core.ledger.queued == size
    assert costs[0] == costs[1]


def test_what_is_known_of_one_goes_for_all_that_need_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """While many wait for one device, requests for another are not held up: each of their events looks at the kinds of
    those who wait, and not at every one of them."""
    asked: list[str] = []
    plan, shut_out, obstructed = Planner._plan, Planner._pinned_against, Planner._is_obstructed

    def noted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(planner: Planner, target: Model, *args: Any) -> Any:
            asked.append(target.name)
            return original(planner, target, *args)

        return call

    for name, original in (("_plan", plan), ("_pinned_against", shut_out), ("_is_obstructed", obstructed)):
        monkeypatch.setattr(Planner, name, noted(original))
    many = tuple(ModelSpec(name=f"m{n}", placements=({"gpu0": 1},)) for n in range(50))
    other = ModelSpec(name="other", placements=({"gpu1": 1},), pinned=True)
    play = Play(CoreSettings(models=(other, *many), devices={"gpu0": 1, "gpu1": 1}), load_policy("break-even", {}))
    play.arrive("other")
    play.wake("other")
    for model in many:
        play.arrive(model.name)
    asked.clear()
    play.finish(1)
    assert len(asked) <= 3, asked
