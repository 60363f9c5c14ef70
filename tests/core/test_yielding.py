"""Operators take models out of use: release and resume, drain and undrain; and pin them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llmux.core import ModelSpec
from llmux.core.report import snapshot
from llmux.core.settings import CoreSettings
from llmux.messages import (
    DrainChanged,
    ModelState,
    OnExit,
    OperatorDrain,
    OperatorPin,
    OperatorReply,
    OperatorSleep,
    OperatorSwitch,
    OperatorUndrain,
    OperatorUnpin,
    Outcome,
    PinChanged,
    Refusal,
    Released,
    Resumed,
)
from tests.core.harness import Play, three_on_two_gpus, two


def awake(settings: CoreSettings, *models: str) -> Play:
    """With those models awake, none of them in use."""
    play = Play(settings)
    for model in models:
        play.command(OperatorSwitch, model)
        play.wake(model)
    return play


def reply(play: Play, command: int) -> OperatorReply:
    assert command in play.replies, "not answered yet"
    return play.replies[command]


# --- release --------------------------------------------------------------------------------------------------------


def test_a_release_drains_then_sleeps_then_answers() -> None:
    play = awake(two(), "a")
    served = play.arrive("a")
    order = play.release()
    assert play.state("a") is ModelState.DRAINING
    assert order not in play.replies
    assert snapshot(play.core, play.now + 3).released is not None
    play.finish(served)
    assert play.running() == ["sleep a"]
    play.sleep("a", after=2)
    assert reply(play, order).reason is None
    assert [effect.refuse for effect in play.facts(Released)] == [False]  # type: ignore[union-attr]


def test_requests_are_held_until_resume_and_then_served() -> None:
    play = awake(two(), "a")
    play.release()
    play.sleep("a")
    for model in ("a", "b", "a"):
        play.arrive(model)
    play.advance(3600)
    assert not play.running()
    assert len(play.waiting) == 3
    assert not snapshot(play.core, play.now).stalled
    assert snapshot(play.core, play.now).ready
    assert reply(play, play.resume()).reason is None
    assert play.running() == ["wake a"]
    assert play.facts(Resumed)
    play.settle()
    assert not play.rejected


def test_held_requests_are_told_why_and_given_no_estimate() -> None:
    play = awake(two(), "a")
    play.command(OperatorDrain, "b")
    request = play.arrive("b")
    drained = play.core.prospects("b", play.now)
    assert (drained.held, drained.of(request)) == ("b is drained", (0, 0.0))
    play.release()
    assert play.core.prospects("b", play.now).held == "llmux is released"
    play.resume()
    play.command(OperatorUndrain, "b")
    assert play.core.prospects("b", play.now).held == ""
    play.settle()


def test_those_whom_a_pin_shuts_out_are_told_of_it_unless_their_model_is_drained() -> None:
    play = awake(two(), "a")
    play.command(OperatorPin, "a")
    request = play.arrive("b")
    pinned = play.core.prospects("b", play.now)
    assert (pinned.held, pinned.of(request)) == ("no room while a is pinned", (0, 0.0))
    assert snapshot(play.core, play.now).models[1].pinned_against == ("a",)
    play.command(OperatorDrain, "b")
    assert play.core.prospects("b", play.now).held == "b is drained"
    assert snapshot(play.core, play.now).models[1].pinned_against == ()
    play.command(OperatorUnpin, "a")
    play.command(OperatorUndrain, "b")
    play.settle()


def test_held_requests_obey_their_deadlines_and_limits() -> None:
    play = Play(two(request_timeout=10.0, max_queue=2))
    play.release()
    play.arrive("a")
    play.advance(4)
    play.arrive("b")
    full = play.arrive("b")
    assert play.rejected[full].reason is Refusal.QUEUE_FULL
    play.advance(6)
    assert [one.reason for one in play.rejected.values()] == [Refusal.QUEUE_FULL, Refusal.WAIT_TIMEOUT]
    play.advance(4)
    assert not play.waiting


def test_refusing_tells_those_who_wait_and_those_who_come() -> None:
    play = awake(two(), "a")
    waits = play.arrive("b")  # a drains nothing, so its sleep hook runs
    order = play.release(refuse=True)
    comes = play.arrive("a")
    for request in (waits, comes):
        assert (play.rejected[request].reason, play.rejected[request].retry_after) == (Refusal.RELEASED, 30.0)
    view = snapshot(play.core, play.now)
    assert (view.ready, view.reasons) == (False, ["released: requests are refused until `llmux resume`"])
    play.sleep("a")
    assert reply(play, order).reason is None
    play.release()  # from now on they are held
    held = play.arrive("a")
    assert held in play.waiting
    play.release(refuse=True)
    assert play.rejected[held].reason is Refusal.RELEASED
    play.resume()
    assert play.arrive("a") in play.waiting


def test_a_model_that_is_being_woken_is_put_to_sleep_once_it_is_awake() -> None:
    play = Play(two())
    asked = play.arrive("a")
    assert play.running() == ["wake a"]
    order = play.release()
    assert not play.cancelled
    play.wake("a")
    assert play.running() == ["sleep a"]
    assert asked in play.waiting  # though its model was awake for a moment
    play.sleep("a")
    assert reply(play, order).reason is None


@pytest.mark.parametrize("drained", [False, True])
def test_a_switch_that_is_under_way_ends_with_nobody_awake(drained: bool) -> None:
    play = awake(two(), "a")
    served = play.arrive("a")
    play.arrive("b")
    assert play.state("a") is ModelState.DRAINING
    if drained:
        play.finish(served)
    order = play.release()
    if not drained:
        play.finish(served)
    assert play.running() == ["sleep a"]
    play.sleep("a")
    assert not play.running()
    assert reply(play, order).reason is None


def test_resume_in_the_middle_of_a_drain_puts_the_model_back_to_work() -> None:
    play = awake(two(), "a")
    play.arrive("a")
    order = play.release()
    held = play.arrive("a")
    play.resume()
    assert play.state("a") is ModelState.AWAKE
    assert held in play.in_flight
    assert reply(play, order).reason is Refusal.NOT_READY
    assert "resumed before" in reply(play, order).detail


def test_a_release_that_fails_in_part_says_so_and_goes_on_trying() -> None:
    play = awake(three_on_two_gpus(), "left", "right")
    order = play.release()
    play.sleep("left")
    for _ in range(3):
        play.end(next(run for run in play.hooks.values() if run.model == "right"), Outcome.FAILED)
        play.advance(2.0)
    assert order not in play.replies
    assert play.running() == ["alive right"]
    play.end(next(iter(play.hooks.values())), Outcome.FAILED)
    told = reply(play, order)
    assert told.reason is Refusal.DEVICE_LOST
    assert told.detail.startswith("not asleep: right is lost (sleep hook of right failed")
    view = snapshot(play.core, play.now)
    assert view.released is not None
    assert view.released.holding == ("right",)
    again = play.release()  # looks at once, instead of when the next look is due
    assert play.running() == ["alive right"]
    play.end(next(iter(play.hooks.values())), Outcome.OK)  # it still serves, so it can be put to sleep
    assert play.running() == ["sleep right"]
    play.settle()
    assert reply(play, again).reason is None
    assert set(play.states().values()) == {"asleep"}


def test_a_model_that_stays_awake_is_tried_again_while_released() -> None:
    play = awake(two(sleep_retry_delays=()), "a")
    order = play.release()
    play.end(next(iter(play.hooks.values())), Outcome.FAILED)
    play.end(next(iter(play.hooks.values())), Outcome.OK)  # alive: it keeps its memory
    assert reply(play, order).reason is Refusal.HOOK_FAILED
    assert play.state("a") is ModelState.AWAKE
    assert play.arrive("a") in play.waiting  # awake, and still given nothing
    play.advance(2.0)
    assert play.running() == ["sleep a"]


def test_nothing_is_woken_for_an_operator_either() -> None:
    play = Play(two())
    early = play.command(OperatorSwitch, "a")
    play.release()
    late = play.command(OperatorSwitch, "b")
    for order in (early, late):
        assert reply(play, order).reason is Refusal.RELEASED
        assert "llmux resume" in reply(play, order).detail


def test_a_release_at_the_start_waits_until_it_is_known_who_is_awake() -> None:
    play = Play(two(), started=False)
    order = play.release()
    play.start(awake=("b",))
    assert play.running() == ["sleep b"]
    assert order not in play.replies
    play.sleep("b")
    assert reply(play, order).reason is None


def test_verify_is_asked_before_a_release_is_done() -> None:
    settings = two()
    settings = replace(settings, models=tuple(replace(spec, verify=True) for spec in settings.models))
    play = awake(settings, "a")
    order = play.release()
    play.sleep("a")
    assert play.running() == ["verify a"]
    play.end(next(iter(play.hooks.values())), Outcome.FAILED)
    assert order not in play.replies
    play.advance(0.1)
    play.end(next(iter(play.hooks.values())))
    assert reply(play, order).reason is None


def test_a_release_survives_another_configuration() -> None:
    settings = two()
    play = awake(settings, "a")
    play.release()
    play.sleep("a")
    play.reconfigure(replace(settings, models=(*settings.models, ModelSpec("c"))))
    play.end(next(iter(play.hooks.values())), Outcome.OK)  # the newcomer is found awake
    assert play.running() == ["sleep c"]
    play.sleep("c")
    assert play.arrive("c") in play.waiting
    assert not play.running()
    play.resume()
    assert play.running() == ["wake c"]


def test_whoever_waits_for_a_release_is_told_of_the_end() -> None:
    play = awake(two(), "a")
    play.arrive("a")
    release, drain = play.release(), play.command(OperatorDrain, "a")
    play.stop(on_exit=OnExit.LEAVE)
    assert {reply(play, order).reason for order in (release, drain)} == {Refusal.SHUTTING_DOWN}
    assert reply(play, play.release()).reason is Refusal.SHUTTING_DOWN
    assert reply(play, play.resume()).reason is Refusal.SHUTTING_DOWN


# --- drain ----------------------------------------------------------------------------------------------------------


def test_a_drained_model_finishes_sleeps_and_holds_its_requests_while_others_serve() -> None:
    play = awake(two(alive_interval=0), "a")
    served = play.arrive("a")
    order = play.command(OperatorDrain, "a")
    held = play.arrive("a")
    play.finish(served)
    play.sleep("a")
    assert reply(play, order).reason is None
    assert snapshot(play.core, play.now).models[0].drained
    play.arrive("b")
    play.wake("b")
    assert list(play.in_flight.values()) == ["b"]
    assert held in play.waiting
    play.advance(1000)
    assert not snapshot(play.core, play.now).stalled
    refused = play.command(OperatorSwitch, "a")
    assert reply(play, refused).reason is Refusal.DRAINED
    assert "llmux undrain a" in reply(play, refused).detail
    play.command(OperatorUndrain, "a")
    play.settle()
    assert held not in play.rejected
    assert [effect.drained for effect in play.facts(DrainChanged)] == [True, False]  # type: ignore[union-attr]


def test_undrain_before_it_is_asleep_puts_it_back_to_work() -> None:
    play = awake(two(), "a")
    play.arrive("a")
    order = play.command(OperatorDrain, "a")
    held = play.arrive("a")
    play.command(OperatorUndrain, "a")
    assert held in play.in_flight
    assert reply(play, order).reason is Refusal.NOT_READY


def test_undrain_does_not_undo_a_sleep_that_somebody_else_ordered() -> None:
    play = awake(two(), "a")
    play.arrive("a")
    play.command(OperatorDrain, "a")
    sleep = play.command(OperatorSleep, "a")
    play.command(OperatorUndrain, "a")
    assert sleep not in play.replies
    play.settle()
    assert reply(play, sleep).reason is None


def test_a_drained_model_stays_drained_through_a_release() -> None:
    play = awake(two(), "a")
    play.command(OperatorDrain, "a")
    play.release()
    play.sleep("a")
    held = play.arrive("a")
    play.resume()
    assert held in play.waiting
    assert not play.running()
    play.command(OperatorUndrain, "a")
    assert play.running() == ["wake a"]


# --- pin ------------------------------------------------------------------------------------------------------------


def test_a_pinned_model_is_nobodys_victim_until_it_is_unpinned() -> None:
    play = awake(two(alive_interval=0), "a")
    assert reply(play, play.command(OperatorPin, "a")).reason is None
    play.arrive("b")
    play.advance(1000)
    assert play.state("a") is ModelState.AWAKE
    view = snapshot(play.core, play.now)
    assert view.models[1].pinned_against == ("a",)
    assert not view.stalled
    order = play.command(OperatorSwitch, "b")
    assert reply(play, order).reason is Refusal.NOT_READY
    assert "while a is pinned" in reply(play, order).detail
    play.command(OperatorUnpin, "a")
    assert play.running() == ["sleep a"]
    assert [effect.pinned for effect in play.facts(PinChanged)] == [True, False]  # type: ignore[union-attr]


def test_pinning_wakes_nothing_and_an_order_still_puts_to_sleep() -> None:
    play = Play(two())
    play.command(OperatorPin, "a")
    assert not play.running()
    play.arrive("b")
    play.wake("b")
    play.command(OperatorSwitch, "a")  # b is not pinned
    play.finish(next(iter(play.in_flight)))
    play.sleep("b")
    play.wake("a")
    play.command(OperatorSleep, "a")
    assert play.running() == ["sleep a"]


def test_the_configuration_says_how_it_begins_and_has_the_last_word_when_it_changes() -> None:
    settings = three_on_two_gpus()
    small = settings.models[3]
    play = awake(replace(settings, models=(*settings.models[:3], replace(small, pinned=True))), "small")
    assert snapshot(play.core, 0).models[3].pinned
    play.command(OperatorUnpin, "small")
    play.reconfigure(replace(play.core.settings, min_active=1.0))
    assert not snapshot(play.core, 0).models[3].pinned  # the file says what it always did: the operator's word stands
    play.reconfigure(settings)
    play.command(OperatorPin, "small")
    play.reconfigure(replace(settings, models=(*settings.models[:3], replace(small, pinned=True))))
    play.reconfigure(settings)
    assert not snapshot(play.core, 0).models[3].pinned


def test_nobody_waits_behind_those_who_are_shut_out_by_a_pin() -> None:
    play = awake(three_on_two_gpus(alive_interval=0), "left")
    play.command(OperatorPin, "left")
    shut_out, other = play.arrive("big"), play.arrive("right")
    assert play.running() == ["wake right"]  # fifo would have had it wait for the one that came first
    play.wake("right")
    assert other in play.in_flight
    assert shut_out in play.waiting


def test_a_failed_canary_gets_no_second_wake_while_released() -> None:
    settings = two()
    play = Play(replace(settings, models=tuple(replace(spec, canary=True) for spec in settings.models)))
    play.arrive("a")
    play.wake("a")
    order = play.release()
    play.end(next(iter(play.hooks.values())), Outcome.FAILED)
    play.sleep("a")
    assert not play.running()
    assert reply(play, order).reason is None
