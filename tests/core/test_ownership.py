"""Who owns the memory, and whether a model serves: verify hooks, canaries, backends that fail, lost models.

Virtual time. The marks name rows of the table of faults."""

from __future__ import annotations

import msgspec
import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.core.report import owners, snapshot
from llmux.messages import (
    Active,
    CloseBackend,
    Failure,
    Hook,
    LastSleeps,
    ModelDied,
    ModelState,
    OnExit,
    OperatorCheck,
    OperatorFree,
    OperatorSleep,
    Outcome,
    Refusal,
    SleepFailed,
    Start,
    StateChanged,
    Stopped,
    SwitchEnded,
)
from tests.core.harness import GIB, Play, two


def made(**spec: object) -> CoreSettings:
    """Models a and b, one at a time; `spec` is what both have."""
    models = tuple(msgspec.structs.replace(ModelSpec(name), **spec) for name in "ab")
    return CoreSettings(models=models, alive_interval=0.0)


def awake(play: Play, model: str = "a") -> None:
    """Bring `model` up, through its canary if it has one, and let it serve one request."""
    request = play.arrive(model)
    play.wake(model, after=1.0)
    if play.core.ledger.models[model].spec.canary:
        play.end(play.run(Hook.CANARY, model))
    play.finish(request)


def said_no(play: Play, hook: Hook, model: str, *, after: float = 0.0) -> None:
    play.end(play.run(hook, model), Outcome.FAILED, after=after)


def lose(play: Play, model: str = "a", other: str = "b") -> None:
    """Bring `model` to the state where nobody knows about its memory."""
    awake(play, model)
    play.arrive(other)
    for pause in (1.0, 2.0, 0.0):
        said_no(play, Hook.SLEEP, model)
        play.advance(pause)
    said_no(play, Hook.ALIVE, model)
    assert play.state(model) is ModelState.LOST


# --- verify: is the memory free? --------------------------------------------------------------------------------------


@pytest.mark.fault(43)
def test_nobody_is_woken_before_the_verify_hook_has_passed() -> None:
    play = Play(made(verify=True))
    awake(play)
    waiter = play.arrive("b")
    play.sleep("a", after=2.0)
    assert play.running() == ["verify a"]
    assert play.state("a") is ModelState.SLEEPING
    play.end(play.run(Hook.VERIFY, "a"), after=0.5)
    assert play.running() == ["wake b"]
    play.wake("b", after=4.0)
    assert waiter in play.in_flight


@pytest.mark.fault(43)
def test_a_verify_hook_that_says_no_is_asked_again_until_its_deadline() -> None:
    play = Play(made(verify=True, verify_timeout=10.0))
    awake(play)
    waiter = play.arrive("b")
    play.sleep("a")
    pauses = []
    for pause in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        said_no(play, Hook.VERIFY, "a")
        assert play.running() == []
        play.advance(pause - 0.01)
        assert play.running() == []
        play.advance(0.02)
        assert play.running() == ["verify a"]
        pauses.append(pause)
        left = play.run(Hook.VERIFY, "a").timeout
        assert left == pytest.approx(10.0 - sum(pauses), abs=0.1)  # one deadline for all its runs
    play.end(play.run(Hook.VERIFY, "a"))
    play.wake("b")
    assert waiter in play.in_flight


@pytest.mark.fault(43)
def test_time_until_the_memory_is_free_is_part_of_the_sleeps_cost() -> None:
    play = Play(made(verify=True))
    awake(play)
    play.arrive("b")
    play.sleep("a", after=2.0)
    said_no(play, Hook.VERIFY, "a", after=0.4)
    play.advance(0.1)
    play.end(play.run(Hook.VERIFY, "a"), after=0.5)
    play.wake("b", after=4.0)
    assert play.core.costs.estimate("a", "b") == pytest.approx(2.0 + 1.0 + 4.0)
    assert play.core.costs.sleep("a") == pytest.approx(3.0)


