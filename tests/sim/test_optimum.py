"""The yardstick `bench/optimum.py`: value iteration against the simulator and other rules."""

from __future__ import annotations

import importlib.util
import random
import sys
from types import ModuleType

import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.policy import FifoPolicy, SwitchPolicy
from llmux.sim import Arrival, BackendModel, HookTimes, simulate
from tests.docs.documents import ROOT

MODELS = ("a", "b")


@pytest.fixture(scope="module")
def optimum() -> ModuleType:
    """The module, which is a script's neighbour and in no package."""
    spec = importlib.util.spec_from_file_location("optimum", ROOT / "bench" / "optimum.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["optimum"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def played(pair: object, policy: SwitchPolicy, requests: int = 6000) -> float:
    """The mean wait of a policy on seeded traffic."""
    rates, service, cost = (getattr(pair, name) for name in ("rates", "service", "cost"))
    rng = random.Random(11)  # noqa: S311  # traffic, not secrets
    at, arrivals = 0.0, []
    for _ in range(requests):
        at += rng.expovariate(sum(rates))
        model = MODELS[rng.random() * sum(rates) >= rates[0]]
        arrivals.append(Arrival(at, model, 0, max(1, round(1000 * rng.expovariate(1 / service)))))
    core = CoreSettings(models=tuple(ModelSpec(model, drain_timeout=None) for model in MODELS), alive_interval=0)
    hooks = HookTimes.constant(MODELS, cost)
    result = simulate(arrivals, core, policy, hooks=hooks, backends=BackendModel(rate=1000.0, overhead=0.0))
    waits = result.waits()
    return sum(waits) / len(waits)


@pytest.mark.parametrize("skew", [1.0, 5.0])
def test_its_value_is_what_its_policy_gets_in_the_simulator(optimum: ModuleType, skew: float) -> None:
    pair = optimum.Pair.of(0.05, skew, 4.0)
    best = optimum.optimum(pair, exact=5e-3)
    assert best.slack <= 0.01 * best.mean
    assert played(pair, optimum.TablePolicy(MODELS, best.leaves)) == pytest.approx(best.mean, rel=0.06)
    fifo = optimum.value_of(pair, lambda awake, x, y: True, exact=5e-3)
    assert played(pair, FifoPolicy()) == pytest.approx(fifo.mean, rel=0.06)


def test_no_other_rule_is_better(optimum: ModuleType) -> None:
    pair = optimum.Pair.of(0.1, 3.0, 2.0)
    best = optimum.optimum(pair, exact=5e-3)
    for most, enough in ((0, 1), (1, 2), (3, 8)):
        other = optimum.value_of(pair, lambda awake, x, y, m=most, n=enough: x <= m and y >= n, exact=5e-3)
        assert best.mean <= other.mean * 1.006
    assert optimum.optimum(pair, ahead=True, exact=5e-3).mean <= best.mean * 1.006


def test_weights_move_waiting_from_one_model_to_the_other(optimum: ModuleType) -> None:
    pair = optimum.Pair.of(0.1, 20.0, 2.0)
    fair, plain = (optimum.optimum(pair, weights=(1.0, weight), exact=5e-3) for weight in (3.0, 1.0))
    assert fair.means[1] < plain.means[1]
    assert fair.mean > plain.mean
