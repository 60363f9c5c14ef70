"""Models that sleep when nobody asks for them, and models that are awake from the start."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llmux.core import CoreSettings, ModelSpec
from llmux.messages import (
    Hook,
    ModelIdle,
    ModelState,
    OperatorSwitch,
    Outcome,
    PreloadSkipped,
    SetTimer,
    StateChanged,
    SwitchEnded,
    SwitchStarted,
)
from llmux.sim import Arrival, BackendModel, HookTimes, simulate
from tests.core.harness import GIB, Play, three_on_two_gpus, two


def idle(seconds: float = 60.0, **options: object) -> CoreSettings:
    """Models a and b, one at a time, that sleep after so many seconds."""
    return CoreSettings(
        models=(ModelSpec("a", idle_sleep=seconds), ModelSpec("b", idle_sleep=seconds)),
        alive_interval=0.0,
        **options,  # type: ignore[arg-type]  # test sugar
    )


def served(settings: CoreSettings) -> Play:
    """Model a was woken for a request, and has just answered it."""
    play = Play(settings)
    request = play.arrive("a")
    play.wake("a")
    play.finish(request)
    return play


def assert_sleeps_after(play: Play, seconds: float) -> None:
    """Nothing runs for one second less than that, and then the sleep hook of a."""
    play.advance(seconds - 1.0)
    assert not play.hooks
    play.advance(1.0)
    assert play.running() == ["sleep a"]


def fail_to_sleep(play: Play, alive: Outcome) -> None:
    """The sleep hook of a, which runs, fails, and its alive hook ends like that."""
    play.end(play.run(Hook.SLEEP, "a"), Outcome.FAILED)
    play.end(play.run(Hook.ALIVE, "a"), alive)


def die(play: Play) -> None:
    """The backend of a fails a request, and its alive hook says that it is dead."""
    play.fail_backend("a")
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)


# --- idle_sleep -------------------------------------------------------------------------------------------------------


def test_a_model_with_nothing_to_do_is_put_to_sleep() -> None:
    play = Play(idle())
    request = play.arrive("a")
    play.wake("a")
    play.advance(500.0)  # a long answer is no idleness
    play.finish(request)
    play.advance(59.0)
    assert play.state("a") is ModelState.AWAKE
    play.advance(1.0)
    assert play.state("a") is ModelState.SLEEPING
    assert play.facts(ModelIdle) == [ModelIdle("a", 60.0)]
    causes = [change.cause for change in play.facts(StateChanged) if isinstance(change, StateChanged)]
    assert "nobody has asked for it in idle_sleep_secs" in causes
    play.sleep("a")
    assert play.state("a") is ModelState.ASLEEP
    assert len(play.facts(SwitchStarted)) == 1  # it was for nobody
    play.arrive("a")
    play.settle()


def test_every_request_begins_the_time_anew_without_a_timer_of_its_own() -> None:
    play = Play(idle())
    play.arrive("a")
    play.wake("a")
    for _ in range(20):
        play.advance(30.0)
        play.finish(next(iter(play.in_flight)))
        play.arrive("a")
    play.finish(next(iter(play.in_flight)))
    assert play.state("a") is ModelState.AWAKE
    timers = [e for e in play.effects if isinstance(e, SetTimer) and e.key == "idle:a"]
    assert len(timers) <= 12
    play.advance(60.0)
    assert play.state("a") is ModelState.SLEEPING


def test_one_that_was_found_awake_sleeps_too_but_not_if_somebody_waits() -> None:
    play = Play(idle(), started=False)
    play.start(awake=("a",))
    play.advance(60.0)
    assert play.state("a") is ModelState.SLEEPING
    other = Play(idle(2.0), started=False)
    other.start(awake=("a",))
    other.core.ledger.models["a"].wake_not_before = 4.0  # so that it cannot be woken at once
    request = other.arrive("a")
    other.advance(3.0)
    assert other.state("a") is ModelState.UNCONFIRMED
    assert request in other.waiting
    other.settle()


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_pinned_models_and_those_without_idle_sleep_stay_awake(seconds: float) -> None:
    play = Play(CoreSettings(models=(ModelSpec("a", idle_sleep=seconds, pinned=True), ModelSpec("b"))))
    play.arrive("a")
    play.wake("a")
    play.settle()
    play.advance(10_000.0)
    assert play.state("a") is not ModelState.SLEEPING
    assert not play.facts(ModelIdle)


@pytest.mark.fault(51)
def test_an_idle_sleep_and_an_order_at_once() -> None:
    play = served(idle())
    play.advance(60.0)
    command = play.command(OperatorSwitch, "a")  # its sleep hook runs already
    play.advance(1.0)
    play.sleep("a")
    play.wake("a")
    assert play.replies[command].reason is None
    assert play.state("a") is ModelState.AWAKE
    play.settle()


def test_a_sleep_that_fails_is_not_tried_again_at_once() -> None:
    play = served(idle(2.0, sleep_retry_delays=(), backoff_base=100.0, backoff_cap=100.0))
    play.advance(2.0)
    fail_to_sleep(play, alive=Outcome.OK)
    assert play.state("a") is ModelState.AWAKE
    assert_sleeps_after(play, 100.0)


def test_so_is_one_that_was_never_vouched_for() -> None:
    play = Play(idle(2.0, sleep_retry_delays=(), backoff_base=100.0, backoff_cap=100.0), started=False)
    play.start(awake=("a",))
    play.advance(2.0)
    fail_to_sleep(play, alive=Outcome.OK)
    assert play.state("a") is ModelState.UNCONFIRMED
    assert_sleeps_after(play, 100.0)


def test_one_that_was_lost_and_answers_again_sleeps_after_its_time() -> None:
    play = served(idle(20.0, sleep_retry_delays=(), lost_check_base=5.0, lost_check_cap=5.0))
    play.advance(20.0)
    fail_to_sleep(play, alive=Outcome.FAILED)
    assert play.state("a") is ModelState.LOST
    play.advance(5.0)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.OK)
    assert play.state("a") is ModelState.UNCONFIRMED
    assert_sleeps_after(play, 20.0)


def test_one_that_died_with_requests_sleeps_once_they_are_gone() -> None:
    play = Play(idle(10.0))
    request = play.arrive("a")
    play.wake("a")
    play.advance(30.0)  # its first timer has come and gone
    die(play)
    assert play.state("a") is ModelState.UNCONFIRMED
    play.finish(request)
    assert_sleeps_after(play, 10.0)


def test_one_whose_drain_was_called_off_sleeps_after_its_time() -> None:
    play = Play(idle(10.0))
    request = play.arrive("a")
    play.wake("a")
    die(play)
    other = play.arrive("b")
    play.advance(30.0)
    assert play.state("a") is ModelState.DRAINING
    play.leave(other)
    assert play.state("a") is ModelState.UNCONFIRMED
    play.finish(request)
    assert_sleeps_after(play, 10.0)


def test_a_reload_counts_the_time_that_has_passed() -> None:
    play = served(two(alive_interval=0.0))
    play.advance(100.0)
    play.reconfigure(idle(130.0))
    play.advance(29.0)
    assert play.state("a") is ModelState.AWAKE
    play.reconfigure(idle(0.0))
    play.advance(1000.0)
    assert play.state("a") is ModelState.AWAKE
    play.reconfigure(idle(60.0))
    play.advance(0.0)
    assert play.state("a") is ModelState.SLEEPING


def test_in_the_simulator() -> None:
    arrivals = [Arrival(at, "a", 100, 10) for at in (0.0, 200.0)]
    seen: list[ModelIdle] = []

    def watch(now: float, event: object, effects: object) -> None:
        assert isinstance(effects, list)
        seen.extend(effect for effect in effects if isinstance(effect, ModelIdle))

    made = simulate(
        arrivals,
        idle(),
        Play(two()).core.policy,
        hooks=HookTimes.constant("ab", 5.0),
        backends=BackendModel(),
        check=True,
        watch=watch,
    )
    assert all(at is not None for at in made.finished)
    assert len(seen) == 1


# --- preload ----------------------------------------------------------------------------------------------------------


def test_models_are_woken_at_the_start_in_order_as_far_as_they_fit() -> None:
    settings = replace(three_on_two_gpus(), preload=("left", "small", "right", "big"))
    play = Play(settings)
    assert play.running() == ["wake left", "wake small"]  # on either device
    starts = [start for start in play.facts(SwitchStarted) if isinstance(start, SwitchStarted)]
    assert [start.cause for start in starts] == ["preload", "preload"]
    play.wake("left")
    assert play.running() == ["wake small"]  # `right` would go beside it, but not before it is up
    play.wake("small")
    assert play.running() == ["wake right"]
    play.wake("right")
    assert not play.hooks
    (skipped,) = play.facts(PreloadSkipped)
    assert isinstance(skipped, PreloadSkipped)
    assert skipped.model == "big"
    assert "left" in skipped.detail
    assert play.states() == {"big": "asleep", "left": "awake", "right": "awake", "small": "awake"}
    assert not play.core._preload.left


def test_models_on_different_devices_are_woken_side_by_side() -> None:
    play = Play(replace(three_on_two_gpus(), preload=("left", "right")))
    assert play.running() == ["wake left", "wake right"]


@pytest.mark.fault(37)
def test_a_preload_that_fails_is_reported_and_the_next_one_goes_on() -> None:
    play = Play(replace(two(), preload=("a", "b")))
    play.end(play.run(Hook.WAKE, "a"), Outcome.FAILED)
    (ended,) = play.facts(SwitchEnded)
    assert isinstance(ended, SwitchEnded)
    assert (ended.to_model, ended.result) == ("a", "failure")
    play.sleep("a")
    assert play.running() == ["wake b"]
    play.wake("b")
    play.advance(1000.0)
    assert play.state("a") is ModelState.ASLEEP


def test_who_waits_comes_first() -> None:
    play = Play(replace(two(), preload=("a",)), started=False)
    request = play.arrive("b")
    play.start()
    assert play.running() == ["wake b"]
    play.wake("b")
    play.finish(request)
    assert [skipped.model for skipped in play.facts(PreloadSkipped) if isinstance(skipped, PreloadSkipped)] == ["a"]


def test_one_that_was_found_awake_is_woken_where_it_is_and_others_are_left_alone() -> None:
    play = Play(replace(two(), preload=("a", "b")), started=False)
    play.start(awake=("a",))
    assert play.running() == ["wake a"]
    play.wake("a")
    other = Play(replace(two(), preload=("a",)), started=False)
    other.start(awake=("b",))
    assert not other.hooks
    assert other.state("b") is ModelState.UNCONFIRMED
    assert len(other.facts(PreloadSkipped)) == 1


def test_a_reload_wakes_those_that_joined_the_list_and_no_others() -> None:
    free = CoreSettings(
        models=tuple(ModelSpec(name, ({"gpu": GIB},)) for name in "abc"), devices={"gpu": 3 * GIB}, preload=("a", "b")
    )
    play = Play(free)
    play.wake("a")
    play.wake("b")
    assert not play.hooks
    play.reconfigure(replace(free, preload=("b", "c")))
    assert play.running() == ["wake c"]
    play.wake("c")
    play.reconfigure(replace(free, preload=()))
    play.reconfigure(replace(free, preload=("a",)))
    assert not play.hooks  # it is awake


def test_preloaded_models_sleep_when_they_are_idle() -> None:
    play = Play(replace(idle(), preload=("b",)))
    play.wake("b")
    play.advance(60.0)
    assert play.running() == ["sleep b"]
