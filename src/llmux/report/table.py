"""The figures of a study as one table, and as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

from llmux.report.figures import Figures, figures
from llmux.report.study import Outcome, Study
from llmux.report.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate. `bound` is the lower bound on its mean wait in seconds, `ratio` how many times that it took; None
    where there is no bound, or where it left requests unserved, so that the bound does not hold for it."""

    label: str
    all: Figures
    models: dict[str, Figures]
    bound: float | None
    ratio: float | None
    faults: Sequence[str]
    starved: Sequence[str]


def rows(study: Study, outcome: Outcome, limit: float) -> list[Row]:
    """The figures of each candidate of a study; `limit` is the longest wait, in seconds, that counts as good."""
    bound = _bound(study, outcome)
    made = []
    for candidate, runs in zip(study.candidates, outcome.runs, strict=True):
        results = [run.result for run in runs]
        whole = figures(results, limit)
        ratio = None
        if bound is not None and bound > 0 and whole.unserved == 0:
            ratio = whole.waits.mean / bound
        models = {spec.name: figures(results, limit, spec.name) for spec in candidate.settings.models}
        faults = [fault for run in runs for fault in run.faults]
        starved = [one for run in runs for one in run.starved]
        made.append(Row(candidate.label, whole, models, bound, ratio, faults, starved))
    return made


def _bound(study: Study, outcome: Outcome) -> float | None:
    """The bound on the mean over all scenarios."""
    total, requests = 0.0, 0
    for scenario, bound in zip(study.scenarios, outcome.bounds, strict=True):
        if bound is None:
            return None
        total += bound * len(scenario.arrivals)
        requests += len(scenario.arrivals)
    return total / requests if requests else None


def is_rough(study: Study) -> bool:
    """Whether the bound is only about one: it takes hooks for constant, and they are not."""
    return any(scenario.hooks.noise > 0 for scenario in study.scenarios)


def _roughly(study: Study) -> str:
    return " where hooks always take their mean time; here, where they do not, about that" if is_rough(study) else ""


def as_table(study: Study, rows: Sequence[Row], *, limit: float, baseline: int | None, title: str) -> Table:
    """One table: a line per candidate and, below it, one per model."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("policy", no_wrap=True)
    heads = ["requests", "sw/1000", "switch", "drain", "serve", "idle", "mean", "p50", "p95", "p99", "max"]
    heads += [f"≤{limit:g} s", "unfin.", "/bound"]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        mark = " *" if index == baseline else ""
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else "-"
        table.add_row(f"{row.label}{mark}", *_cells(row.all), ratio, style="bold")
        several = len(row.models) > 1
        for position, (model, one) in enumerate(row.models.items() if several else ()):
            table.add_row(f"  {model}", *_cells(one), "", end_section=position == len(row.models) - 1)
    return table


def _cells(one: Figures) -> list[str]:
    switches = "" if one.switches_per_1000 is None else f"{one.switches_per_1000:.1f}"
    shares = one.shares
    parts = [""] * 4
    if shares is not None:
        parts = [f"{share:.1%}" for share in (shares.switching, shares.draining, shares.serving, shares.idle)]
    waits = one.waits
    seconds = [_seconds(value) for value in (waits.mean, waits.p50, waits.p95, waits.p99, waits.longest)]
    if waits.count == 0:
        seconds = ["-"] * 5
    good = f"{one.goodput:.1%}" if one.requests else "-"
    return [f"{one.requests:,}", switches, *parts, *seconds, good, f"{one.unfinished:,}"]


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def notes(study: Study, outcome: Outcome, rows: Sequence[Row], *, limit: float, baseline: int | None) -> list[str]:
    """What a reader must know about the table."""
    lines = [
        "Waits are in seconds, from arrival to the start of service. switch, drain, serve, idle: shares of the time. "
        f"≤{limit:g} s: goodput, the share of requests served after no more. unfin.: refused or cut off."
    ]
    if baseline is not None:
        lines.append("* in use today, or the default where no configuration says.")
    bound = rows[0].bound
    if bound is not None:
        lines.append(f"/bound: how many times {bound:.3g} s, a mean wait that no policy can go below{_roughly(study)}.")
    elif study.bound:
        lines.append("There is no lower bound where hooks run into their timeouts.")
    for row in rows:
        if row.faults:
            first = row.faults[0]
            lines.append(f"{row.label} failed, and fifo decided instead, for the first time {first}")
        if row.starved:
            lines.append(f"{row.label} kept somebody waiting for no reason that llmux knows of: {row.starved[0]}.")
    return lines


def as_data(
    study: Study, rows: Sequence[Row], verdict: Verdict, *, limit: float, baseline: int | None
) -> dict[str, Any]:
    """Everything that is known, for programs. Seconds, and shares of 1."""
    policies = []
    for candidate, row in zip(study.candidates, rows, strict=True):
        settings = candidate.settings
        policies.append(
            {
                "label": row.label,
                "policy": candidate.policy,
                "options": dict(candidate.options),
                "min_active_secs": settings.min_active,
                "request_timeout_secs": settings.request_timeout,
                "drain_before_switch": settings.drain_before_switch,
                **asdict(row.all),
                "ratio_to_bound": row.ratio,
                "faults": list(row.faults),
                "starved": list(row.starved),
                "models": {
                    model: {key: value for key, value in asdict(one).items() if value is not None}
                    for model, one in row.models.items()
                },
            }
        )
    return {
        "seeds": [scenario.seed for scenario in study.scenarios],
        "limit_secs": limit,
        "mean_wait_bound_secs": rows[0].bound,
        "bound_is_approximate": is_rough(study),
        "policies": policies,
        "recommendation": {
            "best": rows[verdict.best].label,
            "in_use": None if baseline is None else rows[baseline].label,
            "score": verdict.score,
            "sure_by": verdict.units,
            "against": [
                {
                    "label": rows[one.other].label,
                    "ratio": one.ratio,
                    "interval": [one.low, one.high] if verdict.units is not None else None,
                }
                for one in verdict.comparisons
            ],
            "text": list(verdict.text),
        },
    }
