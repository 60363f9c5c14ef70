"""What a log tells about the backend: fitted to logs of simulations, whose backends are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.eventlog import Recorder, observed
from llmux.eventlog.fitting import Stay, alone, fit
from llmux.policy import load_policy
from llmux.sim import Arrival, BackendModel, HookTimes, poisson, simulate

NAMES = ("a", "b", "c")
SETTINGS = CoreSettings(models=tuple(map(ModelSpec, NAMES)), alive_interval=0.0)
HOOKS = HookTimes.constant(NAMES, 5.0)


def day(rate: float, hours: float, seed: int) -> list[Arrival]:
    return poisson(dict.fromkeys(NAMES, rate / 3), hours * 3600, seed)


def mean_wait(arrivals: list[Arrival], policy: str, backends: object) -> float:
    result = simulate(arrivals, SETTINGS, load_policy(policy, {}), hooks=HOOKS, backends=backends)  # type: ignore[arg-type]
    return result.summary().waits.mean


def logged(arrivals: list[Arrival], policy: str, backend: BackendModel, path: Path) -> Path:
    recorder = Recorder(path, SETTINGS, policy, {})
    recorder.start()
    simulate(arrivals, SETTINGS, load_policy(policy, {}), hooks=HOOKS, backends=backend, watch=recorder)
    recorder.close()
    return path


@pytest.mark.parametrize("seed", [1, 2])
def test_a_log_of_fifo_says_what_other_policies_would_have_done(seed: int, tmp_path: Path) -> None:
    """Backends make 40 tokens per second alone and 10 in a full batch; of fifo's short stays none is full."""
    backend = BackendModel(batched_rate=10.0)
    arrivals = day(0.35, 8.0, seed)
    seen = observed(logged(arrivals, "fifo", backend, tmp_path / "log"))
    policies = ("fifo", "break-even", "drain-first", "round-robin", "priority")
    true = {policy: mean_wait(arrivals, policy, backend) for policy in policies}
    told = {policy: mean_wait(seen.arrivals, policy, seen.backends) for policy in policies}
    assert told == {policy: pytest.approx(wait, rel=0.15) for policy, wait in true.items()}
    assert min(told, key=lambda policy: told[policy]) == min(true, key=lambda policy: true[policy])
    for one in policies:
        for other in policies:
            if true[one] < 0.85 * true[other]:
                assert told[one] < told[other]
    for found in seen.fits.values():
        assert found.slope == pytest.approx(0.2, abs=0.04)
        assert found.error is not None
        assert found.slope - 3 * found.error <= 0.2 <= found.slope + 3 * found.error


def stays(backend: BackendModel, rate: float, seed: int = 1) -> tuple[list[Stay], list[float]]:
    """One model alone, and what its requests take alone."""
    arrivals = poisson({"a": rate}, 4000 / rate, seed)
    core = CoreSettings(models=(ModelSpec("a"),), alive_interval=0.0)
    hooks = HookTimes.constant("a", 1.0)
    result = simulate(arrivals, core, load_policy("fifo", {}), hooks=hooks, backends=backend)
    found = []
    for begin, end in zip(result.granted, result.finished, strict=True):
        assert begin is not None
        assert end is not None
        found.append(Stay(begin, end, True))
    return found, [backend.alone(one.prompt_tokens, one.output_tokens) for one in arrivals]


@pytest.mark.parametrize(("batch", "rate", "batched_rate"), [(8, 0.6, 20.0), (4, 0.3, 30.0), (1, 0.17, None)])
def test_a_full_batch_is_seen(batch: int, rate: float, batched_rate: float | None) -> None:
    backend = BackendModel(batch=batch, batched_rate=batched_rate)
    seen, works = stays(backend, rate)
    found = fit(seen)
    assert found is not None
    assert found.batch == batch
    true = 0.0 if batched_rate is None else (40 / batched_rate - 1) / (batch - 1)
    assert found.slope == pytest.approx(true, abs=3 * (found.error or 0.0))
    assert sum(alone(seen, found)) == pytest.approx(sum(works), rel=0.12)


def test_what_is_not_slowed_down_is_not_found_to_be() -> None:
    seen, works = stays(BackendModel(batch=100), 1.0)
    found = fit(seen)
    assert found is not None
    assert found.batch is None
    assert found.slope == pytest.approx(0.0, abs=0.02)
    assert sum(alone(seen, found)) == pytest.approx(sum(works), rel=0.1)


def test_too_little_says_nothing() -> None:
    assert fit([]) is None
    assert fit([Stay(float(at), at + 0.5, True) for at in range(1000)]) is None  # never two together
    assert fit(stays(BackendModel(batched_rate=10.0), 0.5)[0][:60]) is None
    cut = [stay._replace(whole=False) for stay in stays(BackendModel(batched_rate=10.0), 0.5)[0]]
    assert fit(cut) is None


def test_what_takes_about_the_same_time_ends_in_order_without_a_limit() -> None:
    backend = BackendModel(batch=1000, prefill_rate=1e9, overhead=0.0)
    arrivals = [Arrival(one.at, "a", 0, 180 + one.output_tokens % 41) for one in poisson({"a": 0.8}, 4000.0, 1)]
    core = CoreSettings(models=(ModelSpec("a"),), alive_interval=0.0)
    result = simulate(arrivals, core, load_policy("fifo", {}), hooks=HookTimes.constant("a", 1.0), backends=backend)
    pairs = zip(result.granted, result.finished, strict=True)
    found = fit([Stay(begin, end, True) for begin, end in pairs if begin is not None and end is not None])
    assert found is None or found.batch is None