@pytest.mark.fault(43, 44)
@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMEOUT, Outcome.ERROR])
def test_memory_that_does_not_come_free_in_time_is_a_sleep_that_failed(outcome: Outcome) -> None:
    play = Play(made(verify=True, verify_timeout=1.0))
    awake(play)
    waiter = play.arrive("b")
    for pause in (1.0, 2.0, 0.0):  # the sleep hook gets its usual retries
        play.sleep("a")
        while "verify a" in play.running():
            play.end(play.run(Hook.VERIFY, "a"), outcome, after=0.6)
            if "verify:a" in play.timers:
                play.advance(0.2)
        play.advance(pause)
    said_no(play, Hook.ALIVE, "a")
    assert play.state("a") is ModelState.LOST
    assert play.rejected[waiter].reason is Refusal.HOOK_FAILED
    assert "memory of a is not free" in play.rejected[waiter].detail
    assert "wake b" not in play.running()
    failed = play.facts(SleepFailed)[-1]
    assert isinstance(failed, SleepFailed)
    assert failed.lost


@pytest.mark.fault(43, 44)
def test_a_model_whose_memory_is_not_free_but_that_is_alive_goes_back_to_work() -> None:
    play = Play(made(verify=True, verify_timeout=0.05))
    awake(play)
    play.arrive("b")
    for pause in (1.0, 2.0, 0.0):
        play.sleep("a")
        said_no(play, Hook.VERIFY, "a")
        play.advance(pause)
    play.end(play.run(Hook.ALIVE, "a"))
    assert play.core.state() == Active("a")


@pytest.mark.fault(43)
def test_after_a_failed_wake_the_memory_is_verified_too() -> None:
    play = Play(made(verify=True))
    play.arrive("a")
    said_no(play, Hook.WAKE, "a")
    waiter = play.arrive("b")
    play.sleep("a")
    assert play.running() == ["verify a"]
    said_no(play, Hook.VERIFY, "a")
    play.advance(0.05)
    assert "wake b" not in play.running()
    play.advance(0.1)
    play.end(play.run(Hook.VERIFY, "a"))
    play.wake("b")
    assert waiter in play.in_flight


@pytest.mark.fault(43)
def test_only_the_verify_hook_of_the_victims_holds_up_their_own_devices() -> None:
    models = (
        ModelSpec("left", ({"gpu0": GIB},), verify=True),
        ModelSpec("other", ({"gpu0": GIB},)),
        ModelSpec("right", ({"gpu1": GIB},)),
    )
    play = Play(CoreSettings(models=models, devices={"gpu0": GIB, "gpu1": GIB}, alive_interval=0.0))
    awake(play, "left")
    play.arrive("other")
    play.sleep("left")
    said_no(play, Hook.VERIFY, "left")
    served = play.arrive("right")
    play.wake("right")
    assert served in play.in_flight
    assert play.state("other") is ModelState.ASLEEP


@pytest.mark.fault(43, 62)
def test_the_verify_hook_is_not_asked_when_llmux_starts() -> None:
    """What it measures may be held by another model that is rightly awake."""
    play = Play(made(verify=True), started=False)
    play.start(awake=("b",))
    assert play.running() == []
    assert play.states() == {"a": "asleep", "b": "unconfirmed"}


# --- what an earlier llmux has left -----------------------------------------------------------------------------------


@pytest.mark.fault(62)
@pytest.mark.parametrize("past", [state for state in ModelState if state is not ModelState.ASLEEP])
def test_a_model_left_in_doubt_is_slept_before_its_memory_is_anothers_although_alive_says_no(past: ModelState) -> None:
    play = Play(made(), started=False)
    play.start(past={"a": past, "gone": ModelState.LOST})
    assert play.states() == {"a": "unconfirmed", "b": "asleep"}
    waiter = play.arrive("b")
    assert play.running() == ["sleep a"]
    play.sleep("a")
    play.wake("b")
    assert waiter in play.in_flight
    assert owners(play.core) == {"b": ModelState.AWAKE}


@pytest.mark.fault(44, 62)
def test_a_model_that_was_lost_is_lost_again_if_it_still_cannot_be_slept() -> None:
    play = Play(made(), started=False)
    play.start(past={"a": ModelState.LOST})
    waiter = play.arrive("b")
    for pause in (1.0, 2.0, 0.0):
        said_no(play, Hook.SLEEP, "a")
        play.advance(pause)
    said_no(play, Hook.ALIVE, "a")
    assert play.state("a") is ModelState.LOST
    assert play.rejected[waiter].reason is Refusal.HOOK_FAILED


