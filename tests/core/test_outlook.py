"""What those who wait, and those who are turned away, are told about when their turn will be."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llmux.core import Core, CoreSettings, ModelSpec
from llmux.gateway.keepalive import Promise
from llmux.messages import Grant, Hook, OperatorDrain, OperatorPin, Outcome, Refusal, Reject
from llmux.policy import Decision, DrainFirstPolicy, FifoPolicy, Plan, Stay, SwitchPolicy, SwitchTo, View, load_policy
from llmux.policy.base import Foreseeing
from llmux.policy.registry import BUILT_IN
from tests.core.harness import Play, two


class Stubborn:
    """Puts nobody to sleep, and does not say for how long."""

    name = "stubborn"

    def decide(self, view: View, now: float) -> Decision:
        for model in view.waiting():
            plan = view.plan(model.name)
            if isinstance(plan, Plan) and not plan.victims:
                return SwitchTo(model.name, plan)
        return Stay(now + 1.0)


class Talker(Stubborn):
    """Says something about it, which may be no sense."""

    def __init__(self, said: object) -> None:
        self.said = said

    def latest(self, view: View, names: Sequence[str], now: float) -> Sequence[float]:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said  # type: ignore[return-value]  # as a third party's policy may


def busy(settings: CoreSettings, policy: SwitchPolicy) -> Play:
    """A play in which `a` is awake and serves one, and in which costs and drains are known."""
    play = Play(settings, policy)
    for one in settings.models:
        play.core.costs.record(None, one.name, 5.0)
        for other in settings.models:
            if one is not other:
                play.core.costs.record(one.name, other.name, 5.0)
        play.core.costs.record_drain(one.name, 2.0)
    play.arrive("a")
    play.wake("a", after=5.0)
    return play


def asked(play: Play, request: int) -> tuple[float, str, bool]:
    """The seconds, the reason and whether it is only a bound, for a request that waits for `b`."""
    prospects = play.core.prospects("b", play.now)
    return prospects.of(request)[1], prospects.why, prospects.at_most


def step(play: Play) -> None:
    """A second in which the next request for `a` comes before the last one ends, and a switch takes what it takes."""
    last = [request for request, model in play.in_flight.items() if model == "a"]
    play.arrive("a")
    play.advance(1.0)
    for request in last:
        play.finish(request)


# --- while the policy keeps another model awake --------------------------------------------------------------------


def test_a_policy_that_stays_is_asked_for_how_long() -> None:
    play = busy(two(), DrainFirstPolicy(max_wait_secs=30.0))
    request = play.arrive("b")
    for passed in range(30):
        assert asked(play, request) == (30.0 - passed + 2.0 + 5.0, "a is kept awake for those it serves", True)
        assert not play.core.prospects("b", play.now).begun
        step(play)
    # Its time has come: nothing is promised any more, what is under way is told.
    assert asked(play, request) == (2.0 + 5.0, "a finishes what it serves", False)
    assert play.core.prospects("b", play.now).begun


@pytest.mark.parametrize("name", sorted(BUILT_IN))
@pytest.mark.parametrize("limit", [None, 20.0])
def test_no_promise_is_broken_by_a_policy_that_made_it(name: str, limit: float | None) -> None:
    options = {} if limit is None or name == "fifo" else {"max_wait_secs": limit}
    play = busy(two(), load_policy(name, options))
    assert isinstance(play.core.policy, Foreseeing)
    play.advance(400.0)  # long enough for rates
    request = play.arrive("b")
    told: list[float] = []
    promise, by = Promise(), float("inf")
    while request in play.waiting:
        prospects = play.core.prospects("b", play.now)
        seconds = prospects.of(request)[1]
        if promise.holds(seconds, prospects.begun, play.now):
            told.append(round(seconds))
            by = play.now + seconds
        switch = play.core.ledger.models["b"].switch
        if switch is None or switch.draining:
            step(play)
        else:
            play.sleep("a", after=1.0) if "sleep a" in play.running() else play.wake("b", after=4.0)
        assert play.now < 1000.0
    assert play.now <= by + 1.0, f"{told} at {play.now}"
    assert told
    assert all(told.count(seconds) <= 2 for seconds in told), told


def test_a_policy_that_does_not_say_gives_no_number_but_a_reason() -> None:
    play = busy(two(), Stubborn())
    assert asked(play, play.arrive("b")) == (0.0, "a is kept awake for those it serves", False)


@pytest.mark.parametrize("said", [[], [float("nan")], [float("inf")], ["soon"], None, [1.0, 2.0], ValueError("oh")])
def test_nonsense_is_taken_for_saying_nothing(said: object) -> None:
    play = busy(two(), Talker(said))
    assert asked(play, play.arrive("b"))[0] == 0.0


def test_an_idle_model_is_kept_for_those_who_may_come() -> None:
    play = busy(two(), Stubborn())
    play.finish(1)
    assert asked(play, play.arrive("b"))[1] == "a is kept awake for those who may ask for it soon"


def test_others_that_are_due_before_come_first() -> None:
    settings = CoreSettings(models=(ModelSpec("a"), ModelSpec("b"), ModelSpec("c")))
    play = busy(settings, DrainFirstPolicy(max_wait_secs=10.0))
    play.arrive("c")
    play.advance(1.0)
    # c is due in 9 s, and b right after it: drain a, switch to c, drain c, switch to b.
    assert asked(play, play.arrive("b"))[0] == 9.0 + 2 * (2.0 + 5.0)


def test_one_that_has_other_devices_does_not_count() -> None:
    models = [ModelSpec(name, ({device: 1},)) for name, device in zip("abcd", "xxyy", strict=True)]
    settings = CoreSettings(models=tuple(models), devices={"x": 1, "y": 1})
    play = busy(settings, DrainFirstPolicy(max_wait_secs=10.0))
    play.arrive("c")
    play.wake("c")
    play.arrive("d")
    play.advance(1.0)
    assert asked(play, play.arrive("b"))[0] == 10.0 + 2.0 + 5.0


def test_a_model_that_may_not_be_put_to_sleep_yet() -> None:
    play = busy(two(min_active=60.0), FifoPolicy())
    play.advance(10.0)
    assert asked(play, play.arrive("b")) == (50.0 + 2.0 + 5.0, "a is not put to sleep yet", False)


def test_one_that_could_not_be_woken_is_tried_again_later() -> None:
    play = busy(two(backoff_base=4.0), FifoPolicy())
    play.finish(1)
    play.arrive("b")
    play.sleep("a")
    play.end(play.run(Hook.WAKE, "b"), Outcome.FAILED)
    play.sleep("b")
    assert asked(play, play.arrive("b")) == (4.0 + 5.0, "b could not be woken and is not tried again yet", False)


def test_a_switch_to_another_is_waited_for() -> None:
    settings = CoreSettings(models=(ModelSpec("a"), ModelSpec("b"), ModelSpec("c")), min_active=3.0)
    play = busy(settings, FifoPolicy())
    play.advance(10.0)
    play.arrive("c")
    request = play.arrive("b")
    assert asked(play, request) == (2.0 + 5.0 + 3.0 + 2.0 + 5.0, "a finishes what it serves", False)
    play.finish(1)
    assert asked(play, request)[1] == "a is being put to sleep"
    play.sleep("a")
    assert asked(play, request)[1] == "c is being woken"


# --- while its own switch is under way ------------------------------------------------------------------------------


def test_a_drain_that_takes_longer_than_ever_ends_at_its_deadline() -> None:
    play = busy(CoreSettings(models=(ModelSpec("a", drain_timeout=40.0), ModelSpec("b"))), FifoPolicy())
    request = play.arrive("b")
    assert asked(play, request) == (7.0, "a finishes what it serves", False)
    play.advance(10.0)
    assert asked(play, request) == (30.0 + 5.0, "a finishes what it serves", True)
    play.advance(10.0)
    assert asked(play, request) == (20.0 + 5.0, "a finishes what it serves", True)


def test_a_drain_without_a_deadline_may_take_any_time() -> None:
    play = busy(CoreSettings(models=(ModelSpec("a", drain_timeout=None), ModelSpec("b"))), FifoPolicy())
    request = play.arrive("b")
    play.advance(10.0)
    assert asked(play, request) == (0.0, "a finishes what it serves", False)


def test_a_wake_that_takes_longer_than_ever_is_no_promise() -> None:
    play = Play(two())
    play.core.costs.record_wake("b", 5.0)
    request = play.arrive("b")
    play.advance(3.0)
    assert asked(play, request) == (2.0, "b is being woken", False)
    play.advance(3.0)
    assert asked(play, request) == (0.0, "b is being woken", False)


def test_a_full_model() -> None:
    play = Play(CoreSettings(models=(ModelSpec("b", max_in_flight=1),)))
    play.arrive("b")
    play.wake("b")
    assert asked(play, play.arrive("b")) == (5.0, "b serves as many as it may", False)


# --- those who are turned away --------------------------------------------------------------------------------------


def refused(play: Play, model: str) -> Reject:
    return play.rejected[play.arrive(model)]


def test_retry_after_counts_for_how_long_the_policy_stays() -> None:
    play = busy(two(max_queue=1), DrainFirstPolicy(max_wait_secs=30.0))
    play.arrive("b")
    play.advance(10.0)
    assert refused(play, "b").retry_after == 20.0 + 2.0 + 5.0


def test_who_has_waited_too_long_is_told_when_those_that_still_wait_are_served() -> None:
    play = busy(two(request_timeout=10.0), DrainFirstPolicy(max_wait_secs=30.0))
    first = play.arrive("b")
    play.advance(4.0)
    second = play.arrive("b")
    play.advance(6.0)
    assert play.rejected[first].retry_after == 30.0 - 6.0 + 2.0 + 5.0  # by the second, which still waits
    play.advance(4.0)
    assert play.rejected[second].retry_after == 30.0 + 2.0 + 5.0  # nobody waits: by one who comes now


def test_a_policy_that_does_not_say_leaves_a_guess() -> None:
    play = busy(two(max_queue=1), Stubborn())
    play.arrive("b")
    assert refused(play, "b").retry_after == 2.0 + 5.0


# --- whether they waited for a switch --------------------------------------------------------------------------------


def test_all_who_wait_for_a_wake_that_fails_have_waited_for_a_switch() -> None:
    play = busy(two(), FifoPolicy())
    waiting = [play.arrive("b"), play.arrive("b")]
    play.finish(1)
    play.sleep("a")
    play.end(play.run(Hook.WAKE, "b"), Outcome.FAILED)
    assert [play.rejected[request].switched for request in waiting] == [True, True]


def test_so_has_one_whose_victim_cannot_be_put_to_sleep() -> None:
    play = busy(two(sleep_retry_delays=()), FifoPolicy())
    request = play.arrive("b")
    play.finish(1)
    play.end(play.run(Hook.SLEEP, "a"), Outcome.FAILED)
    play.end(play.run(Hook.ALIVE, "a"))
    assert play.rejected[request].reason is Refusal.HOOK_FAILED
    assert play.rejected[request].switched


def test_one_whose_time_is_over_has_if_the_switch_has_begun() -> None:
    play = busy(two(request_timeout=10.0), DrainFirstPolicy(max_wait_secs=15.0))
    early = play.arrive("b")
    play.advance(7.0)
    play.arrive("b")
    play.advance(3.0)
    assert not play.rejected[early].switched  # a was kept awake all the time
    play = busy(two(request_timeout=10.0), FifoPolicy())
    late = play.arrive("b")
    play.advance(10.0)
    assert play.rejected[late].switched


def test_one_that_waits_for_a_place_only_has_not() -> None:
    settings = CoreSettings(models=(ModelSpec("a", max_in_flight=1), ModelSpec("b")), request_timeout=10.0)
    play = busy(settings, FifoPolicy())
    play.advance(1.0)
    place = play.arrive("a")
    play.advance(10.0)
    assert not play.rejected[place].switched
    play = Play(settings)
    first, second = play.arrive("a"), play.arrive("a")
    play.wake("a")
    play.advance(10.0)
    assert first in play.in_flight
    assert play.rejected[second].switched  # it came while its model slept, and then waited for a place besides


# --- looking changes nothing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_to_look_ahead_changes_nothing(name: str) -> None:
    play = busy(two(), load_policy(name))
    for _ in range(60):
        if len(play.waiting) < 3:
            play.arrive("b")
        for run in list(play.hooks.values()):
            play.end(run)
        step(play)
    play.command(OperatorPin, "a")
    play.command(OperatorDrain, "b")
    assert [effect for effect in play.effects if isinstance(effect, Grant)]
    looked = Core(play.made_from, load_policy(name))
    plain = Core(play.made_from, load_policy(name))
    for core in (looked, plain):
        for one in ("a", "b"):
            core.costs.record(None, one, 5.0)
    before = 0.0
    for at, event in play.log:
        for model in ("a", "b"):
            for share in (0.3, 1.0):
                looked.prospects(model, before + share * (at - before))
        before = at
        assert looked.handle(event, at) == plain.handle(event, at)


class Counting(FifoPolicy):
    """Counts how often it has to look ahead."""

    def __init__(self) -> None:
        self.asked = 0

    def latest(self, view: View, names: Sequence[str], now: float) -> list[float]:
        self.asked += 1
        return super().latest(view, names, now)


def crowd(policy: SwitchPolicy) -> Play:
    """A play in which somebody waits for each of a hundred models, every other one on a device of its own kind."""
    models = tuple(ModelSpec(name=f"m{n}", placements=({f"gpu{n % 2}": 1},)) for n in range(100))
    settings = CoreSettings(models=models, devices={"gpu0": 1, "gpu1": 1}, max_queue=100, min_active=3.0)
    play = Play(settings, policy)
    for n in range(100):
        play.core.costs.record(None, f"m{n}", 5.0 + n)
        play.advance(0.001)
        play.arrive(f"m{n}")
    return play


def test_in_a_crowd_all_turns_are_worked_out_together() -> None:
    policy = Counting()
    play = crowd(policy)
    for told in (lambda n: play.arrive(f"m{n}"), lambda n: play.core.prospects(f"m{n}", play.now)):
        policy.asked = 0
        for n in reversed(range(100)):
            told(n)
        assert policy.asked == 2  # once for each device
    play.advance(0.6)  # that was then
    play.core.prospects("m50", play.now)
    assert policy.asked == 3


def test_in_a_crowd_everybody_is_told_what_he_would_be_told_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    play = crowd(FifoPolicy())
    together = [play.core.prospects(f"m{n}", play.now) for n in range(100)]
    refused = [play.rejected[play.arrive(f"m{n}")].retry_after for n in range(100)]
    monkeypatch.setattr("llmux.core.outlook._CROWD", 1000)
    alone = crowd(FifoPolicy())
    assert together == [alone.core.prospects(f"m{n}", alone.now) for n in range(100)]
    assert refused == [alone.rejected[alone.arrive(f"m{n}")].retry_after for n in range(100)]
    assert len({*refused}) > 50  # places count: only on different devices can two be told the same
