"""No policy starves anyone: random workloads on random machines, and the stated bound on every single request.

A few hundred workloads in the suite, ten thousand with `make test-long`; `LLMUX_WORKLOADS=10000 pytest
tests/policy/test_starvation.py` plays that many for each policy. No hook fails here. Seeds, not Hypothesis: a workload
is found again by its number.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping

import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.policy import BreakEvenPolicy, DrainFirstPolicy, FifoPolicy, PriorityPolicy, RoundRobinPolicy, SwitchPolicy
from llmux.sim import Arrival, BackendModel, HookTimes, simulate

pytestmark = pytest.mark.fault(48)

WORKLOADS = int(os.environ.get("LLMUX_WORKLOADS", "60"))
PER_TEST = 50

LONGEST = 20  # seconds that a request takes at most
BACKEND = BackendModel(rate=1.0, prefill_rate=1e9, overhead=0.0, batch=10_000)  # a request takes its output in seconds

POLICIES: Mapping[str, Callable[[float], SwitchPolicy]] = {
    "fifo": lambda limit: FifoPolicy(),
    "break-even": BreakEvenPolicy,
    "drain-first": DrainFirstPolicy,
    "round-robin": RoundRobinPolicy,
    "priority": lambda limit: PriorityPolicy(limit, levels={"m0": 1000.0}),
}


def machine(rng: random.Random) -> CoreSettings:
    """One device with room for one model, or up to three with models that take some of one or of several."""
    count = rng.randint(2, 6)
    settings = {"alive_interval": 0.0, "min_active": rng.choice([0.0, 0.0, 5.0])}
    names = [f"m{place}" for place in range(count)]
    if rng.random() < 0.4:
        models = tuple(ModelSpec(name, drain_timeout=None) for name in names)
        return CoreSettings(models=models, alive_interval=0.0, min_active=settings["min_active"])
    devices = {f"g{place}": rng.randint(10, 16) for place in range(rng.randint(1, 3))}
    specs = []
    for name in names:
        size = rng.randint(2, 9)
        if rng.random() < 0.25:
            placements: tuple[dict[str, int], ...] = (dict.fromkeys(devices, size),)
        elif rng.random() < 0.3:
            placements = ({rng.choice(list(devices)): size},)
        else:
            placements = tuple({device: size} for device in devices)
        specs.append(ModelSpec(name, placements, drain_timeout=None))
    if rng.random() < 0.2:  # small, so that everybody fits beside it
        specs.append(ModelSpec("pinned", tuple({device: 1} for device in devices), drain_timeout=None, pinned=True))
    return CoreSettings(models=tuple(specs), devices=devices, alive_interval=0.0, min_active=settings["min_active"])


def traffic(rng: random.Random, models: list[str]) -> list[Arrival]:
    """Uneven streams with bursts; the busiest never pauses."""
    arrivals = []
    seconds = rng.choice([100.0, 400.0])
    for model in models:
        at, gap = 0.0, rng.choice([2.0, 10.0, 60.0])
        while (at := at + rng.expovariate(1 / gap)) < seconds:
            for _ in range(rng.choice([1, 1, 1, 4])):
                arrivals.append(Arrival(at, model, 0, rng.randint(1, LONGEST)))
    return sorted(arrivals, key=lambda arrival: arrival.at)


def check(number: int, make: Callable[[float], SwitchPolicy]) -> None:
    rng = random.Random(number)  # noqa: S311  # traffic, not secrets
    core = machine(rng)
    names = [spec.name for spec in core.models]
    sleeps = {name: rng.choice([0.1, 2.0, 6.0]) for name in names}
    wakes = {name: rng.choice([0.5, 4.0, 20.0]) for name in names}
    limit = rng.choice([0.0, 20.0, 100.0])
    arrivals = traffic(rng, names)
    policy = make(limit)
    result = simulate(arrivals, core, policy, hooks=HookTimes(sleeps, wakes), backends=BACKEND)
    assert None not in result.finished, f"workload {number}: somebody was never served"
    longest = result.summary().grants.longest
    if policy.name == "fifo":
        limit = 0.0
    turn = LONGEST + max(sleeps.values()) + max(wakes.values()) + core.min_active
    assert longest <= limit + len(names) * turn + 1e-6, f"workload {number}: somebody waited {longest:.1f} s"


@pytest.mark.parametrize("first", range(0, WORKLOADS, PER_TEST))
@pytest.mark.parametrize("name", POLICIES)
def test_48_nobody_waits_longer_than_the_bound(name: str, first: int) -> None:
    for number in range(first, min(first + PER_TEST, WORKLOADS)):
        check(number, POLICIES[name])
