"""The simulator against what queueing theory knows exactly: one request at a time, Poisson arrivals, steady state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.policy import DrainFirstPolicy, RoundRobinPolicy, SwitchPolicy
from llmux.sim import Arrival, BackendModel, HookTimes, Result, poisson, simulate

ONE_AT_A_TIME = BackendModel(rate=40.0, overhead=0.0, batch=1)
FOREVER = 1e12


def play(arrivals: Sequence[Arrival], models: Sequence[str], policy: SwitchPolicy, cost: float) -> Result:
    settings = CoreSettings(
        models=tuple(ModelSpec(name, drain_timeout=None) for name in models),
        alive_interval=0.0,
        max_queue=len(arrivals),
    )
    return simulate(arrivals, settings, policy, hooks=HookTimes.constant(models, cost), backends=ONE_AT_A_TIME)


def moments(arrivals: Sequence[Arrival], model: str) -> tuple[float, float, float]:
    """Rate, mean and second moment of the service times that this very traffic has."""
    times = [arrival.output_tokens / ONE_AT_A_TIME.rate for arrival in arrivals if arrival.model == model]
    return len(times) / arrivals[-1].at, sum(times) / len(times), sum(time * time for time in times) / len(times)


def weighted_waits(arrivals: Sequence[Arrival], result: Result, models: Sequence[str]) -> float:
    summary = result.summary()
    return sum(
        rate * mean * summary.models[model].mean for model in models for rate, mean, _ in [moments(arrivals, model)]
    )


def law(arrivals: Sequence[Arrival], models: Sequence[str], switching: float) -> float:
    """The pseudo-conservation law of cyclic exhaustive service (Boxma and Groenendijk 1987), for a constant total
    `switching` time per cycle, in seconds; with none, Kleinrock's conservation law for any order of service."""
    parts = [moments(arrivals, model) for model in models]
    loads = [rate * mean for rate, mean, _ in parts]
    load = sum(loads)
    waiting = load * sum(rate * second for rate, _, second in parts) / (2 * (1 - load))
    return waiting + load * switching / 2 + switching * (load**2 - sum(part**2 for part in loads)) / (2 * (1 - load))


@pytest.mark.parametrize("models", ["a", "abc"])
def test_without_switching_costs_the_weighted_waits_are_conserved(models: str) -> None:
    rates: Mapping[str, float] = {name: 0.14 / (place + 1) for place, name in enumerate(models)}
    arrivals = poisson(rates, 120_000.0, 5, prompt_tokens=0, output_tokens=100)
    result = play(arrivals, models, DrainFirstPolicy(FOREVER), 0.0)
    assert weighted_waits(arrivals, result, models) == pytest.approx(law(arrivals, models, 0.0), rel=0.08)


def test_cyclic_exhaustive_service_obeys_the_pseudo_conservation_law() -> None:
    """Switches take so long that somebody always waits for the next model, as a server that never stops cycling has."""
    models = "abc"
    arrivals = poisson({"a": 0.3, "b": 0.2, "c": 0.2}, 50_000.0, 9, prompt_tokens=0, output_tokens=40)
    result = play(arrivals, models, RoundRobinPolicy(FOREVER, quantum=FOREVER), 30.0)
    assert weighted_waits(arrivals, result, models) == pytest.approx(law(arrivals, models, 90.0), rel=0.03)
