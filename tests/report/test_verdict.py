"""The recommendation: sure where there is reason to be, and not otherwise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import astuple

import pytest

from llmux.report import figures, verdict
from llmux.sim import Result, Shares


def result(waits: Sequence[float | None], models: Sequence[str] = ("m",)) -> Result:
    """Requests a second apart, for the models in turn."""
    count = len(waits)
    started = [None if wait is None else at + wait for at, wait in enumerate(waits)]
    return Result(
        models=tuple(models),
        model_of=[models[index % len(models)] for index in range(count)],
        arrived=[float(at) for at in range(count)],
        granted=list(started),
        started=started,
        finished=[None if start is None else start + 1 for start in started],
        switches=count // 10,
        shares=Shares(0.1, 0.2, 0.3, 0.4),
        seconds=float(count),
    )


def noisy(mean: float, seed: int, count: int = 1000) -> list[float | None]:
    rng = random.Random(seed)  # noqa: S311  # figures, not secrets
    return [rng.expovariate(1 / mean) for _ in range(count)]


def test_a_clear_winner_is_recommended_with_its_margin() -> None:
    said = verdict([[result(noisy(20, 1))], [result(noisy(10, 2))]], ["old", "new"], limit=60, baseline=0)
    assert said.best == 1
    (against,) = said.comparisons
    assert against.clear
    assert against.low < 0.5 < against.high
    assert said.text[0].startswith("Use new: mean wait ")
    assert "less (95% interval: " in said.text[0]
    assert "20 blocks" in said.text[0]


def test_the_one_in_use_stays_where_chance_would_do() -> None:
    said = verdict([[result(noisy(10, 1))], [result(noisy(10, 2))]], ["old", "new"], limit=60, baseline=0)
    assert not said.comparisons[0].clear
    other = "new" if said.best == 1 else "old"
    assert said.text[0].startswith("No clear difference: keep old" if other == "new" else "old did best")


def test_of_equals_the_one_in_use_is_best() -> None:
    same = result(noisy(10, 1))
    said = verdict([[same], [same], [same]], ["x", "y", "z"], limit=60, baseline=1)
    assert said.best == 1
    assert "no clear difference from x and z" in said.text[0]


def test_chance_is_not_ruled_out_too_often() -> None:
    """Two alike differ "clearly" in 1 of 40 studies, as one is called the best: allow for as many as 1 of 10."""
    clear = 0
    for seed in range(60):
        said = verdict([[result(noisy(10, seed, 500))], [result(noisy(10, seed + 1000, 500))]], ["x", "y"], limit=60)
        clear += said.comparisons[0].clear
    assert clear <= 9


def test_too_little_traffic_says_so() -> None:
    said = verdict([[result([1.0] * 40)], [result([2.0] * 40)]], ["x", "y"], limit=60)
    assert said.units is None
    assert not said.comparisons[0].clear
    assert "too little traffic to say how sure" in said.text[0]


def test_seeds_are_the_units_where_there_are_enough() -> None:
    x = [result(noisy(10, seed, 50)) for seed in range(10)]
    y = [result(noisy(30, seed + 50, 50)) for seed in range(10)]
    assert verdict([x, y], ["x", "y"], limit=60, generated=True).units == "10 independent seeds"
    # The same requests with other noise are not more requests.
    assert verdict([x, y], ["x", "y"], limit=60, generated=False).units is None
    assert verdict([x[:3], y[:3]], ["x", "y"], limit=60, generated=True).units is None  # six blocks


def test_who_leaves_requests_unserved_does_not_win_by_it() -> None:
    quick_or_never: list[float | None] = [1.0, None] * 500
    said = verdict([[result(quick_or_never)], [result([10.0] * 1000)]], ["x", "y"], limit=60)
    assert said.best == 1
    assert said.score == "late"
    assert said.text[0].startswith("Some requests were never served")
    assert said.text[1].startswith("Use y: 0.0% of the requests late or unserved, 100% less ")


def test_it_says_who_pays() -> None:
    old = [20.0, 20.0] * 500
    new = [2.0, 30.0] * 500
    said = verdict([[result(old, "ab")], [result(new, "ab")]], ["old", "new"], limit=25, baseline=0)
    assert said.text[0].startswith("Use new")
    assert "old serves more requests within 25 s: 100% against 50%." in said.text
    assert "Not everybody gains: b (mean wait 20 s before, 30 s then)." in said.text


def test_one_alone_is_not_compared() -> None:
    said = verdict([[result([1.0] * 400)]], ["x"], limit=60)
    assert said.text == ("Only x was simulated, so there is nothing to choose between.",)


def test_nothing_served() -> None:
    said = verdict([[result([None] * 400)], [result([None] * 400)]], ["x", "y"], limit=60)
    assert said.text == ("No request was served under any policy.",)


def test_figures_of_several_runs() -> None:
    one = figures([result([1.0, None, 70.0, 3.0], "ab"), result([5.0] * 10, "ab")], limit=60)
    assert (one.requests, one.unserved, one.unfinished) == (14, 1, 1)
    assert one.goodput == pytest.approx(12 / 14)
    assert one.switches_per_1000 == pytest.approx(1000 / 14)
    assert one.shares is not None
    assert astuple(one.shares) == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert one.waits.longest == 70
    b = figures([result([1.0, None, 70.0, 3.0], "ab")], limit=60, model="b")
    assert (b.requests, b.unserved, b.goodput, b.shares, b.switches_per_1000) == (2, 1, 0.5, None, None)