@pytest.mark.fault(43, 62)
def test_the_verify_hooks_yes_is_enough_for_a_model_left_in_doubt() -> None:
    play = Play(made(verify=True), started=False)
    play.send(Start({"a": ModelState.LOST}))
    said_no(play, Hook.ALIVE, "a")
    said_no(play, Hook.ALIVE, "b")
    waiter = play.arrive("b")
    assert play.running() == ["verify a"]  # nobody is woken before it has answered
    play.end(play.run(Hook.VERIFY, "a"))
    assert play.state("a") is ModelState.ASLEEP
    play.wake("b")
    assert waiter in play.in_flight


@pytest.mark.fault(43, 62)
@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMEOUT, Outcome.ERROR])
def test_anything_else_that_the_verify_hook_says_proves_nothing(outcome: Outcome) -> None:
    play = Play(made(verify=True), started=False)
    play.send(Start({"a": ModelState.UNCONFIRMED}))
    said_no(play, Hook.ALIVE, "a")
    said_no(play, Hook.ALIVE, "b")
    play.arrive("b")
    play.end(play.run(Hook.VERIFY, "a"), outcome)
    assert play.running() == ["sleep a"]


@pytest.mark.fault(59, 62)
def test_the_verify_hook_is_not_believed_of_a_model_that_may_still_load() -> None:
    """A server that was just started holds no memory yet."""
    play = Play(made(verify=True), started=False)
    play.start(past={"a": ModelState.WAKING})
    assert play.running() == []
    play.arrive("b")
    assert play.running() == ["sleep a"]


@pytest.mark.fault(62)
def test_its_own_wake_needs_no_sleep() -> None:
    play = Play(made(), started=False)
    play.start(past={"a": ModelState.LOST})
    waiter = play.arrive("a")
    play.wake("a", after=3.0)
    assert waiter in play.in_flight
    assert play.core.costs.wake("a") == 3.0  # it was not up, as its alive hook says


@pytest.mark.fault(62)
def test_a_doubt_outlives_a_start_that_is_cut_short() -> None:
    play = Play(made(verify=True), started=False)
    past = {"a": ModelState.WAKING, "b": ModelState.LOST}
    play.send(Start(past))
    assert owners(play.core) == past
    said_no(play, Hook.ALIVE, "a")
    said_no(play, Hook.ALIVE, "b")
    assert owners(play.core) == past  # b's verify hook is asked
    play.stop()
    assert play.cancelled == {play.run(Hook.VERIFY, "b").run_id}
    play.end(play.run(Hook.VERIFY, "b"), Outcome.CANCELLED)
    assert play.stopped
    assert owners(play.core) == {"a": ModelState.WAKING, "b": ModelState.UNCONFIRMED}


@pytest.mark.fault(61, 62)
def test_a_model_that_comes_back_to_the_configuration_is_remembered() -> None:
    play = Play(made(), started=False)
    play.start(past={"c": ModelState.LOST})
    settings = made()
    play.reconfigure(msgspec.structs.replace(settings, models=(*settings.models, ModelSpec("c"))))
    said_no(play, Hook.ALIVE, "c")
    assert play.state("c") is ModelState.UNCONFIRMED


@pytest.mark.fault(62)
def test_a_wake_that_was_cut_short_is_remembered_as_one_until_the_model_is_asleep() -> None:
    play = Play(made())
    play.arrive("a")
    assert owners(play.core) == {"a": ModelState.WAKING}
    play.end(play.run(Hook.WAKE, "a"), Outcome.TIMEOUT)
    assert play.state("a") is ModelState.SLEEPING
    assert owners(play.core) == {"a": ModelState.WAKING}
    play.sleep("a")
    assert owners(play.core) == {}


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(59)
def test_the_last_sleeps_have_a_time_of_their_own_whatever_their_hooks_may_take() -> None:
    play = Play(made(sleep_timeout=None))
    awake(play)
    play.stop(grace=5.0, on_exit=OnExit.SLEEP, sleep_within=60.0)
    assert play.facts(LastSleeps) == [LastSleeps(("a",), 60.0)]
    play.advance(59.0)  # the grace is for those who are served
    assert play.cancelled == set()
    play.advance(1.0)
    assert play.cancelled == {play.run(Hook.SLEEP, "a").run_id}
    play.end(play.run(Hook.SLEEP, "a"), Outcome.CANCELLED, after=5.0)
    assert play.stopped
    assert owners(play.core) == {"a": ModelState.UNCONFIRMED}


