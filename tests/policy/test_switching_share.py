"""Two models that are asked for in turns: policy and operator say how much of the time switching may take."""

from __future__ import annotations

import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.policy import BreakEvenPolicy, DrainFirstPolicy, FifoPolicy, RoundRobinPolicy, SwitchPolicy
from llmux.sim import Arrival, BackendModel, HookTimes, simulate

pytestmark = pytest.mark.fault(47)

BACKEND = BackendModel(rate=1.0, prefill_rate=1e9, overhead=0.0, batch=16)
COST = 10.0  # seconds, of every switch


def share_switching(policy: SwitchPolicy, min_active: float = 0.0) -> float:
    """A, B, A, B, one every half second for an hour, each taking 2 s."""
    arrivals = [Arrival(number / 2, "ab"[number % 2], 0, 2) for number in range(7200)]
    settings = CoreSettings(models=(ModelSpec("a"), ModelSpec("b")), alive_interval=0.0, min_active=min_active)
    hooks = HookTimes.constant(["a", "b"], COST)
    return simulate(arrivals, settings, policy, hooks=hooks, backends=BACKEND).summary().shares.switching


def test_a_turn_of_round_robin_lasts_its_quantum() -> None:
    assert share_switching(RoundRobinPolicy(quantum=2.0)) <= 1 / (1 + 2.0)
    assert share_switching(RoundRobinPolicy(quantum=5.0)) <= 1 / (1 + 5.0)


def test_what_must_stay_awake_for_a_time_bounds_any_policy() -> None:
    for min_active in (10.0, 30.0):
        for policy in (FifoPolicy(), BreakEvenPolicy(), DrainFirstPolicy()):
            assert share_switching(policy, min_active) <= COST / (COST + min_active) + 0.01


def test_more_patience_is_less_switching() -> None:
    hasty, usual, patient = (share_switching(BreakEvenPolicy(patience=patience)) for patience in (0.0, 0.8, 3.0))
    assert patient < usual < hasty
    assert usual < share_switching(FifoPolicy())
    assert usual < 0.65
