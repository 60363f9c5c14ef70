"""Faults that simulated worlds (`tests/simulation`) have found in the core, each as a short story that shows it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llmux.core import CoreSettings, ModelSpec
from llmux.messages import (
    AbortRequests,
    Failure,
    Hook,
    ModelState,
    OperatorCheck,
    OperatorSleep,
    OperatorSwitch,
    Outcome,
    Refusal,
    RunHook,
    SwitchEnded,
)
from tests.core.harness import Play, two


def ended(play: Play) -> list[tuple[str, str]]:
    return [(end.to_model, end.result) for end in play.facts(SwitchEnded) if isinstance(end, SwitchEnded)]


def aborted_before_the_sleep(play: Play, model: str, request: int) -> bool:
    """Of the last sleep hook of `model`: was `request` cut off first, and only once?"""
    told = [index for index, effect in enumerate(play.effects) if isinstance(effect, AbortRequests)]
    slept = [
        index
        for index, effect in enumerate(play.effects)
        if isinstance(effect, RunHook) and effect.hook is Hook.SLEEP and effect.model == model
    ]
    assert len(told) == 1
    cut = play.effects[told[0]]
    assert isinstance(cut, AbortRequests)
    assert (cut.model, cut.request_ids) == (model, (request,))
    return told[0] < slept[-1] and all(told[0] > earlier for earlier in slept[:-1])


@pytest.mark.fault(46)
def test_a_switch_that_wakes_its_target_once_more_leaves_alone_what_its_victim_does_by_now() -> None:
    """`moved` made room for `proved` and is woken on the other device, when the canary of `proved` fails."""
    models = (ModelSpec("proved", ({"gpu0": 10},), canary=True), ModelSpec("moved", ({"gpu0": 10}, {"gpu1": 10})))
    play = Play(CoreSettings(models=models, devices={"gpu0": 10, "gpu1": 10}, alive_interval=0))
    play.command(OperatorSwitch, "moved")
    play.wake("moved")
    first = play.arrive("proved")
    play.sleep("moved")
    play.wake("proved")
    second = play.arrive("moved")
    assert play.running() == ["canary proved", "wake moved"]
    play.end(play.run(Hook.CANARY, "proved"), Outcome.FAILED)
    play.sleep("proved")
    assert play.running() == ["wake moved", "wake proved"]
    play.wake("moved")
    assert play.in_flight == {second: "moved"}
    play.wake("proved")
    play.end(play.run(Hook.CANARY, "proved"))
    assert play.in_flight == {second: "moved", first: "proved"}
    assert ended(play) == [("moved", "success"), ("moved", "success"), ("proved", "success")]


@pytest.mark.fault(34, 37)
def test_what_a_model_that_was_taken_for_dead_still_serves_is_cut_before_it_is_put_to_sleep() -> None:
    """Its alive hook said no, and its wake hook fails; but a stream of it runs on. vLLM dies when it is put to sleep
    under requests."""
    play = Play(two())
    play.command(OperatorSwitch, "a")
    play.wake("a")
    stream = play.arrive("a")
    play.fail_backend("a")
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    play.arrive("a")
    play.advance(5.0)
    play.end(play.run(Hook.WAKE, "a"), Outcome.FAILED)
    assert play.running() == ["sleep a"]
    assert aborted_before_the_sleep(play, "a", stream)


@pytest.mark.fault(34, 36)
def test_what_a_model_without_a_canary_still_serves_is_cut_before_it_is_put_to_sleep() -> None:
    """As above, but the wake hook succeeds, and the canary does not."""
    settings = two()
    settings = replace(settings, models=tuple(replace(spec, canary=True) for spec in settings.models))
    play = Play(settings)
    play.command(OperatorSwitch, "a")
    play.wake("a")
    play.end(play.run(Hook.CANARY, "a"))
    stream = play.arrive("a")
    play.fail_backend("a")
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    play.arrive("a")
    play.advance(5.0)
    play.wake("a")
    play.end(play.run(Hook.CANARY, "a"), Outcome.FAILED)
    assert aborted_before_the_sleep(play, "a", stream)


@pytest.mark.fault(44)
def test_what_a_lost_model_still_serves_is_cut_before_its_sleep_hook_is_tried_again() -> None:
    """Where drains are not waited for, a sleep hook that fails may leave its model serving."""
    play = Play(two(drain_before_switch=False, sleep_retry_delays=()))
    play.command(OperatorSwitch, "a")
    play.wake("a")
    stream = play.arrive("a")
    play.arrive("b")
    play.end(play.run(Hook.SLEEP, "a"), Outcome.FAILED)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    assert stream in play.in_flight
    play.advance(10.0)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    assert play.running() == ["sleep a"]
    assert aborted_before_the_sleep(play, "a", stream)


@pytest.mark.fault(61)
def test_nobody_is_woken_once_more_where_a_model_that_joined_was_found_awake() -> None:
    """While `a` wakes, a reload brings `c`, which somebody has started by hand. Then the canary of `a` fails."""
    models = (ModelSpec("a", canary=True), ModelSpec("b"))
    play = Play(CoreSettings(models=models, alive_interval=0))
    waiting = play.arrive("a")
    play.reconfigure(CoreSettings(models=(*models, ModelSpec("c")), alive_interval=0))
    play.end(play.run(Hook.ALIVE, "c"), Outcome.OK)
    play.wake("a")
    play.end(play.run(Hook.CANARY, "a"), Outcome.FAILED)
    play.sleep("a")
    assert play.running() == ["sleep c"]
    play.sleep("c")
    play.wake("a")
    play.end(play.run(Hook.CANARY, "a"))
    assert play.in_flight == {waiting: "a"}
    assert ended(play) == [("a", "cancelled"), ("a", "success")]


@pytest.mark.fault(24, 61)
def test_waiters_of_a_switchs_target_and_of_its_victim_whose_time_is_over_at_once_are_all_told() -> None:
    """The last who waits for `b` is refused, so the switch is called off and `a` serves on: not those of its waiters
    that are refused in the same moment."""
    play = Play(two(alive_interval=0))
    play.command(OperatorSwitch, "a")
    play.wake("a")
    running = play.arrive("a")
    waiting = [play.arrive("b"), play.arrive("a")]
    assert play.state("a") is ModelState.DRAINING
    play.advance(7.0)
    late = play.arrive("a")
    play.reconfigure(two(alive_interval=0, request_timeout=5.0))
    play.advance(0.0)
    assert [play.rejected[request].reason for request in waiting] == [Refusal.WAIT_TIMEOUT] * 2
    assert play.in_flight == {running: "a", late: "a"}
    assert play.state("a") is ModelState.AWAKE


def lost_while_its_switch_goes_on() -> Play:
    """Both were up before; nobody knows on which device `e` is, so both must sleep first. `e` fails to, `b` is slow."""
    models = (ModelSpec("b", ({"gpu0": 10, "gpu1": 10},)), ModelSpec("e", ({"gpu0": 10}, {"gpu1": 10})))
    devices = {"gpu0": 10, "gpu1": 10}
    play = Play(CoreSettings(models=models, devices=devices, alive_interval=0, sleep_retry_delays=()), started=False)
    play.start(awake=("b", "e"))
    play.arrive("e")
    assert play.running() == ["sleep b", "sleep e"]
    play.end(play.run(Hook.SLEEP, "e"), Outcome.FAILED)
    play.end(play.run(Hook.ALIVE, "e"), Outcome.FAILED)
    assert play.states() == {"b": "sleeping", "e": "lost"}
    return play


@pytest.mark.fault(44)
def test_a_model_that_is_lost_while_its_switch_goes_on_is_looked_at_when_that_is_over() -> None:
    play = lost_while_its_switch_goes_on()
    play.advance(60.0)
    assert play.running() == ["sleep b"]
    play.sleep("b")
    assert play.running() == ["alive e"]
    play.end(play.run(Hook.ALIVE, "e"))
    assert play.state("e") is ModelState.UNCONFIRMED


@pytest.mark.fault(44)
def test_a_look_that_is_not_due_when_the_switch_is_over_comes_when_it_is() -> None:
    play = lost_while_its_switch_goes_on()
    play.sleep("b")
    assert play.running() == []
    play.advance(10.0)
    assert play.running() == ["alive e"]


@pytest.mark.fault(44)
def test_an_operator_who_wants_a_look_meanwhile_gets_it_when_the_switch_is_over() -> None:
    play = lost_while_its_switch_goes_on()
    operator = play.command(OperatorCheck, "e")
    play.sleep("b")
    assert play.running() == ["alive e"]
    play.end(play.run(Hook.ALIVE, "e"))
    assert play.replies[operator].reason is None


@pytest.mark.fault(44)
def test_who_waits_for_a_model_that_cannot_be_woken_where_it_is_for_a_lost_one_is_told_so() -> None:
    """`small` has died on a device that has become too small for it and `big`, which is lost there. It would fit on the
    other one, but has to be put to sleep first; so nobody may wait for its wake, nor for others that do fit."""
    small = ModelSpec("small", ({"gpu0": 6}, {"gpu1": 6}))
    big = ModelSpec("big", ({"gpu0": 14},))
    third = ModelSpec("third", ({"gpu0": 4}, {"gpu1": 4}))
    settings = CoreSettings(models=(small, big, third), devices={"gpu0": 20, "gpu1": 16}, alive_interval=0)
    play = Play(settings)
    for name in ("small", "big"):
        play.command(OperatorSwitch, name)
        play.wake(name)
    play.reconfigure(replace(settings, devices={"gpu0": 16, "gpu1": 16}))
    fail_to_sleep(play, "small", alive=Outcome.OK)
    play.command(OperatorSleep, "big")
    fail_to_sleep(play, "big", alive=Outcome.FAILED)
    fail_to_sleep(play, "small", alive=Outcome.OK)
    play.fail_backend("small", Failure.REFUSED, 3)
    assert play.states() == {"small": "unconfirmed", "big": "lost", "third": "asleep"}
    refused = play.arrive("small")
    assert play.rejected[refused].reason is Refusal.DEVICE_LOST
    play.arrive("third")
    play.wake("third")


def fail_to_sleep(play: Play, model: str, *, alive: Outcome) -> None:
    """Its sleep hook fails as often as it is tried; then its alive hook ends with `alive`."""
    while f"sleep {model}" in play.running():
        play.end(play.run(Hook.SLEEP, model), Outcome.FAILED)
        play.advance(2.0)
    play.end(play.run(Hook.ALIVE, model), alive)