@pytest.mark.fault(59)
def test_what_cleans_up_after_a_wake_has_no_longer() -> None:
    play = Play(made(sleep_timeout=None))
    play.arrive("a")
    play.stop(grace=5.0, sleep_within=60.0)
    play.advance(5.0)
    play.end(play.run(Hook.WAKE, "a"), Outcome.CANCELLED, after=2.0)
    play.advance(57.0)
    assert play.run(Hook.SLEEP, "a").run_id not in play.cancelled
    play.advance(1.0)
    assert play.run(Hook.SLEEP, "a").run_id in play.cancelled
    play.end(play.run(Hook.SLEEP, "a"), Outcome.CANCELLED)
    assert play.stopped
    assert play.facts(LastSleeps) == []


@pytest.mark.fault(59)
def test_what_begins_when_the_time_is_over_is_ended_too() -> None:
    """The sleep hook fails just then, so the alive hook is asked, which hangs and has no deadline."""
    play = Play(made(sleep_timeout=None, alive_timeout=None))
    awake(play)
    play.stop(on_exit=OnExit.SLEEP, sleep_within=60.0)
    play.advance(60.0)
    said_no(play, Hook.SLEEP, "a", after=0.5)
    assert play.running() == ["alive a"]
    play.advance(1.0)
    assert play.run(Hook.ALIVE, "a").run_id in play.cancelled
    play.end(play.run(Hook.ALIVE, "a"), Outcome.CANCELLED)
    assert play.stopped
    assert play.state("a") is ModelState.LOST


def test_a_stop_of_an_older_event_log_has_the_effects_that_it_had() -> None:
    play = Play(made())
    awake(play)
    before = len(play.effects)
    play.stop(on_exit=OnExit.SLEEP)
    play.advance(1000.0)
    assert {type(effect).__name__ for effect in play.effects[before:]} == {
        "CloseBackend", "ModelLeftAwake", "RunHook", "SetTimer", "StateChanged"
    }  # fmt: skip


def test_stopping_does_not_wait_for_memory_longer_than_the_grace() -> None:
    play = Play(made(verify=True, verify_timeout=None))
    awake(play)
    play.arrive("b")
    play.sleep("a")
    said_no(play, Hook.VERIFY, "a")
    play.stop(grace=5.0)
    while play.now < 60.0 and not play.facts(Stopped):
        if "verify a" not in play.running():
            play.advance(0.5)
            continue
        run = play.run(Hook.VERIFY, "a")
        play.end(run, Outcome.CANCELLED if run.run_id in play.cancelled else Outcome.FAILED, after=0.1)
    assert play.now < 10.0
    assert play.state("a") is ModelState.UNCONFIRMED


def test_on_exit_sleep_verifies_too() -> None:
    play = Play(made(verify=True))
    awake(play)
    play.stop(on_exit=OnExit.SLEEP)
    play.sleep("a")
    assert play.facts(Stopped) == []
    play.end(play.run(Hook.VERIFY, "a"))
    assert play.facts(Stopped) == [Stopped()]
    assert play.state("a") is ModelState.ASLEEP


# --- the canary: does it serve? ---------------------------------------------------------------------------------------


def test_nobody_is_served_before_the_canary_was_answered() -> None:
    play = Play(made(canary=True))
    waiter = play.arrive("a")
    play.wake("a", after=3.0)
    late = play.arrive("a")
    assert play.running() == ["canary a"]
    assert {waiter, late} <= set(play.waiting)
    play.end(play.run(Hook.CANARY, "a"), after=0.5)
    assert {waiter, late} <= set(play.in_flight)
    assert play.core.costs.estimate(None, "a") == 3.5  # until it is usable


