from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.messages import EFFECT_DECODER, ENCODER, EVENT_DECODER, Effect, Event, PolicyFault
from llmux.policy import Decision, FifoPolicy, Stay, View
from llmux.sim import Arrival, BackendModel, HookTimes, Result, bursty, simulate
from tests.core.harness import GIB

ONE_SECOND = BackendModel(rate=1.0, prefill_rate=1e9, overhead=0.0, batch=16)  # a request takes its output in seconds


def models(*names: str, **overrides: object) -> CoreSettings:
    return CoreSettings(models=tuple(ModelSpec(name) for name in names), **overrides)  # type: ignore[arg-type]  # sugar


def run(arrivals: Sequence[tuple[float, str, int]], settings: CoreSettings, cost: float = 10.0) -> Result:
    return simulate(
        [Arrival(at, model, 0, output) for at, model, output in arrivals],
        settings,
        FifoPolicy(),
        hooks=HookTimes.constant([spec.name for spec in settings.models], cost),
        backends=ONE_SECOND,
        check=True,
    )


def test_one_switch_by_hand() -> None:
    """Wake a: 8 s. Serve it from 8 to 11. b came at 9: drain until 11, sleep a 2 s, wake b 8 s, serve from 21 to 22."""
    result = run([(0.0, "a", 3), (9.0, "b", 1), (10.0, "a", 1)], models("a", "b"))
    assert result.started == [8.0, 21.0, 32.0]
    assert result.granted == result.started
    assert result.finished == [11.0, 22.0, 33.0]
    assert result.switches == 3
    summary = result.summary(limit=12.0)
    assert summary.waits.mean == pytest.approx((8 + 12 + 22) / 3)
    assert summary.goodput == pytest.approx(2 / 3)
    assert summary.models["a"].longest == 22.0
    assert summary.unfinished == 0
    shares = [summary.shares.switching, summary.shares.draining, summary.shares.serving, summary.shares.idle]
    assert shares == pytest.approx([28 / 33, 3 / 33, 2 / 33, 0.0])


def test_beyond_the_batch_a_grant_is_not_yet_service() -> None:
    result = run([(0.0, "a", 4)] * 17, models("a"), cost=5.0)
    assert result.granted == [4.0] * 17
    assert result.started == [4.0] * 16 + [8.0]
    assert result.summary().waits.longest == 8.0
    assert result.summary().grants.longest == 4.0


def test_alive_checks_and_timeouts_go_on_as_they_do_live() -> None:
    result = run([(0.0, "a", 100)], models("a", alive_interval=15.0))
    assert result.finished == [108.0]
    slow = CoreSettings(models=(ModelSpec("a", wake_timeout=5.0),))
    assert run([(0.0, "a", 1)], slow).finished == [None]
    result = run([(0.0, "a", 30), (20.0, "b", 1), (20.0, "c", 1)], models("a", "b", "c", request_timeout=25.0))
    assert result.started == [8.0, None, None]
    assert result.summary().unfinished == 2


def test_a_drain_deadline_cuts_requests_off() -> None:
    settings = CoreSettings(models=(ModelSpec("a", drain_timeout=5.0), ModelSpec("b")))
    result = run([(0.0, "a", 1000)] * 18 + [(9.0, "b", 1)], settings)
    assert result.started == [8.0] * 16 + [None] * 2 + [24.0]  # drained from 9 to 14, asleep at 16
    assert result.finished == [None] * 18 + [25.0]


def test_several_devices() -> None:
    settings = CoreSettings(
        models=(ModelSpec("a", ({"g0": GIB},)), ModelSpec("b", ({"g1": GIB},)), ModelSpec("c", ({"g0": GIB},))),
        devices={"g0": GIB, "g1": GIB},
    )
    result = run([(0.0, "a", 1), (0.0, "b", 1), (8.5, "c", 1)], settings)
    assert result.started == [8.0, 8.0, 19.0]


def test_it_ends_when_it_is_told_to() -> None:
    arrivals = [Arrival(0.0, "a", 0, 3), Arrival(9.0, "a", 0, 3)]
    result = simulate(
        arrivals, models("a"), FifoPolicy(), hooks=HookTimes.constant("a", 10.0), backends=ONE_SECOND, until=10.0
    )
    assert result.finished == [None, None]
    assert result.seconds == 10.0
    assert result.summary().shares.switching == pytest.approx(0.8)


def test_pairs_and_noise() -> None:
    pairs = HookTimes({"a": 1.0}, {"a": 4.0, "b": 4.0}, {("a", "b"): 30.0}, sleep_share=0.5).source()
    assert [pairs.sleep("a", "b"), pairs.wake("b", "a"), pairs.sleep("a", None), pairs.wake("a", "b")] == [15, 15, 1, 4]
    noisy = HookTimes.constant(["a"], 10.0, sleep_share=1.0, noise=0.3, seed=4)
    one, two = noisy.source(), noisy.source()
    draws = [one.sleep("a", None) for _ in range(4000)]
    assert draws == [two.sleep("a", None) for _ in range(4000)]
    assert sum(draws) / len(draws) == pytest.approx(10.0, rel=0.02)
    assert len(set(draws)) > 3000


def test_the_same_again_gives_the_same_events_and_effects() -> None:
    def recorded() -> list[bytes]:
        log: list[bytes] = []

        def watch(now: float, event: Event, effects: Sequence[Effect]) -> None:
            line = ENCODER.encode([now, event, effects])
            assert EVENT_DECODER.decode(ENCODER.encode(event)) == event
            assert [EFFECT_DECODER.decode(ENCODER.encode(effect)) for effect in effects] == list(effects)
            log.append(line)

        simulate(
            bursty({"a": 0.1, "b": 0.05}, 1000.0, 3),
            models("a", "b"),
            FifoPolicy(),
            hooks=HookTimes.constant("ab", 10.0, noise=0.2),
            check=True,
            watch=watch,
        )
        return log

    first = recorded()
    assert len(first) > 300
    assert first == recorded()


class Says:
    """Stays, as it was told to."""

    name = "says"

    def __init__(self, stay: Callable[[float], Stay]) -> None:
        self.stay = stay

    def decide(self, view: View, now: float) -> Decision:
        return self.stay(now)


@pytest.mark.parametrize(
    "stay",
    [
        Stay,
        lambda now: Stay(now - 5),
        lambda now: Stay(float("nan")),
        lambda now: Stay("soon"),  # type: ignore[arg-type]  # it is wrong
        lambda now: Stay(math.nextafter(now, math.inf)),
        lambda now: sys.exit(3),
    ],
)
def test_a_policy_that_names_no_time_to_come_is_found_out_and_fifo_decides(stay: Callable[[float], Stay]) -> None:
    faults: list[PolicyFault] = []

    def watch(now: float, event: Event, effects: Sequence[Effect]) -> None:
        faults.extend(effect for effect in effects if isinstance(effect, PolicyFault))

    arrivals = [Arrival(1.0, "a", 1, 1), Arrival(30.0, "b", 1, 1), Arrival(60.0, "a", 1, 1)]
    result = simulate(
        arrivals, models("a", "b"), Says(stay), hooks=HookTimes.constant("ab", 1.0), check=True, watch=watch
    )
    assert None not in result.finished
    assert [fault.policy for fault in faults] == ["says"]  # told once, as it stays the same


def test_ctrl_c_is_not_the_policys() -> None:
    def interrupted(now: float) -> Stay:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate([Arrival(1.0, "a", 1, 1)], models("a"), Says(interrupted), hooks=HookTimes.constant("a", 1.0))
