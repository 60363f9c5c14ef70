"""One story per rule: what the core does, step by step, in virtual time.

Numbers in names are rows of the fault table."""

from __future__ import annotations

import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.messages import (
    Active,
    CloseBackend,
    Grant,
    Hook,
    Idle,
    Left,
    ModelDied,
    ModelStarved,
    ModelState,
    OnExit,
    OperatorFree,
    OperatorPin,
    OperatorSleep,
    OperatorSwitch,
    Outcome,
    PolicyFault,
    Refusal,
    RunHook,
    SleepFailed,
    Start,
    Stopped,
    SwitchDrained,
    SwitchEnded,
    Switching,
    SwitchStarted,
)
from llmux.policy import Decision, Plan, Stay, SwitchTo, View
from tests.core.harness import GIB, Play, three_on_two_gpus, two


def awake(play: Play, model: str = "a") -> int:
    """Bring `model` up with one request in flight; returns that request."""
    request = play.arrive(model)
    play.wake(model, after=1.0)
    assert play.in_flight[request] == model
    return request


# --- the default case: one model at a time ----------------------------------------------------------------------


def test_a_cold_start_wakes_and_grants() -> None:
    play = Play(two())
    assert play.core.state() == Idle()
    request = play.arrive("a")
    assert play.core.state() == Switching(None, "a")
    play.wake("a", after=3.0)
    assert play.core.state() == Active("a")
    assert play.in_flight == {request: "a"}
    assert play.core.costs.estimate(None, "a") == 3.0
    assert play.facts(Grant) == [Grant(request, "a", 3.0, True)]


def test_a_request_for_an_awake_model_is_granted_at_once() -> None:
    play = Play(two())
    awake(play)
    before = len(play.facts(RunHook))
    request = play.arrive("a")
    assert play.facts(Grant)[-1] == Grant(request, "a", 0.0, False)
    assert len(play.facts(RunHook)) == before


def test_a_switch_drains_then_sleeps_then_wakes() -> None:
    play = Play(two())
    first = awake(play)
    second = play.arrive("b")
    assert play.core.state() == Switching("a", "b")
    assert play.state("a") is ModelState.DRAINING
    assert play.running() == []
    play.advance(5.0)
    play.finish(first)
    assert play.running() == ["sleep a"]
    play.sleep("a", after=2.0)
    assert play.running() == ["wake b"]
    play.wake("b", after=4.0)
    assert play.in_flight == {second: "b"}
    assert play.core.costs.estimate("a", "b") == 6.0  # sleep + wake; the five seconds of draining are not in it
    assert play.core.costs.estimate("b", "a") is None
    assert play.core.costs.drain("a") == 5.0
    drained, ended = play.facts(SwitchDrained)[-1], play.facts(SwitchEnded)[-1]
    assert isinstance(drained, SwitchDrained)
    assert isinstance(ended, SwitchEnded)
    assert drained.duration == 5.0
    assert (ended.duration, ended.sleep, ended.wake, ended.cost) == (11.0, 2.0, 4.0, 6.0)


@pytest.mark.fault(33)
def test_the_backends_connections_are_closed_before_the_sleep_hook_runs() -> None:
    play = Play(two())
    play.finish(awake(play))
    play.arrive("b")
    kinds = [type(effect) for effect in play.effects]
    assert CloseBackend in kinds
    assert kinds.index(CloseBackend) < max(i for i, kind in enumerate(kinds) if kind is RunHook)


@pytest.mark.fault(50)
def test_a_request_that_comes_while_its_model_drains_waits_for_it_to_come_back() -> None:
    play = Play(two())
    first = awake(play)
    play.arrive("b")
    late = play.arrive("a")
    assert late in play.waiting
    play.finish(first)
    play.sleep("a")
    play.wake("b")
    assert late in play.waiting
    play.settle()
    assert not play.waiting


