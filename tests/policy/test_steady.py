"""A steady policy that is not asked anew says what it would say if it were."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from llmux.core import IMPLICIT_DEVICE, CoreSettings, ModelSpec
from llmux.messages import Effect, Event
from llmux.policy import BoundedPolicy, Candidate, DrainFirstPolicy, PriorityPolicy, RoundRobinPolicy, View
from llmux.sim import Arrival, BackendModel, HookTimes, bursty, simulate
from tests.core.harness import GIB

Happening = tuple[float, Event, Sequence[Effect]]


def played(policy: BoundedPolicy, settings: CoreSettings, arrivals: Sequence[Arrival], cost: float) -> list[Happening]:
    log: list[Happening] = []
    simulate(
        arrivals,
        settings,
        policy,
        hooks=HookTimes.constant([spec.name for spec in settings.models], cost, noise=0.2, seed=1),
        backends=BackendModel(batched_rate=10.0, batch=4),
        watch=lambda now, event, effects: log.append((now, event, list(effects))),
    )
    return log


def policies() -> list[BoundedPolicy]:
    return [
        DrainFirstPolicy(),
        DrainFirstPolicy(max_wait_secs=8.0),
        RoundRobinPolicy(quantum=1.5),
        RoundRobinPolicy(max_wait_secs=40.0),
        PriorityPolicy(levels={"m1": 2.0}, ageing_secs=6.0),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_the_shortcut_changes_nothing(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311  # workloads, not secrets
    names = [f"m{number}" for number in range(1, rng.randint(3, 7))]
    several = seed % 3 == 0
    sizes = [rng.randint(1, 8) * GIB for _ in names]
    settings = CoreSettings(
        models=tuple(
            ModelSpec(name, ({"g0": size}, {"g1": size}), drain_timeout=rng.choice([None, 5.0]))
            if several
            else ModelSpec(name, drain_timeout=rng.choice([None, 5.0]))
            for name, size in zip(names, sizes, strict=True)
        ),
        devices={"g0": 10 * GIB, "g1": 8 * GIB} if several else {IMPLICIT_DEVICE: 1},
        request_timeout=rng.choice([None, 60.0]),
        min_active=rng.choice([0.0, 4.0]),
        alive_interval=0.0,
    )
    arrivals = bursty({name: 10 ** rng.uniform(-2, -0.5) for name in names}, 500.0, seed)
    cost = rng.choice([1.0, 6.0, 20.0])
    for shortened, asked_anew in zip(policies(), policies(), strict=True):
        assert shortened.steady
        asked_anew.steady = False
        assert played(shortened, settings, arrivals, cost) == played(asked_anew, settings, arrivals, cost)


def test_it_saves_most_of_the_work() -> None:
    asked = 0

    class Counting(DrainFirstPolicy):
        def choose(self, view: View, candidates: Sequence[Candidate], now: float) -> Candidate | float:
            nonlocal asked
            asked += 1
            return super().choose(view, candidates, now)

    settings = CoreSettings(models=tuple(ModelSpec(name) for name in "abcd"), alive_interval=0.0)
    log = played(Counting(), settings, bursty(dict.fromkeys("abcd", 0.2), 1000.0, 1), 10.0)
    assert asked < len(log) / 3
