"""Who has to go when several models are awake: the cheapest to lose, together, and never one that was just woken."""

from __future__ import annotations

import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.messages import Hook, ModelState, OperatorSleep, PolicyFault, SwitchStarted
from llmux.policy import Blocked, BreakEvenPolicy, Decision, DrainFirstPolicy, FifoPolicy, Plan, SwitchTo, View
from tests.core.harness import GIB, Play, three_on_two_gpus


def on_one_gpu(sizes: dict[str, int], capacity: int, **overrides: object) -> CoreSettings:
    specs = tuple(ModelSpec(name, ({"gpu": size * GIB},)) for name, size in sizes.items())
    return CoreSettings(models=specs, devices={"gpu": capacity * GIB}, **overrides)  # type: ignore[arg-type]  # test sugar


def wake(play: Play, model: str, seconds: float) -> None:
    """Bring `model` up by one request, which ends at once."""
    request = play.arrive(model)
    play.wake(model, after=seconds)
    play.finish(request)


def victims(play: Play) -> tuple[str, ...]:
    started = play.facts(SwitchStarted)[-1]
    assert isinstance(started, SwitchStarted)
    return started.victims


def test_the_one_that_wakes_quickly_goes_though_it_was_used_last() -> None:
    play = Play(on_one_gpu({"slow": 10, "quick": 10, "new": 10}, 20))
    wake(play, "slow", 40.0)
    wake(play, "quick", 2.0)
    play.arrive("new")
    assert victims(play) == ("quick",)


def test_a_cost_is_forgotten_when_nobody_asks() -> None:
    """Landlord: each that goes in its place takes some of the credit of the one that nobody uses."""
    play = Play(on_one_gpu({"slow": 10, "b": 10, "c": 10}, 20))
    wake(play, "slow", 12.0)
    gone = []
    for turn in range(40):
        model = "bc"[turn % 2]
        if play.state(model) is ModelState.AWAKE:
            play.finish(play.arrive(model))
            continue
        request = play.arrive(model)
        for hook in list(play.hooks.values()):
            if hook.hook is Hook.SLEEP:
                gone.append(hook.model)
                play.sleep(hook.model)
        play.wake(model, after=6.0)
        play.finish(request)
        if "slow" in gone:
            break
    assert gone[0] != "slow"
    assert gone[-1] == "slow"


def test_the_one_that_is_asked_for_more_often_stays() -> None:
    play = Play(on_one_gpu({"rare": 10, "often": 10, "new": 10}, 20))
    wake(play, "often", 10.0)
    wake(play, "rare", 10.0)
    for _ in range(30):
        play.advance(1.0)
        play.finish(play.arrive("often"))
    play.advance(1.0)
    play.finish(play.arrive("rare"))  # used last
    play.arrive("new")
    assert victims(play) == ("rare",)


def test_two_victims_are_one_decision_and_the_cheapest_pair() -> None:
    play = Play(on_one_gpu({"a": 10, "b": 10, "c": 10, "wide": 20}, 30))
    wake(play, "a", 30.0)
    wake(play, "b", 2.0)
    wake(play, "c", 3.0)
    play.arrive("wide")
    assert victims(play) == ("b", "c")
    assert sorted(play.running()) == ["sleep b", "sleep c"]  # side by side
    play.sleep("c")
    assert play.running() == ["sleep b"]
    play.sleep("b")
    assert play.running() == ["wake wide"]
    assert len(play.facts(SwitchStarted)) == 4


def test_one_large_victim_goes_rather_than_two_that_cost_more_together() -> None:
    play = Play(on_one_gpu({"large": 20, "b": 10, "c": 10, "wide": 20}, 40))
    wake(play, "large", 5.0)
    wake(play, "b", 4.0)
    wake(play, "c", 4.0)
    play.arrive("wide")
    assert victims(play) == ("large",)


def test_a_model_just_woken_serves_those_who_waited_before_it_can_be_a_victim() -> None:
    play = Play(on_one_gpu({"a": 10, "b": 10, "c": 10}, 20))
    wake(play, "a", 30.0)
    first = play.arrive("b")
    play.arrive("b")
    play.wake("b", after=1.0)
    play.advance(1.0)
    play.arrive("c")
    assert victims(play) == ("a",)  # b is far cheaper, but both who waited for it are in flight
    assert first in play.in_flight


@pytest.mark.parametrize("policy", [BreakEvenPolicy(60.0), DrainFirstPolicy(60.0)])
def test_it_is_kept_until_they_are_served_or_somebody_is_due(policy: BreakEvenPolicy | DrainFirstPolicy) -> None:
    settings = on_one_gpu({"a": 10, "b": 10, "tiny": 1}, 11)
    play = Play(settings, policy)
    play.arrive("a")
    play.wake("a", after=1.0)
    play.arrive("b")
    play.advance(50.0)
    assert play.state("a") is ModelState.AWAKE
    play.advance(11.0)
    assert play.state("a") is ModelState.DRAINING  # the bound on waiting wins; those in flight still end first


def test_without_drains_those_who_were_waited_for_are_not_cut() -> None:
    play = Play(on_one_gpu({"a": 10, "b": 10, "tiny": 1}, 11, drain_before_switch=False))
    request = play.arrive("a")
    play.wake("a", after=1.0)
    play.arrive("b")
    assert play.state("a") is ModelState.AWAKE
    play.finish(request)
    assert play.running() == ["sleep a"]


