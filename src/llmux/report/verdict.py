"""Which policy to use, and how sure that is. Pure and deterministic.

Candidates met the same requests, so they are compared request by request. Requests that come close together share
their fate; what is resampled is therefore not requests but units of many: whole scenarios where there are enough of
them, else blocks of consecutive requests. The intervals are percentiles of a paired bootstrap (Efron and Tibshirani
1993) over such units, of the ratio of two candidates' means.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from llmux.report.figures import Figures, figures
from llmux.sim import Result

_ENOUGH_SCENARIOS = 8
_BLOCKS = 20
_BLOCK_REQUESTS = 25  # at least, or blocks would not be independent enough of each other
_FEWEST_UNITS = 8
_RESAMPLES = 2000
_PAYS = 1.25  # a model whose mean wait grows by this factor pays for the others


@dataclass(frozen=True, slots=True)
class Comparison:
    """The best candidate against another: the ratio of their scores, and the interval that has it in 19 of 20 cases."""

    other: int
    ratio: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether chance is an unlikely explanation of the difference."""
        return self.high < 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to make of a study.

    Attributes:
        best: index of the candidate with the best score.
        score: ``mean wait``; where some candidate left requests unserved, ``late``: the share of requests that were
            not served within the limit. Less is better.
        comparisons: with every other candidate, the closest first.
        units: what was resampled, in words; None where there is too little to resample.
        text: the recommendation, a sentence per line.
    """

    best: int
    score: str
    comparisons: tuple[Comparison, ...]
    units: str | None
    text: tuple[str, ...]


class _Unit(NamedTuple):
    scores: list[float]  # summed over the unit's requests, per candidate
    requests: int


def verdict(
    results: Sequence[Sequence[Result]],
    labels: Sequence[str],
    *,
    limit: float,
    baseline: int | None = None,
    generated: bool = False,
) -> Verdict:
    """Compare candidates.

    Args:
        results: by candidate and scenario; the scenarios are the same for all.
        labels: what to call the candidates.
        limit: the longest wait, in seconds, that counts as good.
        baseline: the candidate in use today, which stays unless another is clearly better.
        generated: whether scenarios differ in their traffic, or only in the times that hooks take.
    """
    overall = [figures(row, limit) for row in results]
    score = "late" if any(one.unserved for one in overall) else "mean wait"
    units, kind = _units(results, score, limit, generated)
    totals = [sum(unit.scores[index] for unit in units) for index in range(len(results))]
    order = sorted(range(len(results)), key=lambda index: (totals[index], index != baseline, index))
    best = order[0]
    known = len(units) >= _FEWEST_UNITS
    comparisons = tuple(_compare(units, totals, best, other, known) for other in order[1:])
    text = _Words(results, labels, overall, score, limit, baseline).text(best, comparisons, kind if known else None)
    return Verdict(best, score, comparisons, kind if known else None, tuple(text))


def _units(results: Sequence[Sequence[Result]], score: str, limit: float, generated: bool) -> tuple[list[_Unit], str]:
    scenarios = len(results[0])
    whole = generated and scenarios >= _ENOUGH_SCENARIOS
    units: list[_Unit] = []
    for scenario in range(scenarios):
        runs = [row[scenario] for row in results]
        count = len(runs[0].arrived)
        blocks = 1 if whole else max(1, min(_BLOCKS, count // _BLOCK_REQUESTS))
        scores = [_scores(run, score, limit) for run in runs]
        edges = [count * block // blocks for block in range(blocks + 1)]
        units += [_Unit([sum(row[a:b]) for row in scores], b - a) for a, b in pairwise(edges)]
    if whole:
        return units, f"{len(units)} independent seeds"
    if scenarios > 1 and not generated:  # the same requests every time: their blocks say nothing new
        blocks = len(units) // scenarios
        merged = [units[block::blocks] for block in range(blocks)]
        units = [
            _Unit([sum(column) for column in zip(*(one.scores for one in group), strict=True)], group[0].requests)
            for group in merged
        ]
    return units, f"{len(units)} blocks of the traffic"


def _scores(run: Result, score: str, limit: float) -> list[float]:
    pairs = zip(run.arrived, run.started, strict=True)
    if score == "late":
        return [float(start is None or start - arrived > limit) for arrived, start in pairs]
    return [0.0 if start is None else start - arrived for arrived, start in pairs]


def _compare(units: Sequence[_Unit], totals: Sequence[float], best: int, other: int, known: bool) -> Comparison:
    ratio = _ratio(totals[best], totals[other])
    if not known:
        return Comparison(other, ratio, 0.0, float("inf"))
    rng = random.Random(0)  # noqa: S311  # resampling, not secrets
    pairs = [(unit.scores[best], unit.scores[other]) for unit in units]
    ratios = []
    for _ in range(_RESAMPLES):
        sample = rng.choices(pairs, k=len(pairs))
        ratios.append(_ratio(sum(a for a, _ in sample), sum(b for _, b in sample)))
    ratios.sort()
    return Comparison(other, ratio, ratios[round(0.025 * _RESAMPLES)], ratios[round(0.975 * _RESAMPLES) - 1])


def _ratio(one: float, other: float) -> float:
    return 1.0 if other == 0 else one / other


class _Words:
    def __init__(
        self,
        results: Sequence[Sequence[Result]],
        labels: Sequence[str],
        overall: Sequence[Figures],
        score: str,
        limit: float,
        baseline: int | None,
    ) -> None:
        self.results = results
        self.labels = labels
        self.overall = overall
        self.score = score
        self.limit = limit
        self.baseline = baseline

    def text(self, best: int, comparisons: Sequence[Comparison], units: str | None) -> list[str]:
        labels = self.labels
        if not comparisons:
            return [f"Only {labels[best]} was simulated, so there is nothing to choose between."]
        if self.overall[best].waits.count == 0:
            return ["No request was served under any policy."]
        unclear = [one for one in comparisons if not one.clear]
        lines: list[str] = []
        if self.score == "late":
            lines.append(
                "Some requests were never served, so the policies are compared by the share of requests that were not "
                f"served within {self.limit:g} s, not by the mean wait of the others."
            )
        if units is None:
            lines.append(
                f"{labels[best]} did best ({self._value(best)}), but there is too little traffic to say how sure that "
                "is: simulate more of it, or more seeds."
            )
        elif not unclear:
            first = comparisons[0]
            lines.append(f"Use {labels[best]}: {self._value(best)}, {self._less(first)} than {labels[first.other]}, "
                         f"the next best (from {units}).")  # fmt: skip
        elif self.baseline is not None and any(one.other == self.baseline for one in unclear):
            lines.append(
                f"No clear difference: keep {labels[self.baseline]} ({self._value(self.baseline)}). {labels[best]} did "
                f"best ({self._value(best)}), but that may be chance (from {units})."
            )
        else:
            others = _listed([labels[one.other] for one in unclear])
            lines.append(
                f"{labels[best]} did best ({self._value(best)}), but there is no clear difference from {others} (from "
                f"{units})."
            )
        chosen = best
        if units is not None and self.baseline is not None:
            against = next((one for one in comparisons if one.other == self.baseline), None)
            if against is None or not against.clear:
                chosen = self.baseline
            elif against is not comparisons[0] or unclear:
                lines.append(f"Against {labels[self.baseline]} ({self._value(self.baseline)}): {self._less(against)}.")
        lines += self._prices(chosen)
        return lines

    def _value(self, index: int) -> str:
        one = self.overall[index]
        if self.score == "late":
            return f"{1 - one.goodput:.1%} of the requests late or unserved"
        return f"mean wait {one.waits.mean:.3g} s"

    def _less(self, one: Comparison) -> str:
        return f"{1 - one.ratio:.0%} less (95% interval: {1 - one.high:.0%} to {1 - one.low:.0%})"

    def _prices(self, chosen: int) -> list[str]:
        """What the chosen one is worse at."""
        lines: list[str] = []
        mine = self.overall[chosen]
        most = max(range(len(self.overall)), key=lambda index: self.overall[index].goodput)
        if self.score == "mean wait" and self.overall[most].goodput > mine.goodput + 0.01:
            lines.append(
                f"{self.labels[most]} serves more requests within {self.limit:g} s: {self.overall[most].goodput:.0%} "
                f"against {mine.goodput:.0%}."
            )
        if self.baseline is not None and chosen != self.baseline:
            lines += self._payers(chosen, self.baseline)
        return lines

    def _payers(self, chosen: int, baseline: int) -> list[str]:
        models = self.results[chosen][0].models
        before = {model: figures(self.results[baseline], self.limit, model).waits.mean for model in models}
        after = {model: figures(self.results[chosen], self.limit, model).waits.mean for model in models}
        payers = [model for model in models if after[model] > _PAYS * before[model] > 0]
        if not payers:
            return []
        changes = _listed(
            [f"{model} (mean wait {before[model]:.3g} s before, {after[model]:.3g} s then)" for model in payers]
        )
        return [f"Not everybody gains: {changes}."]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
