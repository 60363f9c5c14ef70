"""Nobody starves: the bound of `llmux.policy.bounded` on random workloads, and everybody served in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmux.core import CoreSettings, ModelSpec
from llmux.costs import PRIOR
from llmux.policy import (
    BoundedPolicy,
    BreakEvenPolicy,
    Decision,
    DrainFirstPolicy,
    FifoPolicy,
    PriorityPolicy,
    RoundRobinPolicy,
    SwitchPolicy,
    View,
)
from llmux.policy.bounded import FLOOR
from llmux.sim import Arrival, BackendModel, HookTimes, Result, bursty, poisson, simulate
from tests.core.harness import GIB

LONGEST = 30.0  # seconds that a request takes at most
BACKEND = BackendModel(rate=1.0, prefill_rate=1e9, overhead=0.0, batch=10_000)  # a request takes its output in seconds

#: Made with a limit on waiting, in seconds.
BOUNDED: Mapping[str, Callable[[float], SwitchPolicy]] = {
    "fifo": lambda limit: FifoPolicy(),
    "break-even": BreakEvenPolicy,
    "patient": lambda limit: BreakEvenPolicy(limit, patience=1000.0, linger=1000.0),
    "drain-first": DrainFirstPolicy,
    "round-robin": lambda limit: RoundRobinPolicy(limit, quantum=1000.0),
    "priority": lambda limit: PriorityPolicy(limit, levels={"m0": 1000.0}),
}

workloads = st.fixed_dictionaries(
    {
        "models": st.integers(2, 5),
        "rate": st.sampled_from([0.02, 0.1, 0.5]),
        "skew": st.sampled_from([1.0, 5.0, 30.0]),
        "bursts": st.booleans(),
        "cost": st.sampled_from([0.5, 4.0, 20.0]),
        "min_active": st.sampled_from([0.0, 0.0, 7.0]),
        "limit": st.sampled_from([0.0, 20.0, 100.0]),
        "seed": st.integers(0, 10_000),
    }
)


def traffic(models: int, rate: float, skew: float, bursts: bool, seed: int) -> list[Arrival]:
    rates = {f"m{place}": rate if place == 0 else rate / skew for place in range(models)}
    make = bursty if bursts else poisson
    arrivals = make(rates, 60 / rate, seed, output_tokens=8)
    return [Arrival(a.at, a.model, 0, min(a.output_tokens, int(LONGEST))) for a in arrivals]


def play(arrivals: list[Arrival], core: CoreSettings, policy: SwitchPolicy, cost: float) -> Result:
    hooks = HookTimes.constant([spec.name for spec in core.models], cost)
    return simulate(arrivals, core, policy, hooks=hooks, backends=BACKEND, check=True)


def longest_wait(result: Result) -> float:
    return result.summary().grants.longest


@pytest.mark.parametrize("name", BOUNDED)
@given(workload=workloads)
@settings(max_examples=60)
def test_the_bound_holds(name: str, workload: dict[str, float]) -> None:
    models, cost, limit = int(workload["models"]), workload["cost"], workload["limit"]
    core = CoreSettings(
        models=tuple(ModelSpec(f"m{place}", drain_timeout=None) for place in range(models)),
        min_active=workload["min_active"],
        alive_interval=0.0,
    )
    arrivals = traffic(models, workload["rate"], workload["skew"], bool(workload["bursts"]), int(workload["seed"]))
    result = play(arrivals, core, BOUNDED[name](limit), cost)
    assert None not in result.finished
    if name == "fifo":
        limit = 0.0
    assert longest_wait(result) <= limit + models * (LONGEST + cost + core.min_active) + 1e-6


#: Made without a limit, so that it is derived; each as unwilling to switch as it can be.
DERIVED: Mapping[str, Callable[[], BoundedPolicy]] = {
    "break-even": BreakEvenPolicy,
    "patient": lambda: BreakEvenPolicy(patience=1000.0, linger=1000.0),
    "drain-first": DrainFirstPolicy,
    "round-robin": lambda: RoundRobinPolicy(quantum=1000.0),
    "priority": lambda: PriorityPolicy(levels={"m0": 1000.0}),
}


@pytest.mark.parametrize("name", DERIVED)
@given(workload=workloads)
@settings(max_examples=40)
def test_the_derived_limit_bounds_waiting_too(name: str, workload: dict[str, float]) -> None:
    """It is so many tours as measured. No tour takes more than two switches and drains per model: there and back. What
    was never measured is guessed, 10 s for a switch and 5 s for a drain, which may be more than it then takes."""
    models, cost = int(workload["models"]), workload["cost"]
    core = CoreSettings(
        models=tuple(ModelSpec(f"m{place}", drain_timeout=None) for place in range(models)),
        min_active=workload["min_active"],
        alive_interval=0.0,
    )
    arrivals = traffic(models, workload["rate"], workload["skew"], bool(workload["bursts"]), int(workload["seed"]))
    policy = DERIVED[name]()
    result = play(arrivals, core, policy, cost)
    assert None not in result.finished
    limit = max(FLOOR, policy.tours * models * (max(cost, PRIOR) + LONGEST))
    assert longest_wait(result) <= limit + models * (LONGEST + cost + core.min_active) + 1e-6


@pytest.mark.parametrize("policy", [BreakEvenPolicy, DrainFirstPolicy, RoundRobinPolicy, PriorityPolicy])
@given(seed=st.integers(0, 10_000), rate=st.sampled_from([0.05, 0.3]))
@settings(max_examples=25)
def test_everybody_is_served_on_several_devices(policy: type[BoundedPolicy], seed: int, rate: float) -> None:
    core = CoreSettings(
        models=(
            ModelSpec("m0", ({"g0": 20 * GIB, "g1": 20 * GIB},), drain_timeout=None),
            ModelSpec("m1", ({"g0": 16 * GIB},), drain_timeout=None),
            ModelSpec("m2", ({"g1": 16 * GIB},), drain_timeout=None),
            ModelSpec("m3", ({"g0": 8 * GIB}, {"g1": 8 * GIB}), drain_timeout=None),
        ),
        devices={"g0": 24 * GIB, "g1": 24 * GIB},
        alive_interval=0.0,
    )
    result = play(traffic(4, rate, 1.0, True, seed), core, policy(), 5.0)
    assert None not in result.finished
    assert longest_wait(result) <= 600.0


@pytest.mark.parametrize("name", [name for name in BOUNDED if name != "fifo"])
def test_a_steady_stream_ends_when_somebody_is_due(name: str) -> None:
    """m0 is never idle, and a single request for m1 comes: it is due after 50 s, m0 drains 5 s, the switch takes 10."""
    stream = [Arrival(float(second), "m0", 0, 5) for second in range(300)]
    arrivals = sorted([*stream, Arrival(100.0, "m1", 0, 5)], key=lambda arrival: arrival.at)
    core = CoreSettings(models=(ModelSpec("m0"), ModelSpec("m1")))
    result = play(arrivals, core, BOUNDED[name](50.0), 10.0)
    lone = result.model_of.index("m1")
    granted = result.granted[lone]
    assert granted is not None
    assert granted <= 165.0
    if name != "break-even":
        assert granted >= 164.0


@pytest.mark.parametrize(
    ("policy", "cost", "length", "earliest", "latest"),
    [
        (DrainFirstPolicy, 0.1, 1, 124.0, 128.0),
        (DrainFirstPolicy, 1.0, 5, 150.0, 154.0),
        (DrainFirstPolicy, 10.0, 5, 210.0, 225.0),
        (lambda: BreakEvenPolicy(patience=1000.0), 1.0, 5, 174.0, 177.0),
    ],
)
def test_the_derived_limit_is_some_tours(
    policy: Callable[[], SwitchPolicy], cost: float, length: int, earliest: float, latest: float
) -> None:
    """As above, without `max_wait_secs`: four tours, or six. A tour is there and back again, with a drain on either
    side, of which that of m1 is not known yet and taken to be 5 s; then m0 drains once more, and the switch takes its
    time."""
    stream = [Arrival(half / 2, "m0", 0, length) for half in range(800)]
    arrivals = sorted([*stream, Arrival(100.0, "m1", 0, length)], key=lambda arrival: arrival.at)
    result = play(arrivals, CoreSettings(models=(ModelSpec("m0"), ModelSpec("m1"))), policy(), cost)
    granted = result.granted[result.model_of.index("m1")]
    assert granted is not None
    assert earliest <= granted <= latest


class Forgetful(BreakEvenPolicy):
    """Works everything out anew each time."""

    def decide(self, view: View, now: float) -> Decision:
        self._quiet_until = float("-inf")
        return super().decide(view, now)


@given(seed=st.integers(0, 10_000), models=st.integers(2, 5), rate=st.sampled_from([0.1, 0.5, 2.0]))
@settings(max_examples=40)
def test_break_even_decides_the_same_with_what_it_remembers(seed: int, models: int, rate: float) -> None:
    core = CoreSettings(models=tuple(ModelSpec(f"m{place}") for place in range(models)))
    arrivals = traffic(models, rate, 3.0, True, seed)
    results = [play(arrivals, core, make(60.0), 5.0) for make in (BreakEvenPolicy, Forgetful)]
    assert results[0] == results[1]


@pytest.mark.parametrize("policy", [BreakEvenPolicy, DrainFirstPolicy, RoundRobinPolicy, PriorityPolicy])
def test_a_negative_limit_is_refused(policy: type[BoundedPolicy]) -> None:
    with pytest.raises(ValueError, match="max_wait_secs must be at least 0"):
        policy(max_wait_secs=-1.0)
