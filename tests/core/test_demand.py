from __future__ import annotations

import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.core.demand import WINDOW, ArrivalRate
from tests.core.harness import Play


def test_the_rate_of_steady_arrivals() -> None:
    rate = ArrivalRate()
    assert rate.per_second(5.0) == 0.0
    for second in range(1000):
        rate.record(10.0 + second * 2)
        if second > 15:
            assert rate.per_second(10.0 + second * 2) == pytest.approx(0.5, rel=0.1)
    assert rate.per_second(10.0 + 2000 + WINDOW / 2) == pytest.approx(0.25, rel=0.2)
    assert rate.per_second(10.0 + 2000 + 2 * WINDOW) == 0.0


def test_one_request_is_not_yet_a_flood() -> None:
    rate = ArrivalRate()
    rate.record(0.0)
    assert rate.per_second(0.0) <= 1 / 20


def test_what_a_policy_sees_of_a_model() -> None:
    play = Play(CoreSettings(models=(ModelSpec("a"), ModelSpec("b"))))
    model = play.core.planner.model("a")
    assert play.core.planner.model("a").service_time is None
    first = play.arrive("a")
    play.advance(3.0)
    second = play.arrive("a")
    play.advance(2.0)
    assert model.accumulated_wait(play.now) == 5.0 + 2.0
    play.leave(first)
    assert model.accumulated_wait(play.now) == 2.0
    play.wake("a")
    assert model.accumulated_wait(play.now) == 0.0
    assert model.arrival_rate(play.now) > 0
    play.advance(4.0)
    play.finish(second)
    assert model.service_time == 4.0
    third = play.arrive("a")
    play.advance(14.0)
    play.finish(third)
    assert model.service_time == pytest.approx(4.5)
    assert play.core.planner.drain_time("a") is None
    play.arrive("b")
    assert play.core.planner.drain_time("a") == 0.0