def test_all_waiters_are_released_together_and_hold_their_grants_before_the_next_drain() -> None:
    play = Play(two())
    first = awake(play)
    for_b = [play.arrive("b") for _ in range(10)]
    for_a = play.arrive("a")
    play.finish(first)
    play.sleep("a")
    play.wake("b")
    assert set(play.in_flight) == set(for_b)
    assert play.state("b") is ModelState.DRAINING  # a's turn is next, but not before all ten are served
    for request in for_b[:-1]:
        play.finish(request)
    assert play.running() == []
    play.finish(for_b[-1])
    assert play.running() == ["sleep b"]
    assert for_a in play.waiting


def test_the_oldest_waiter_is_next() -> None:
    play = Play(CoreSettings(models=tuple(ModelSpec(name) for name in "abc")))
    first = awake(play)
    play.arrive("c")
    play.advance(1.0)
    play.arrive("b")
    play.finish(first)
    play.sleep("a")
    play.wake("c")
    started = [fact.to_model for fact in play.facts(SwitchStarted) if isinstance(fact, SwitchStarted)]
    assert started == ["a", "c", "b"]


def test_min_active_lets_the_active_model_go_on_serving() -> None:
    play = Play(two(min_active=10.0))
    first = awake(play)
    play.arrive("b")
    assert play.state("a") is ModelState.AWAKE
    more = play.arrive("a")
    assert more in play.in_flight
    play.finish(first)
    play.finish(more)
    play.advance(9.9)
    assert play.running() == []
    play.advance(0.2)
    assert play.running() == ["sleep a"]


def test_without_drain_the_sleep_hook_runs_at_once_and_what_it_leaves_is_cut() -> None:
    play = Play(two(drain_before_switch=False))
    first = awake(play)
    play.arrive("b")
    assert play.running() == ["sleep a"]
    play.sleep("a")
    assert play.to_abort == {first}
    play.finish(first)
    play.wake("b")


@pytest.mark.fault(49)
def test_49_an_endless_request_is_cut_when_the_drain_has_had_its_time() -> None:
    play = Play(two())
    first = awake(play)
    play.arrive("b")
    play.advance(299.0)
    assert play.to_abort == set()
    play.advance(2.0)
    assert play.to_abort == {first}
    play.finish(first)
    play.sleep("a")
    drained = play.facts(SwitchDrained)[-1]
    assert isinstance(drained, SwitchDrained)
    assert drained.aborted == 1


# --- those who leave --------------------------------------------------------------------------------------------


@pytest.mark.fault(24)
def test_24_nobody_is_woken_for_a_client_that_left_the_queue() -> None:
    play = Play(two(min_active=10.0))
    play.finish(awake(play))
    waiter = play.arrive("b")
    play.leave(waiter)
    play.advance(60.0)
    assert play.core.state() == Active("a")
    assert all(effect.hook is Hook.ALIVE for effect in play.facts(RunHook)[3:] if isinstance(effect, RunHook))


@pytest.mark.fault(24)
def test_24_a_drain_is_called_off_when_the_last_waiter_leaves() -> None:
    play = Play(two())
    first = awake(play)
    waiter = play.arrive("b")
    held = play.arrive("a")
    play.leave(waiter)
    assert play.state("a") is ModelState.AWAKE
    assert {first, held} <= set(play.in_flight)
    ended = play.facts(SwitchEnded)[-1]
    assert isinstance(ended, SwitchEnded)
    assert ended.result == "cancelled"
    play.settle()


def test_24_a_switch_asks_again_after_the_sleep_whether_anybody_waits() -> None:
    play = Play(two())
    play.finish(awake(play))
    waiter = play.arrive("b")
    play.leave(waiter)
    play.sleep("a")
    assert play.running() == []
    assert play.core.state() == Idle()


@pytest.mark.fault(45)
def test_45_a_wake_that_nobody_waits_for_any_more_is_finished() -> None:
    play = Play(two())
    waiter = play.arrive("a")
    play.leave(waiter)
    assert play.running() == ["wake a"]
    play.wake("a")
    assert play.core.state() == Active("a")


