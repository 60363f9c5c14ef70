"""What each built-in policy does where it has a choice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.messages import ModelState, SwitchStarted
from llmux.policy import BreakEvenPolicy, DrainFirstPolicy, PriorityPolicy, RoundRobinPolicy, SwitchPolicy
from tests.core.harness import GIB, Play


def playing(policy: SwitchPolicy, *names: str) -> Play:
    """a is awake, and everybody has been, so that switches are known to cost 10 s and requests to take 2 s."""
    play = Play(CoreSettings(models=tuple(ModelSpec(name) for name in names), alive_interval=0.0), policy)
    for name in (*names[1:], "a"):
        request = play.arrive(name)
        for run in list(play.hooks.values()):
            play.end(run, after=5.0)
        play.wake(name, after=5.0) if play.hooks else None
        play.advance(2.0)
        play.finish(request)
    assert play.state("a") == "awake"
    play.advance(1000.0)
    play.effects.clear()
    return play


def next_one(play: Play) -> str | None:
    started = [fact.to_model for fact in play.facts(SwitchStarted) if isinstance(fact, SwitchStarted)]
    return started[0] if started else None


@pytest.mark.parametrize("policy", [BreakEvenPolicy, DrainFirstPolicy, RoundRobinPolicy, PriorityPolicy])
def test_an_idle_model_gives_way_at_once(policy: Callable[[], SwitchPolicy]) -> None:
    play = playing(policy(), "a", "b")
    play.arrive("b")
    assert next_one(play) == "b"


def test_break_even_leaves_when_enough_are_kept_out() -> None:
    """One in flight, and W requests for b: with one request for either besides (`_SELDOM`), b is worth the switch once
    W * (2 / (W + 1)) ** 0.25 * 2 >= 0.11 * (10 + 10 + 2 + 2) * 2 ** 1.4, that is with 5 waiting."""
    play = playing(BreakEvenPolicy(patience=0.11), "a", "b")
    play.arrive("a")
    for _ in range(4):
        play.arrive("b")
        assert next_one(play) is None
    play.arrive("b")
    assert next_one(play) == "b"


def test_break_even_stays_longer_for_a_larger_batch() -> None:
    play = playing(BreakEvenPolicy(patience=0.1), "a", "b")
    for _ in range(4):
        play.arrive("a")
    for _ in range(12):  # 16 would do for four in flight, and 7 for two
        play.arrive("b")
    assert next_one(play) is None
    play.advance(2.0)
    play.finish(min(play.in_flight))
    play.finish(min(play.in_flight))
    assert next_one(play) == "b"


def test_break_even_lets_those_count_more_whose_model_is_seldom_asked_for() -> None:
    play = playing(BreakEvenPolicy(patience=0.1), "a", "b")
    for _ in range(20):
        request = play.arrive("a")
        play.advance(2.0)
        play.finish(request)
    play.arrive("a")
    play.arrive("b")
    assert next_one(play) == "b"


def test_break_even_prefers_the_longer_queue() -> None:
    play = playing(BreakEvenPolicy(), "a", "b", "c")
    running = play.arrive("a")
    play.arrive("b")
    for _ in range(9):
        play.arrive("c")
    play.advance(1.0)
    play.finish(running)
    assert next_one(play) == "c"


def test_break_even_lingers_when_both_are_in_demand() -> None:
    """Where a is asked for often, and b now and then, one request for b is not yet worth it; but not for long."""
    policy = BreakEvenPolicy(max_wait_secs=10_000.0)
    play = playing(policy, "a", "b")
    policy.linger = 10.0
    for _ in range(400):
        play.finish(play.arrive("a"))
    play.arrive("b")
    assert next_one(play) is None
    play.advance(700.0)  # a's demand is forgotten
    assert next_one(play) == "b"


def test_drain_first_stays_while_there_is_something_to_do() -> None:
    play = playing(DrainFirstPolicy(max_wait_secs=100.0), "a", "b", "c")
    running = play.arrive("a")
    play.arrive("c")
    for _ in range(50):
        play.arrive("b")
    assert next_one(play) is None
    play.finish(running)
    assert next_one(play) == "c"


def test_round_robin_takes_turns_of_some_length() -> None:
    play = playing(RoundRobinPolicy(max_wait_secs=1000.0, quantum=2.0), "a", "b", "c")
    running = play.arrive("a")
    play.arrive("c")
    play.finish(running)
    play.sleep("a", after=5.0)
    play.wake("c", after=5.0)
    play.effects.clear()
    play.arrive("b")
    play.arrive("a")
    assert next_one(play) is None
    play.advance(19.9)
    assert next_one(play) is None
    play.advance(0.2)
    assert next_one(play) == "a"  # after c, the last of the three, comes a


def test_priority_goes_by_the_models_own_priority_and_by_its_most_urgent_request() -> None:
    specs = (ModelSpec("a", priority=1.0), ModelSpec("b"), ModelSpec("c"))
    play = Play(CoreSettings(models=specs), PriorityPolicy(ageing_secs=30.0))
    play.arrive("a")
    play.wake("a")
    play.arrive("b")
    play.advance(29.0)
    assert play.state("a") is ModelState.AWAKE  # its level is 1 more
    play.arrive("c", level=1)
    assert play.state("a") is ModelState.DRAINING  # the request makes up for that
    play.settle()
    order = [started.to_model for started in play.facts(SwitchStarted) if isinstance(started, SwitchStarted)]
    assert order == ["a", "c", "b"]
    named = Play(CoreSettings(models=specs), PriorityPolicy(levels={"a": -1.0}, ageing_secs=30.0))
    named.arrive("a")
    named.wake("a")
    named.arrive("b")
    assert named.state("a") is ModelState.DRAINING  # what the policy is told goes before


def test_priority_holds_the_less_important_back_until_they_have_aged() -> None:
    play = playing(PriorityPolicy(1000.0, levels={"a": 2, "b": 1, "c": 5}, ageing_secs=30.0), "a", "b", "c")
    running = play.arrive("a")
    play.arrive("b")
    play.advance(29.9)
    assert next_one(play) is None
    play.advance(0.2)
    assert next_one(play) == "b"
    play = playing(PriorityPolicy(1000.0, levels={"a": 2, "b": 1, "c": 5}), "a", "b", "c")
    running = play.arrive("a")
    play.arrive("b")
    play.arrive("c")
    assert next_one(play) == "c"
    assert running in play.in_flight


@pytest.mark.parametrize("policy", [BreakEvenPolicy, DrainFirstPolicy, RoundRobinPolicy, PriorityPolicy])
def test_free_room_is_taken_without_asking_anybody_to_leave(policy: Callable[[], SwitchPolicy]) -> None:
    settings = CoreSettings(
        models=(
            ModelSpec("a", ({"g": 8 * GIB},)),
            ModelSpec("b", ({"g": 8 * GIB},)),
            ModelSpec("c", ({"g": 8 * GIB},)),
        ),
        devices={"g": 16 * GIB},
    )
    play = Play(settings, policy())
    play.arrive("a")
    play.wake("a")
    play.arrive("b")
    play.wake("b")
    assert len(play.in_flight) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BreakEvenPolicy(patience=-1.0), "patience and linger must be at least 0"),
        (lambda: BreakEvenPolicy(linger=-1.0), "patience and linger must be at least 0"),
        (lambda: RoundRobinPolicy(quantum=-1.0), "quantum must be at least 0"),
        (lambda: PriorityPolicy(ageing_secs=0.0), "ageing_secs must be above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Callable[[], SwitchPolicy], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