@pytest.mark.fault(36, 37)
def test_a_failed_canary_gets_a_second_wake_before_anybody_is_told() -> None:
    play = Play(made(canary=True))
    waiter = play.arrive("a")
    play.wake("a", after=3.0)
    said_no(play, Hook.CANARY, "a", after=60.0)
    assert play.running() == ["sleep a"]
    assert waiter in play.waiting
    play.sleep("a", after=1.0)
    play.wake("a", after=4.0)
    play.end(play.run(Hook.CANARY, "a"), after=0.5)
    assert waiter in play.in_flight
    assert play.core.costs.estimate(None, "a") == 4.5  # the attempt that failed is no part of what a wake costs
    assert play.core.ledger.models["a"].wake_failures == 0


@pytest.mark.fault(36, 37)
@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMEOUT, Outcome.ERROR])
def test_a_canary_that_fails_twice_is_a_failed_wake(outcome: Outcome) -> None:
    play = Play(made(canary=True))
    waiter = play.arrive("a")
    play.wake("a")
    play.end(play.run(Hook.CANARY, "a"), outcome)
    play.sleep("a")
    play.wake("a")
    play.end(play.run(Hook.CANARY, "a"), outcome)
    refused = play.rejected[waiter]
    assert (refused.reason, refused.retry_after) == (Refusal.HOOK_FAILED, 2.0)
    assert "canary of a failed: because" in refused.detail
    play.sleep("a")
    assert play.state("a") is ModelState.ASLEEP
    play.arrive("a")
    assert play.running() == []  # it backs off
    play.advance(2.1)
    assert play.running() == ["wake a"]
    ended = play.facts(SwitchEnded)[-1]
    assert isinstance(ended, SwitchEnded)
    assert ended.result == "failure"


def test_a_second_wake_is_for_those_who_still_wait() -> None:
    play = Play(made(canary=True))
    waiter = play.arrive("a")
    play.wake("a")
    said_no(play, Hook.CANARY, "a")
    play.leave(waiter)
    play.sleep("a")
    assert play.running() == []
    assert play.state("a") is ModelState.ASLEEP


@pytest.mark.fault(44)
def test_a_model_that_fails_its_canary_and_will_not_sleep_is_lost() -> None:
    play = Play(made(canary=True))
    waiter = play.arrive("a")
    play.wake("a")
    said_no(play, Hook.CANARY, "a")
    for pause in (1.0, 2.0, 0.0):
        said_no(play, Hook.SLEEP, "a")
        play.advance(pause)
    said_no(play, Hook.ALIVE, "a")
    assert play.state("a") is ModelState.LOST
    assert "canary of a failed" in play.rejected[waiter].detail
    assert "sleep hook of a failed" in play.rejected[waiter].detail
    later = play.arrive("b")
    assert play.rejected[later].reason is Refusal.DEVICE_LOST


def test_a_model_found_awake_must_answer_its_canary_too() -> None:
    play = Play(made(canary=True), started=False)
    play.start(awake=("a",))
    waiter = play.arrive("a")
    play.wake("a")
    assert waiter in play.waiting
    play.end(play.run(Hook.CANARY, "a"))
    assert waiter in play.in_flight
    assert play.core.costs.wake("a") is None


def test_stopping_ends_a_canary_at_once() -> None:
    play = Play(made(canary=True))
    play.arrive("a")
    play.wake("a")
    play.stop()
    run = play.run(Hook.CANARY, "a")
    assert play.cancelled == {run.run_id}
    play.end(run, Outcome.CANCELLED)
    assert play.stopped
    assert play.state("a") is ModelState.UNCONFIRMED


def test_an_operator_who_wants_it_asleep_is_not_told_so_between_two_wakes() -> None:
    play = Play(made(canary=True))
    play.arrive("a")
    play.wake("a")
    said_no(play, Hook.CANARY, "a")
    command = play.command(OperatorSleep, "a")
    play.sleep("a")
    assert command not in play.replies
    play.settle()
    assert play.replies[command].reason is None


# --- a backend that fails ---------------------------------------------------------------------------------------------