def test_25_leaving_after_the_grant_ends_the_request() -> None:
    play = Play(two())
    first = awake(play)
    del play.in_flight[first]
    play.send(Left(first))
    assert play.core.ledger.models["a"].in_flight == 0


def test_a_wait_that_is_too_long_ends_and_causes_no_switch() -> None:
    play = Play(two(request_timeout=5.0, min_active=60.0))
    play.finish(awake(play))
    waiter = play.arrive("b")
    play.advance(4.9)
    second = play.arrive("b")
    play.advance(0.2)
    assert play.rejected[waiter].reason is Refusal.WAIT_TIMEOUT
    assert second in play.waiting
    play.advance(5.0)
    assert play.rejected[second].reason is Refusal.WAIT_TIMEOUT
    play.advance(100.0)
    assert play.core.state() == Active("a")


@pytest.mark.fault(52)
def test_52_the_queue_has_a_cap() -> None:
    play = Play(two(max_queue=2))
    play.arrive("a")
    play.arrive("b")
    third = play.arrive("a")
    assert play.rejected[third].reason is Refusal.QUEUE_FULL
    play.settle()


# --- hooks that fail --------------------------------------------------------------------------------------------


@pytest.mark.fault(37)
def test_37_a_failed_wake_is_told_cleaned_up_and_not_repeated_at_once() -> None:
    play = Play(two())
    waiter = play.arrive("a")
    play.end(play.run(Hook.WAKE, "a"), Outcome.FAILED)
    assert play.rejected[waiter].reason is Refusal.HOOK_FAILED
    assert play.rejected[waiter].retry_after == 2.0
    assert play.running() == ["sleep a"]
    play.sleep("a")
    assert play.core.state() == Idle()
    again = play.arrive("a")
    assert play.running() == []
    play.advance(2.1)
    assert play.running() == ["wake a"]
    play.wake("a")
    assert again in play.in_flight


@pytest.mark.fault(37)
def test_37_backing_off_holds_up_nobody_else() -> None:
    play = Play(two())
    play.arrive("a")
    play.end(play.run(Hook.WAKE, "a"), Outcome.TIMEOUT)
    play.sleep("a")
    play.arrive("a")
    other = play.arrive("b")
    play.wake("b")
    assert other in play.in_flight
    play.settle()


@pytest.mark.fault(37)
def test_37_a_model_that_fails_again_and_again_is_refused_at_once_in_between() -> None:
    play = Play(two())
    for pause in (2.0, 4.0, 8.0):
        waiter = play.arrive("a")
        play.end(play.run(Hook.WAKE, "a"), Outcome.FAILED)
        play.sleep("a")
        assert play.rejected[waiter].retry_after == pause
        if pause > 5.0:
            refused = play.arrive("a")
            assert play.rejected[refused].reason is Refusal.BACKOFF
            assert "because" in play.rejected[refused].detail
        play.advance(pause + 0.1)


@pytest.mark.fault(44)
def test_44_a_failed_sleep_is_retried_and_never_followed_by_the_wake() -> None:
    play = Play(two())
    play.finish(awake(play))
    play.arrive("b")
    play.end(play.run(Hook.SLEEP, "a"), Outcome.FAILED)
    assert play.running() == []
    play.advance(1.0)
    assert play.running() == ["sleep a"]
    play.sleep("a")
    assert play.running() == ["wake b"]


