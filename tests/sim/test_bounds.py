"""No policy may beat the bound, and the bound must not be empty."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmux.core import CoreSettings, ModelSpec
from llmux.policy import Decision, Plan, Stay, SwitchTo, View, load_policy
from llmux.policy.registry import BUILT_IN
from llmux.sim import Arrival, BackendModel, HookTimes, poisson, simulate
from llmux.sim.bounds import lower_bound

ONE_DEVICE = CoreSettings(models=(ModelSpec("a"), ModelSpec("b"), ModelSpec("c")), alive_interval=0)
TWO_MODELS = CoreSettings(models=(ModelSpec("a"), ModelSpec("b")), alive_interval=0)
TWO_DEVICES = CoreSettings(
    models=(
        ModelSpec("a", placements=({"x": 6, "y": 6},)),
        ModelSpec("b", placements=({"x": 5}, {"y": 5})),
        ModelSpec("c", placements=({"y": 4},)),
    ),
    devices={"x": 10, "y": 8},
    alive_interval=0,
)


class Dice:
    """Decides at random, also to wake models that nobody waits for: sometimes right by chance."""

    name = "dice"

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311  # choices, not secrets

    def decide(self, view: View, now: float) -> Decision:
        plans = [plan for model in view.models() if isinstance(plan := view.plan(model.name), Plan)]
        if plans and self.rng.random() < 0.5:
            plan = self.rng.choice(plans)
            return SwitchTo(plan.model, plan)
        return Stay(now + self.rng.choice([0.5, 3.0, 20.0]))


class Script:
    """Takes the choices it is given, one per decision and then the first of each, and notes how many there were.

    The first is to stay, for 3 s or until something happens; the others are all switches that could begin.
    """

    name = "script"

    def __init__(self, choices: list[int]) -> None:
        self.choices = choices
        self.options: list[int] = []

    def decide(self, view: View, now: float) -> Decision:
        plans = [plan for model in view.models() if isinstance(plan := view.plan(model.name), Plan)]
        place = len(self.options)
        self.options.append(len(plans) + 1)
        choice = self.choices[place] if place < len(self.choices) else 0
        return SwitchTo(plans[choice - 1].model, plans[choice - 1]) if choice else Stay(now + 3.0)


def least_mean(arrivals: list[Arrival], hooks: HookTimes, backend: BackendModel, until: float) -> float:
    """The least mean wait of all sequences of choices, up to a time."""
    least, choices = float("inf"), list[int]()
    while True:
        script = Script(choices)
        result = simulate(arrivals, TWO_MODELS, script, hooks=hooks, backends=backend, until=until)
        if None not in result.started:
            least = min(least, result.summary().waits.mean)
        choices = (choices + [0] * len(script.options))[: len(script.options)]
        while choices and choices[-1] == script.options[len(choices) - 1] - 1:
            choices.pop()
        if not choices:
            return least
        choices[-1] += 1


@st.composite
def traffic(draw: st.DrawFn) -> list[Arrival]:
    gaps = st.sampled_from([0.0, 0.3, 1.0, 4.0, 15.0, 60.0])
    rows = draw(st.lists(st.tuples(gaps, st.sampled_from("abc"), st.integers(0, 800)), min_size=1, max_size=25))
    arrivals, at = [], 0.0
    for gap, model, tokens in rows:
        at += gap
        arrivals.append(Arrival(at, model, 100, tokens))
    return arrivals


@st.composite
def hook_times(draw: st.DrawFn) -> HookTimes:
    seconds = st.sampled_from([0.0, 0.5, 2.0, 10.0, 40.0])
    pairs = {(one, other): draw(seconds) for one in "abc" for other in "abc" if one != other and draw(st.booleans())}
    return HookTimes({name: draw(seconds) for name in "abc"}, {name: draw(seconds) for name in "abc"}, pairs)


@given(
    arrivals=traffic(),
    hooks=hook_times(),
    core=st.sampled_from([ONE_DEVICE, TWO_DEVICES]),
    drain=st.booleans(),
    batch=st.sampled_from([1, 16]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=50)
def test_no_policy_beats_it(
    arrivals: list[Arrival], hooks: HookTimes, core: CoreSettings, drain: bool, batch: int, seed: int
) -> None:
    core = CoreSettings(models=core.models, devices=core.devices, alive_interval=0, drain_before_switch=drain)
    backend = BackendModel(batch=batch, batched_rate=20)
    bound = lower_bound(arrivals, core, hooks, backend)
    assert bound is not None
    policies = [load_policy(name) for name in BUILT_IN] + [Dice(seed + number) for number in range(10)]
    for policy in policies:
        result = simulate(arrivals, core, policy, hooks=hooks, backends=backend, until=5_000)
        if None not in result.started:
            assert result.summary().waits.mean >= bound - 1e-6, policy.name


@pytest.mark.parametrize(
    ("requests", "cost"),
    [
        ([("a", 0.0), ("b", 1.0), ("a", 2.0)], 1.0),
        ([("a", 0.0), ("b", 1.0), ("a", 2.0)], 4.0),
        ([("a", 0.0), ("b", 0.0), ("a", 1.0), ("b", 2.0)], 1.0),
        ([("a", 0.0), ("b", 0.0), ("b", 1.0), ("a", 9.0)], 1.0),
    ],
)
def test_on_small_cases_it_is_what_the_best_of_all_choices_reaches(
    requests: list[tuple[str, float]], cost: float
) -> None:
    arrivals = [Arrival(at, model, 0, 2) for model, at in requests]
    backend = BackendModel(rate=1.0, prefill_rate=1e9, overhead=0.0)  # a request takes 2 s
    hooks = HookTimes.constant("ab", cost)
    bound = lower_bound(arrivals, TWO_MODELS, hooks, backend)
    assert bound is not None
    least = least_mean(arrivals, hooks, backend, 6 + 8 * cost)
    assert 0.99 * least <= bound <= least + 1e-9


def test_a_request_waits_for_the_wake_hook() -> None:
    assert lower_bound([Arrival(5.0, "a", 0, 0)], ONE_DEVICE, HookTimes.constant("abc", 10.0)) == pytest.approx(8.0)


def test_a_single_model_is_exact() -> None:
    arrivals = poisson({"a": 0.5}, 200.0, seed=3)
    hooks = HookTimes.constant("abc", 30.0)
    mean = simulate(arrivals, ONE_DEVICE, load_policy("fifo"), hooks=hooks).summary().waits.mean
    assert lower_bound(arrivals, ONE_DEVICE, hooks) == pytest.approx(mean)


@pytest.mark.parametrize(("rate", "least"), [(0.005, 0.5), (0.2, 0.3)])
def test_it_is_not_far_from_what_is_reached(rate: float, least: float) -> None:
    arrivals = poisson({"a": rate, "b": rate}, 60 / rate, seed=1)
    hooks = HookTimes.constant("abc", 10.0)
    reached = simulate(arrivals, ONE_DEVICE, load_policy("break-even"), hooks=hooks).summary().waits.mean
    bound = lower_bound(arrivals, ONE_DEVICE, hooks)
    assert bound is not None
    assert least * reached < bound < reached


def test_models_that_fit_together_only_start_cold() -> None:
    core = CoreSettings(models=ONE_DEVICE.models, devices={"default": 3}, alive_interval=0)
    arrivals = [Arrival(100.0 * number, "abc"[number % 3], 0, 0) for number in range(30)]
    bound = lower_bound(arrivals, core, HookTimes.constant("abc", 10.0))
    assert bound == pytest.approx(3 * 8.0 / 30)


def test_the_same_again() -> None:
    arrivals = poisson({"a": 0.2, "b": 0.1, "c": 0.05}, 150.0, seed=2)
    hooks = HookTimes.constant("abc", 5.0)
    assert lower_bound(arrivals, ONE_DEVICE, hooks) == lower_bound(arrivals, ONE_DEVICE, hooks)


def test_where_there_is_none() -> None:
    one = [Arrival(0.0, "a", 0, 0)]
    assert lower_bound([], ONE_DEVICE, HookTimes.constant("abc", 10.0)) is None
    assert lower_bound([Arrival(0.0, "d", 0, 0)], ONE_DEVICE, HookTimes.constant("abc", 10.0)) is None
    noisy = HookTimes.constant("abc", 10.0, noise=0.1)
    assert lower_bound(one, ONE_DEVICE, noisy) == lower_bound(one, ONE_DEVICE, HookTimes.constant("abc", 10.0))
    assert lower_bound(one, ONE_DEVICE, HookTimes.constant("abc", 1000.0)) is None  # wake hooks are ended at 600 s