def fail(play: Play, failure: Failure, times: int, model: str = "a") -> None:
    for count in range(1, times + 1):
        play.fail_backend(model, failure, count)


@pytest.mark.fault(36)
def test_answers_that_are_errors_are_the_requests_fault_unless_told_otherwise() -> None:
    play = Play(made())
    awake(play)
    fail(play, Failure.ANSWER, 1000)
    assert play.running() == []
    assert play.core.state() == Active("a")


@pytest.mark.fault(36)
def test_a_healthy_backend_that_does_not_generate_is_taken_out_after_repeated_failures() -> None:
    play = Play(made(doubt_after=3))
    awake(play)
    fail(play, Failure.ANSWER, 2)
    assert play.running() == []
    play.fail_backend("a", Failure.ANSWER, 3)
    play.end(play.run(Hook.ALIVE, "a"))  # alive says yes, as ever
    assert play.running() == ["sleep a"]
    waiter = play.arrive("a")
    assert waiter in play.waiting
    play.sleep("a")
    assert play.running() == []  # it has lived for a second: it backs off before it is woken again
    play.advance(2.1)
    play.wake("a")
    assert waiter in play.in_flight
    died = play.facts(ModelDied)
    assert died == [ModelDied("a", "its backend failed 3 requests in a row")]


@pytest.mark.fault(36)
def test_the_canary_decides_whose_fault_it_is() -> None:
    play = Play(made(canary=True, doubt_after=3))
    awake(play)
    fail(play, Failure.ANSWER, 3)
    play.end(play.run(Hook.ALIVE, "a"))
    play.end(play.run(Hook.CANARY, "a"))  # answered: somebody sends bad requests
    assert play.core.state() == Active("a")
    for count in (4, 5):
        play.fail_backend("a", Failure.ANSWER, count)
    assert play.running() == []  # it is not asked for every one of them
    play.fail_backend("a", Failure.ANSWER, 6)
    play.end(play.run(Hook.ALIVE, "a"))
    said_no(play, Hook.CANARY, "a")
    assert play.running() == ["sleep a"]
    died = play.facts(ModelDied)[-1]
    assert isinstance(died, ModelDied)
    assert died.detail == "its backend failed 6 requests in a row, and its canary failed: because"


@pytest.mark.fault(36)
@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.CANCELLED])
def test_a_canary_that_could_not_be_sent_condemns_nobody(outcome: Outcome) -> None:
    play = Play(made(canary=True, doubt_after=1))
    awake(play)
    play.fail_backend("a", Failure.ANSWER, 1)
    play.end(play.run(Hook.ALIVE, "a"))
    play.end(play.run(Hook.CANARY, "a"), outcome)
    assert play.core.state() == Active("a")


@pytest.mark.fault(36)
def test_a_model_taken_out_drains_first_and_is_not_trusted_again_unwoken() -> None:
    play = Play(made(doubt_after=1))
    awake(play)
    stream = play.arrive("a")
    play.fail_backend("a", Failure.ANSWER, 1)
    play.end(play.run(Hook.ALIVE, "a"))
    assert play.state("a") is ModelState.DRAINING
    assert play.running() == []
    play.finish(stream)
    for pause in (1.0, 2.0, 0.0):
        said_no(play, Hook.SLEEP, "a")
        play.advance(pause)
    play.end(play.run(Hook.ALIVE, "a"))  # alive, and no good
    assert play.state("a") is ModelState.UNCONFIRMED


@pytest.mark.fault(36)
def test_an_alive_hook_that_says_no_to_a_backend_in_doubt_is_believed() -> None:
    play = Play(made(doubt_after=2))
    awake(play)
    fail(play, Failure.ANSWER, 2)
    said_no(play, Hook.ALIVE, "a")
    assert play.state("a") is ModelState.UNCONFIRMED


@pytest.mark.fault(28, 34)
def test_where_nobody_listens_the_model_is_dead_whatever_alive_says() -> None:
    play = Play(made())
    awake(play)
    for count in (1, 2):
        play.fail_backend("a", Failure.REFUSED, count)
        play.end(play.run(Hook.ALIVE, "a"))  # `alive: true`
        assert play.core.state() == Active("a")
    play.fail_backend("a", Failure.REFUSED, 3)
    assert play.state("a") is ModelState.UNCONFIRMED
    assert isinstance(play.effects[-1], CloseBackend)
    waiter = play.arrive("a")
    play.advance(2.1)
    play.wake("a")
    assert waiter in play.in_flight