@pytest.mark.fault(44)
def test_44_a_model_that_will_not_sleep_but_is_alive_goes_back_to_work() -> None:
    play = Play(two())
    play.finish(awake(play))
    waiter = play.arrive("b")
    held = play.arrive("a")
    for pause in (1.0, 2.0, 0.0):
        play.end(play.run(Hook.SLEEP, "a"), Outcome.FAILED)
        play.advance(pause)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.OK)
    assert play.state("a") is ModelState.AWAKE
    assert held in play.in_flight
    assert play.rejected[waiter].reason is Refusal.HOOK_FAILED
    assert "sleep hook of a" in play.rejected[waiter].detail
    assert "wake b" not in play.running()
    assert play.facts(SleepFailed) == [SleepFailed("a", "b", "sleep hook of a failed: because", False)]


def lose(play: Play) -> None:
    """Bring a to the state where nobody knows about its memory."""
    play.finish(awake(play))
    play.arrive("b")
    for pause in (1.0, 2.0, 0.0):
        play.end(play.run(Hook.SLEEP, "a"), Outcome.TIMEOUT)
        play.advance(pause)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    assert play.state("a") is ModelState.LOST


@pytest.mark.fault(44)
def test_44_when_nothing_is_known_the_device_is_lost_and_nothing_is_woken_on_it() -> None:
    play = Play(two())
    lose(play)
    for model in ("a", "b"):
        request = play.arrive(model)
        assert play.rejected[request].reason is Refusal.DEVICE_LOST
        assert "a still holds" in play.rejected[request].detail
    assert play.running() == []


@pytest.mark.fault(44)
def test_a_lost_model_comes_back_when_its_sleep_hook_succeeds_after_all() -> None:
    play = Play(two())
    lose(play)
    play.advance(10.0)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    play.sleep("a")
    assert play.state("a") is ModelState.ASLEEP
    request = play.arrive("b")
    play.wake("b")
    assert request in play.in_flight


@pytest.mark.fault(44)
def test_a_lost_model_that_is_alive_again_must_be_woken_before_it_serves() -> None:
    play = Play(two())
    lose(play)
    play.advance(10.0)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.OK)
    assert play.state("a") is ModelState.UNCONFIRMED
    request = play.arrive("a")
    play.wake("a")
    assert request in play.in_flight


@pytest.mark.fault(44)
def test_a_lost_device_is_looked_at_ever_less_often() -> None:
    play = Play(two())
    lose(play)
    for pause in (10.0, 20.0, 40.0):
        play.advance(pause - 0.1)
        assert play.running() == []
        play.advance(0.2)
        play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
        play.end(play.run(Hook.SLEEP, "a"), Outcome.FAILED)
        play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
        assert play.state("a") is ModelState.LOST


@pytest.mark.fault(44)
def test_an_operator_frees_a_lost_device() -> None:
    play = Play(two())
    lose(play)
    command = play.command(OperatorFree, "a")
    assert play.replies[command].reason is None
    request = play.arrive("b")
    play.wake("b")
    assert request in play.in_flight


@pytest.mark.fault(44)
def test_an_operators_switch_tries_the_sleep_hook_of_a_lost_model_again() -> None:
    play = Play(two())
    lose(play)
    command = play.command(OperatorSwitch, "b")
    play.sleep("a")
    play.wake("b")
    assert play.replies[command].reason is None
    assert play.core.state() == Active("b")


# --- who is awake already, who is dead ----------------------------------------------------------------------------


@pytest.mark.fault(62)
def test_62_nothing_is_woken_before_every_model_was_asked() -> None:
    play = Play(two(), started=False)
    play.arrive("a")
    assert play.running() == []
    play.send(Start())
    assert play.running() == ["alive a", "alive b"]
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    assert play.running() == ["alive b"]
    play.end(play.run(Hook.ALIVE, "b"), Outcome.FAILED)
    assert play.running() == ["wake a"]


@pytest.mark.fault(62)
def test_62_a_model_found_awake_is_put_to_sleep_before_another_is_woken() -> None:
    play = Play(two(), started=False)
    play.start(awake=("b",))
    request = play.arrive("a")
    assert play.running() == ["sleep b"]
    play.sleep("b")
    play.wake("a", after=3.0)
    assert request in play.in_flight
    assert play.core.costs.estimate(None, "a") == 3.0  # putting the stranger to sleep is no part of a cold start