def test_without_drains_they_have_the_time_of_a_drain() -> None:
    play = Play(on_one_gpu({"a": 10, "b": 10, "tiny": 1}, 11, drain_before_switch=False))
    play.arrive("a")
    play.wake("a", after=1.0)
    play.arrive("b")
    play.advance(299.0)
    assert play.state("a") is ModelState.AWAKE
    play.advance(2.0)
    assert "sleep a" in play.running()


def test_no_one_with_more_to_lose_goes_until_the_newcomer_has_waited_for_it() -> None:
    """hot is asked for every second, and takes 400 s to wake; the newcomer takes 1 s, and nobody else wants it."""
    play = Play(on_one_gpu({"hot": 10, "new": 10, "tiny": 1}, 11), DrainFirstPolicy(500.0))
    wake(play, "new", 1.0)
    request = play.arrive("hot")
    play.sleep("new")
    play.wake("hot", after=400.0)
    play.finish(request)
    for _ in range(60):
        play.advance(1.0)
        play.finish(play.arrive("hot"))
    play.arrive("new")
    assert play.state("hot") is ModelState.AWAKE  # though it is idle at this moment
    for _ in range(498):
        play.advance(1.0)
        assert play.state("hot") is ModelState.AWAKE
        play.finish(play.arrive("hot"))
    play.advance(3.0)
    assert "sleep hot" in play.running()  # at the latest when it is due


# --- pinned ---------------------------------------------------------------------------------------------------------


def pinned() -> CoreSettings:
    models = (
        ModelSpec("kept", ({"gpu": 10},), pinned=True),
        ModelSpec("b", ({"gpu": 10},)),
        ModelSpec("c", ({"gpu": 10},)),
    )
    return CoreSettings(models=models, devices={"gpu": 20})


def test_a_pinned_model_is_nobodys_victim() -> None:
    play = Play(pinned())
    wake(play, "kept", 0.1)
    wake(play, "b", 50.0)
    play.arrive("c")
    assert victims(play) == ("b",)


def test_an_operator_may_put_a_pinned_model_to_sleep() -> None:
    play = Play(pinned())
    wake(play, "kept", 0.1)
    play.command(OperatorSleep, "kept")
    assert play.running() == ["sleep kept"]


class Says:
    """Answers with one plan, whatever is asked."""

    name = "says"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def decide(self, view: View, now: float) -> Decision:
        return SwitchTo(self.plan.model, self.plan) if view.model("b").in_flight else FifoPolicy().decide(view, now)


def test_the_view_tells_of_devices_and_of_the_parts_of_a_switch() -> None:
    play = Play(three_on_two_gpus())
    view = play.core.planner
    names = list(play.core.ledger.models)
    before = view.devices()
    assert all(device.free == device.capacity and not device.awake for device in before)
    wake(play, names[0], 3.0)
    model = view.model(names[0])
    assert model.claims
    for device, old in zip(view.devices(), before, strict=True):
        assert device.free == old.capacity - model.claims.get(device.name, 0)
        assert device.awake == (((names[0], model.awake_since),) if device.name in model.claims else ())
    assert view.expected_wake(names[0]) == play.core.costs.wake(names[0])
    assert view.expected_sleep(names[0]) == 0.0
    assert view.drain_time(names[0]) is None
    assert not model.pinned
    assert not view.model(names[1]).claims


def test_a_policy_that_takes_a_pinned_model_is_reported() -> None:
    play = Play(pinned(), Says(Plan("c", ("kept",), ("gpu",))))
    wake(play, "kept", 0.1)
    play.arrive("b")
    play.wake("b")
    play.arrive("c")
    assert play.facts(PolicyFault)
    assert victims(play) == ("b",)


@pytest.mark.parametrize("plan", [Plan("a", ("b",), ("default",)), None])
def test_a_policy_that_wakes_what_nobody_waits_for_is_reported(plan: Plan | None) -> None:
    class Eager:
        name = "eager"

        def decide(self, view: View, now: float) -> Decision:
            return SwitchTo("a", plan) if view.model("b").awake_since is not None else FifoPolicy().decide(view, now)

    settings = CoreSettings(models=tuple(ModelSpec(name) for name in "abc"))
    play = Play(settings, Eager())
    wake(play, "b", 1.0)
    play.arrive("c")
    assert [fault.detail for fault in play.facts(PolicyFault) if isinstance(fault, PolicyFault)] == [
        "ValueError: nobody waits for a"
    ]
    assert victims(play) == ("b",)
    started = play.facts(SwitchStarted)[-1]
    assert isinstance(started, SwitchStarted)
    assert started.to_model == "c"


def test_what_is_kept_for_one_who_is_due_is_not_touched_by_anothers_victims() -> None:
    """Making room on gpu1 would put wide to sleep, which is on gpu0 as well."""
    models = (
        ModelSpec("wide", ({"gpu0": 10, "gpu1": 10},)),
        ModelSpec("right", ({"gpu1": 10},)),
        ModelSpec("left", ({"gpu0": 10},)),
    )
    play = Play(CoreSettings(models=models, devices={"gpu0": 10, "gpu1": 10}))
    wake(play, "wide", 1.0)
    view = play.core.planner
    assert isinstance(view.plan("right"), Plan)
    assert isinstance(view.plan("right", avoid=("gpu0",)), Blocked)