@pytest.mark.fault(34, 35)
def test_a_check_that_began_before_the_model_was_woken_anew_says_nothing_about_it() -> None:
    play = Play(made())
    awake(play)
    play.fail_backend("a", Failure.REFUSED, 1)
    old = play.run(Hook.ALIVE, "a")
    play.fail_backend("a", Failure.REFUSED, 3)
    play.arrive("a")
    play.advance(2.1)
    play.wake("a")
    play.end(old, Outcome.FAILED)
    assert play.core.state() == Active("a")


@pytest.mark.fault(35, 44)
def test_a_hook_that_runs_already_is_run_again_for_a_newer_question() -> None:
    """One at a time; and the answer to an old question is no answer to a new one."""
    play = Play(made())
    awake(play)
    play.fail_backend("a")
    check = play.run(Hook.ALIVE, "a")
    play.arrive("b")
    for pause in (1.0, 2.0, 0.0):
        said_no(play, Hook.SLEEP, "a")
        play.advance(pause)
    assert play.running() == ["alive a"]
    play.end(check)  # yes, but that was before its sleep failed
    assert play.state("a") is ModelState.SLEEPING
    said_no(play, Hook.ALIVE, "a")
    assert play.state("a") is ModelState.LOST


# --- lost, and found again -------------------------------------------------------------------------------------------


@pytest.mark.fault(43, 44)
def test_a_lost_model_comes_back_by_itself_once_its_verify_hook_passes() -> None:
    play = Play(made(verify=True))
    lose(play)
    play.advance(10.0)
    said_no(play, Hook.ALIVE, "a")
    play.end(play.run(Hook.VERIFY, "a"))
    assert play.state("a") is ModelState.ASLEEP
    assert play.running() == []  # its sleep hook, which fails, was not needed
    waiter = play.arrive("b")
    play.wake("b")
    assert waiter in play.in_flight
    causes = [fact.cause for fact in play.facts(StateChanged) if isinstance(fact, StateChanged) and fact.model == "a"]
    assert causes[-1] == "its verify hook says that the memory is free"


@pytest.mark.fault(43, 44)
def test_a_lost_model_whose_memory_is_held_gets_its_sleep_hook_again() -> None:
    play = Play(made(verify=True))
    lose(play)
    play.advance(10.0)
    said_no(play, Hook.ALIVE, "a")
    said_no(play, Hook.VERIFY, "a")
    play.sleep("a")
    assert play.state("a") is ModelState.SLEEPING
    play.end(play.run(Hook.VERIFY, "a"))
    assert play.state("a") is ModelState.ASLEEP


@pytest.mark.fault(44)
def test_an_old_look_at_a_lost_model_cannot_free_it() -> None:
    play = Play(made(verify=True))
    lose(play)
    play.advance(10.0)
    said_no(play, Hook.ALIVE, "a")
    old = play.run(Hook.VERIFY, "a")
    play.command(OperatorFree, "a")
    play.arrive("a")
    play.wake("a")
    for request in list(play.in_flight):
        play.finish(request)
    play.arrive("b")
    for pause in (1.0, 2.0, 0.0):
        said_no(play, Hook.SLEEP, "a")
        play.advance(pause)
    said_no(play, Hook.ALIVE, "a")
    assert play.state("a") is ModelState.LOST
    play.end(old)  # "free", but that was before it was woken again
    assert play.state("a") is ModelState.LOST