@pytest.mark.fault(62)
def test_62_a_model_found_awake_is_confirmed_by_its_own_wake_hook_and_nothing_is_learned_from_that() -> None:
    play = Play(two(), started=False)
    play.start(awake=("a",))
    request = play.arrive("a")
    assert play.running() == ["wake a"]
    play.wake("a", after=0.1)
    assert request in play.in_flight
    assert play.core.costs.wake("a") is None


@pytest.mark.fault(62)
@pytest.mark.parametrize(("outcome", "code"), [(Outcome.TIMEOUT, None), (Outcome.ERROR, None), (Outcome.FAILED, 127)])
def test_62_a_model_that_gave_no_answer_is_not_taken_for_asleep(outcome: Outcome, code: int | None) -> None:
    play = Play(two(), started=False)
    play.send(Start())
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    play.end(play.run(Hook.ALIVE, "b"), outcome, code=code)
    play.arrive("a")
    assert play.running() == ["sleep b"]


@pytest.mark.fault(34)
def test_34_a_dead_backend_gets_no_more_requests_and_is_woken_again() -> None:
    play = Play(two())
    first = awake(play)
    play.fail_backend("a")
    play.finish(first)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    assert play.state("a") is ModelState.UNCONFIRMED
    assert len(play.facts(ModelDied)) == 1
    request = play.arrive("a")
    assert request in play.waiting
    play.advance(2.1)
    play.wake("a")
    assert request in play.in_flight


@pytest.mark.fault(34)
def test_34_after_a_long_life_a_dead_model_is_woken_at_once() -> None:
    play = Play(two())
    play.finish(awake(play))
    play.advance(3600.0)
    for run in list(play.hooks.values()):
        play.end(run, Outcome.OK)
    play.fail_backend("a")
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    play.arrive("a")
    assert play.running() == ["wake a"]


@pytest.mark.fault(34)
def test_34_a_backend_that_dies_soon_after_each_wake_is_woken_ever_later_and_holds_up_nobody_else() -> None:
    play = Play(two())
    request = awake(play)
    for pause in (2.0, 4.0, 8.0):
        play.finish(request)
        play.fail_backend("a")
        play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
        if pause > 5.0:
            break
        request = play.arrive("a")
        play.advance(pause - 0.1)
        assert play.running() == []
        play.advance(0.2)
        play.wake("a")
        assert request in play.in_flight
    refused = play.arrive("a")
    assert play.rejected[refused].reason is Refusal.BACKOFF
    assert play.rejected[refused].retry_after == pytest.approx(8.0)
    assert "a died" in play.rejected[refused].detail
    other = play.arrive("b")
    play.sleep("a")
    play.wake("b")
    assert other in play.in_flight


@pytest.mark.fault(35)
def test_35_one_bad_scheduled_check_is_not_a_death() -> None:
    play = Play(two())
    play.finish(awake(play))
    play.advance(15.0)
    for _ in range(2):
        play.end(play.run(Hook.ALIVE, "a"), Outcome.TIMEOUT)
        assert play.state("a") is ModelState.AWAKE
        play.advance(2.0)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    assert play.state("a") is ModelState.UNCONFIRMED


@pytest.mark.fault(35)
def test_35_an_alive_hook_that_cannot_be_executed_says_nothing() -> None:
    play = Play(two())
    play.finish(awake(play))
    for _ in range(5):
        play.advance(15.0)
        play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED, code=127)
    assert play.state("a") is ModelState.AWAKE


@pytest.mark.fault(35)
def test_35_one_check_at_a_time() -> None:
    play = Play(two())
    play.finish(awake(play))
    play.advance(15.0)
    play.fail_backend("a")
    play.fail_backend("a")
    assert play.running() == ["alive a"]
    play.advance(100.0)
    assert play.running() == ["alive a"]


