from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import pytest

from llmux.sim import Arrival, TraceError, bursty, daily, parse_trace, poisson, zipf_rates


def test_a_trace_comes_back_in_the_order_of_time() -> None:
    lines = ["arrival_s,model,prompt_tokens,output_tokens", "2.5,b,10,20", "", "0.5,a,1,2"]
    assert parse_trace(lines) == [Arrival(0.5, "a", 1, 2), Arrival(2.5, "b", 10, 20)]


def test_columns_are_found_by_name() -> None:
    assert parse_trace(["user,output_tokens,model,arrival_s,prompt_tokens", "u,2,a,0,1"]) == [Arrival(0.0, "a", 1, 2)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: the header lacks arrival_s, model, prompt_tokens, output_tokens"),
        (["arrival_s,model"], "line 1: the header lacks prompt_tokens, output_tokens"),
        (["arrival_s,model,prompt_tokens,output_tokens", "soon,a,1,2"], "line 2: .*soon"),
        (["arrival_s,model,prompt_tokens,output_tokens", "1,a"], "line 2"),
        (["arrival_s,model,prompt_tokens,output_tokens", "1,a,1,2", "nan,a,1,2"], "line 3: .*negative or infinite"),
        (["arrival_s,model,prompt_tokens,output_tokens", "-1,a,1,2"], "line 2: .*negative or infinite"),
    ],
)
def test_what_is_wrong_with_a_trace(lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse_trace(lines)


def test_zipf() -> None:
    assert zipf_rates(["a", "b", "c"], 11.0) == pytest.approx({"a": 6.0, "b": 3.0, "c": 2.0})


@pytest.mark.parametrize("make", [poisson, bursty, functools.partial(daily, day=1000.0)])
def test_generated_traffic_is_seeded_and_has_the_rates_asked_for(make: Callable[..., list[Arrival]]) -> None:
    rates = {"a": 1.0, "b": 0.25, "c": 0.0}
    first, again, other = (make(rates, 20_000.0, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [arrival.at for arrival in first] == sorted(arrival.at for arrival in first)
    assert len([arrival for arrival in first if arrival.model == "a"]) == pytest.approx(20_000, rel=0.1)
    assert len([arrival for arrival in first if arrival.model == "b"]) == pytest.approx(5_000, rel=0.1)
    assert {arrival.model for arrival in first} == {"a", "b"}
    assert math.fsum(arrival.output_tokens for arrival in first) / len(first) == pytest.approx(200, rel=0.05)


def test_bursty_traffic_comes_in_bursts() -> None:
    def variation(arrivals: list[Arrival]) -> float:
        gaps = [b.at - a.at for a, b in itertools.pairwise(arrivals)]
        mean = math.fsum(gaps) / len(gaps)
        return math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean

    assert variation(poisson({"a": 1.0}, 20_000.0, 1)) == pytest.approx(1.0, rel=0.1)
    assert variation(bursty({"a": 1.0}, 20_000.0, 1, cv=3.0)) == pytest.approx(3.0, rel=0.1)


def test_daily_traffic_has_a_peak_and_a_trough() -> None:
    arrivals = daily({"a": 1.0}, 10_000.0, 1, day=10_000.0, swing=0.8)
    first_half = sum(arrival.at < 5_000.0 for arrival in arrivals)
    assert first_half / len(arrivals) == pytest.approx(0.5 + 0.8 / math.pi, abs=0.03)