@pytest.mark.fault(44)
def test_an_operator_has_a_lost_model_looked_at_now() -> None:
    play = Play(made())
    lose(play)
    first = play.command(OperatorCheck, "a")
    second = play.command(OperatorCheck, "a")  # shares the look
    assert play.running() == ["alive a"]
    said_no(play, Hook.ALIVE, "a")
    said_no(play, Hook.SLEEP, "a")
    said_no(play, Hook.ALIVE, "a")
    for command in (first, second):
        assert play.replies[command].reason is Refusal.DEVICE_LOST
        assert "sleep hook of a failed" in play.replies[command].detail
    third = play.command(OperatorCheck, "a")
    said_no(play, Hook.ALIVE, "a")
    play.sleep("a")
    assert play.replies[third].reason is None
    assert play.state("a") is ModelState.ASLEEP
    fourth = play.command(OperatorCheck, "a")
    assert play.replies[fourth].reason is None
    assert play.running() == []


@pytest.mark.fault(44, 59)
def test_stopping_answers_an_operator_who_waits_for_a_look() -> None:
    play = Play(made())
    lose(play)
    command = play.command(OperatorCheck, "a")
    play.stop()
    assert play.replies[command].reason is Refusal.SHUTTING_DOWN
    play.end(play.run(Hook.ALIVE, "a"), Outcome.CANCELLED)
    assert play.stopped


@pytest.mark.fault(44)
def test_what_is_shown_of_a_lost_model() -> None:
    play = Play(made())
    lose(play)
    play.advance(4.0)
    seen = snapshot(play.core, play.now)
    assert not seen.ready
    assert seen.lost_devices == ("default",)
    assert seen.devices[0].lost_models == ("a",)
    lost = seen.models[0].lost
    assert lost is not None
    assert (lost.since_secs, lost.next_look_secs) == (4.0, 6.0)
    assert "sleep hook of a failed" in lost.error
    play.advance(6.0)
    said_no(play, Hook.ALIVE, "a")
    seen = snapshot(play.core, play.now)  # its sleep hook runs: that does not make it less lost
    assert seen.lost_devices == ("default",)
    assert seen.models[0].lost is not None
    assert seen.models[0].lost.next_look_secs is None
    play.sleep("a")
    assert snapshot(play.core, play.now).ready


# --- progress --------------------------------------------------------------------------------------------------------


def test_the_switch_under_way_is_shown_with_its_phase_and_age() -> None:
    play = Play(two())
    request = play.arrive("a")
    play.wake("a")
    play.arrive("b")
    play.advance(3.0)
    shown = snapshot(play.core, play.now).switches[0]
    assert (shown.from_model, shown.to_model, shown.phase, shown.since_secs) == ("a", "b", ModelState.DRAINING, 3.0)
    play.finish(request)
    assert snapshot(play.core, play.now).switches[0].phase is ModelState.SLEEPING
    play.sleep("a")
    assert snapshot(play.core, play.now).switches[0].phase is ModelState.WAKING
    play.wake("b")
    assert snapshot(play.core, play.now).switches == ()


def test_a_hook_of_whose_end_nobody_heard_makes_it_not_ready() -> None:
    """As a scheduler that is stuck while its health stays green would be."""
    play = Play(two())
    play.arrive("a")
    play.now += 600.0 + 29.0
    assert not snapshot(play.core, play.now).stalled
    play.now += 2.0
    seen = snapshot(play.core, play.now)
    assert seen.overdue == ("wake of a",)
    assert seen.stalled
    assert not seen.ready


@pytest.mark.fault(45)
def test_a_wake_and_its_canary_go_on_when_every_waiter_leaves() -> None:
    play = Play(made(canary=True))
    play.leave(play.arrive("a"))
    play.wake("a")
    play.end(play.run(Hook.CANARY, "a"))
    assert play.core.state() == Active("a")
    assert [type(effect) for effect in play.effects].count(SwitchEnded) == 1


@pytest.mark.fault(46)
def test_waiters_of_one_model_share_its_switch_and_every_one_is_served() -> None:
    play = Play(made(verify=True, canary=True))
    awake(play)
    waiters = [play.arrive("b") for _ in range(20)]
    play.sleep("a")
    waiters += [play.arrive("b") for _ in range(20)]
    play.end(play.run(Hook.VERIFY, "a"))
    waiters += [play.arrive("b") for _ in range(20)]
    play.wake("b")
    waiters += [play.arrive("b") for _ in range(20)]
    play.end(play.run(Hook.CANARY, "b"))
    assert set(waiters) == set(play.in_flight)