# --- operators ----------------------------------------------------------------------------------------------------


def test_a_forced_switch_needs_no_waiter_and_ignores_min_active() -> None:
    play = Play(two(min_active=100.0))
    play.finish(awake(play))
    command = play.command(OperatorSwitch, "b")
    play.sleep("a")
    play.wake("b")
    assert play.replies[command].reason is None
    assert play.core.state() == Active("b")
    again = play.command(OperatorSwitch, "b")
    assert play.replies[again].reason is None


def test_a_forced_switch_that_fails_says_why() -> None:
    play = Play(two())
    command = play.command(OperatorSwitch, "b")
    play.end(play.run(Hook.WAKE, "b"), Outcome.FAILED)
    assert play.replies[command].reason is Refusal.HOOK_FAILED
    assert "because" in play.replies[command].detail
    unknown = play.command(OperatorSwitch, "nobody")
    assert play.replies[unknown].reason is Refusal.MODEL_NOT_FOUND


def test_51_sleep_command_and_waiters_at_once_are_served_in_turn() -> None:
    play = Play(two())
    first = awake(play)
    slept = play.command(OperatorSleep, "a")
    late = play.arrive("a")
    play.finish(first)
    play.sleep("a")
    assert play.replies[slept].reason is None
    play.wake("a")
    assert late in play.in_flight


# --- several devices ------------------------------------------------------------------------------------------------


def test_two_models_that_fit_together_are_awake_together() -> None:
    play = Play(three_on_two_gpus())
    for model in ("left", "right", "small"):
        play.arrive(model)
    assert sorted(play.running()) == ["wake left", "wake right", "wake small"]  # side by side
    for model in ("small", "right", "left"):
        play.wake(model)
    assert len(play.in_flight) == 3


def test_a_big_model_evicts_all_that_is_in_its_way_in_one_switch() -> None:
    play = Play(three_on_two_gpus())
    for model in ("left", "right"):
        play.finish(awake(play, model))
    request = play.arrive("big")
    assert sorted(play.running()) == ["sleep left", "sleep right"]
    play.sleep("left")
    assert play.running() == ["sleep right"]
    play.sleep("right")
    play.wake("big")
    assert request in play.in_flight
    ended = play.facts(SwitchEnded)[-1]
    assert isinstance(ended, SwitchEnded)
    assert ended.cost is None  # two victims side by side are nobody's pair


def test_the_victim_is_the_least_recently_used() -> None:
    settings = CoreSettings(
        models=tuple(ModelSpec(name, ({"gpu": 10 * GIB},)) for name in "abc"), devices={"gpu": 20 * GIB}
    )
    play = Play(settings)
    play.finish(awake(play, "a"))
    play.finish(awake(play, "b"))
    play.advance(1.0)
    play.finish(play.arrive("a"))
    play.arrive("c")
    assert play.running() == ["sleep b"]


def test_the_hook_is_told_which_device_it_got() -> None:
    play = Play(three_on_two_gpus())
    play.finish(awake(play, "left"))
    settings = play.core.settings
    assert settings.devices["gpu0"] == 24 * GIB
    play.arrive("small")
    assert play.run(Hook.WAKE, "small").devices == ("gpu0",)  # 8 GiB are left there
    play.wake("small")
    request = play.arrive("right")
    assert play.run(Hook.WAKE, "right").devices == ("gpu1",)
    play.wake("right")
    assert request in play.in_flight


def test_a_model_found_awake_in_an_unknown_place_is_moved_to_a_known_one() -> None:
    play = Play(three_on_two_gpus(), started=False)
    play.start(awake=("small",))
    request = play.arrive("small")
    assert play.running() == ["sleep small"]
    play.sleep("small")
    play.wake("small")
    assert request in play.in_flight


def test_a_switch_elsewhere_holds_up_no_request_for_an_awake_model() -> None:
    play = Play(three_on_two_gpus())
    awake(play, "left")
    play.arrive("right")
    request = play.arrive("left")
    assert request in play.in_flight


def test_a_model_that_needs_nothing_waits_for_no_switch() -> None:
    settings = CoreSettings(models=(ModelSpec("large", ({"gpu": 10},)), ModelSpec("tiny", ({},))), devices={"gpu": 10})
    play = Play(settings)
    play.arrive("large")
    play.arrive("tiny")
    assert play.running() == ["wake large", "wake tiny"]


@pytest.mark.fault(46)
def test_46_a_storm_of_requests_makes_one_switch_at_a_time() -> None:
    play = Play(two())
    for _ in range(50):
        play.arrive("a")
        play.arrive("b")
    assert len(play.hooks) == 1
    play.settle()
    assert len(play.facts(SwitchStarted)) == 2


# --- policies that misbehave ----------------------------------------------------------------------------------------


class Broken:
    name = "broken"

    def decide(self, view: View, now: float) -> Decision:
        raise ZeroDivisionError("oh")


class Impossible:
    name = "impossible"

    def decide(self, view: View, now: float) -> Decision:
        waiting = view.waiting()
        return SwitchTo(waiting[0].name, Plan(waiting[0].name, ("b",), ("default",))) if waiting else Stay()


@pytest.mark.parametrize("policy", [Broken(), Impossible()])
def test_fifo_takes_over_from_a_policy_that_fails(policy: Broken | Impossible) -> None:
    play = Play(two(), policy)
    request = play.arrive("a")
    play.wake("a")
    assert request in play.in_flight
    fault = play.facts(PolicyFault)[0]
    assert isinstance(fault, PolicyFault)
    assert fault.policy == policy.name


class Says:
    """Stays, as it was told to; with a stated limit, if there is one."""

    name = "says"

    def __init__(self, recheck_at: object, max_wait_secs: float | None = None) -> None:
        self.recheck_at = recheck_at
        self.max_wait_secs = max_wait_secs

    def decide(self, view: View, now: float) -> Decision:
        if isinstance(self.recheck_at, BaseException):
            raise self.recheck_at
        return Stay(self.recheck_at)  # type: ignore[arg-type]  # some of it is wrong


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ("soon", "TypeError: recheck_at of Stay is a time in seconds or None, not 'soon'"),
        (float("nan"), "ValueError: recheck_at of Stay must be later than now, and is NaN"),
        (-5, "ValueError: recheck_at of Stay must be later than now"),
        (SystemExit(3), "SystemExit: 3"),
        (GeneratorExit(), "GeneratorExit: "),
    ],
)
def test_fifo_takes_over_where_a_policy_names_no_time_to_come(said: object, detail: str) -> None:
    play = Play(two(), Says(said))
    for name in "ab":
        request = play.arrive(name)
        play.settle()
        assert request not in play.waiting
    assert play.facts(PolicyFault) == [PolicyFault("says", detail)]


def test_whole_numbers_are_times_and_infinity_is_none() -> None:
    play = Play(two(), Says(7))
    play.arrive("a")
    assert play.timers["recheck"] == 7.0
    play = Play(two(), Says(float("inf")))
    play.arrive("a")
    assert "recheck" not in play.timers or play.timers["recheck"] > 600.0
    assert not play.facts(PolicyFault)


@pytest.mark.parametrize(("stated", "earliest"), [(None, 600.0), (40.0, 140.0)])
def test_a_policy_that_keeps_people_waiting_is_told_of_once_and_has_its_way(
    stated: float | None, earliest: float
) -> None:
    """Nothing but time passes: nobody else comes. A wake is taken for 10 s, so that ten tours of two models are 200."""
    play = Play(two(), Says(None, stated))
    request = play.arrive("a")
    play.advance((600.0 if stated is None else stated) + 199.0)
    assert not play.facts(ModelStarved)
    play.advance(2.0)
    (told,) = play.facts(ModelStarved)
    assert isinstance(told, ModelStarved)
    assert (told.policy, told.model) == ("says", "a")
    assert told.waited >= earliest
    play.arrive("b")
    play.advance(10_000.0)
    assert len(play.facts(ModelStarved)) == 1
    assert request in play.waiting
    assert not play.facts(SwitchStarted)


def test_who_waits_for_what_cannot_begin_does_not_starve() -> None:
    """a is pinned, so that there is no room for b."""
    play = Play(two(), Says(None, 1.0))
    play.core.policy.recheck_at = ZeroDivisionError("oh")  # type: ignore[attr-defined]  # fifo wakes a
    awake(play)
    play.core.policy.recheck_at = None  # type: ignore[attr-defined]
    play.command(OperatorPin, "a")
    play.arrive("b")
    play.advance(10_000.0)
    assert not play.facts(ModelStarved)


# --- the end --------------------------------------------------------------------------------------------------------


def test_59_stopping_when_idle_is_immediate() -> None:
    play = Play(two())
    play.stop()
    assert play.stopped


def test_59_stopping_lets_requests_finish_and_refuses_the_rest() -> None:
    play = Play(two())
    first = awake(play)
    waiting = play.arrive("b")
    play.stop()
    assert play.rejected[waiting].reason is Refusal.SHUTTING_DOWN
    late = play.arrive("a")
    assert play.rejected[late].reason is Refusal.SHUTTING_DOWN
    assert play.facts(Stopped) == []
    play.finish(first)
    assert play.stopped
    assert play.states() == {"a": "awake", "b": "asleep"}


def test_59_stopping_has_a_bound() -> None:
    play = Play(two())
    first = awake(play)
    play.stop(grace=30.0)
    play.advance(30.0)
    assert play.to_abort == {first}
    play.finish(first)
    assert play.stopped


def test_59_stopping_while_waking_waits_for_the_hook_within_the_bound() -> None:
    play = Play(two())
    play.arrive("a")
    play.stop(grace=30.0)
    run = play.run(Hook.WAKE, "a")
    play.advance(30.0)
    assert play.cancelled == {run.run_id}
    play.end(run, Outcome.CANCELLED)
    assert play.running() == ["sleep a"], "what it has begun is loading on, and the next llmux could not know"
    play.sleep("a")
    assert play.stopped
    assert play.state("a") is ModelState.ASLEEP


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMEOUT, Outcome.CANCELLED])
def test_59_a_clean_up_that_fails_holds_up_the_end_only_once(outcome: Outcome) -> None:
    play = Play(two())
    play.arrive("a")
    play.stop(grace=30.0)
    play.advance(30.0)
    play.end(play.run(Hook.WAKE, "a"), Outcome.CANCELLED)
    play.end(play.run(Hook.SLEEP, "a"), outcome)
    if not play.stopped:
        play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    assert play.stopped
    assert play.state("a") in (ModelState.UNCONFIRMED, ModelState.LOST)


def test_59_a_model_that_was_woken_stays_up_though_its_canary_is_cut_short() -> None:
    play = Play(CoreSettings(models=(ModelSpec("a", canary=True), ModelSpec("b"))))
    play.arrive("a")
    play.end(play.run(Hook.WAKE, "a"))
    run = play.run(Hook.CANARY, "a")
    play.stop(grace=30.0)
    assert play.cancelled == {run.run_id}
    play.end(run, Outcome.CANCELLED)
    assert play.stopped
    assert play.state("a") is ModelState.UNCONFIRMED


def test_on_exit_sleep_puts_awake_models_to_sleep_last() -> None:
    play = Play(two())
    first = awake(play)
    play.stop(on_exit=OnExit.SLEEP)
    assert play.running() == []
    play.finish(first)
    assert play.running() == ["sleep a"]
    play.sleep("a")
    assert play.stopped
    assert play.state("a") is ModelState.ASLEEP
