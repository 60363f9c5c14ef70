"""How well policies schedule: mean wait, p95, goodput and switches on traces, against first come, first served.

    python bench/policies.py [--traces DIR] [--sets NAME,...] [--loads u20,...] [--policies NAME,...] [--most N]
                             [--jobs N] [--write docs]

Plays every trace in `DIR` (CSV: arrival_s, model, prompt_tokens, output_tokens; named SET-LOAD.csv), and a few seeded
ones made here, through the simulator: one device with room for one model, batches of 16, no drain deadline, and four
cost regimes: every switch 2, 10 or 40 s, and a different sleep and wake time for each model. A cell is a trace in a
regime. Figures are geometric means over cells of the ratio to the baseline's figure; `worst` is the largest ratio of
mean waits. With
`--write DIR` the tables go to DIR/policies-study.md, with a picture beside it, the online optimum for two models
(`optimum.py`) and the lower bound of `llmux.sim.bounds`. The break-even policy was tuned on the
sets of `TUNED_ON` and on no other.

For comparison only, not part of llmux: llmux 2.4.0's first-in-first-out, in which each queued request leaves a ticket
that may cause a switch long after it was served; llama-swap's rule, serve the awake model until it is idle, then the
oldest waiter's; and one queue for all models, as Ollama with one runner has it.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path
from typing import cast

import study
from rich.console import Console
from rich.progress import Progress

from llmux.core import CoreSettings, ModelSpec
from llmux.core.ledger import Model
from llmux.policy import (
    BreakEvenPolicy,
    Decision,
    DrainFirstPolicy,
    FifoPolicy,
    PriorityPolicy,
    RoundRobinPolicy,
    Stay,
    SwitchPolicy,
    SwitchTo,
    View,
)
from llmux.sim import (
    Arrival,
    BackendModel,
    HookTimes,
    bursty,
    daily,
    parse_trace,
    poisson,
    simulate,
    zipf_rates,
)
from llmux.sim.bounds import lower_bound
from llmux.sim.results import Waits

TRACES = Path(__file__).parents[2] / "shared" / "traces"
TUNED_ON = ("az2", "arena5", "synsym2")
REGIMES = ("2", "10", "40", "asymmetric")
LIMIT = 60.0  # longest wait, in seconds, that counts as goodput
BACKEND = BackendModel()
FOREVER = 1e9
_MOST_FOR_A_BOUND = 1300  # requests: the bound takes seconds for each trace


@dataclass(frozen=True, slots=True)
class Figures:
    """One policy in one cell. Waits in seconds, to the start of service."""

    mean: float
    p95: float
    goodput: float
    switches: int
    unfinished: int


@dataclass(frozen=True, slots=True)
class Trace:
    group: str
    load: str
    arrivals: list[Arrival]
    models: list[str]


# --- the rules of others ------------------------------------------------------------------------------------------


class TicketFifo:
    """First in, first out as llmux 2.4.0 has it."""

    name = "fifo of 2.4.0"

    def __init__(self) -> None:
        self._tickets: deque[str] = deque()
        self._seen: dict[str, int] = {}

    def decide(self, view: View, now: float) -> Decision:
        fresh: list[tuple[int, str]] = []
        for seen in view.models():
            model = cast(Model, seen)  # request ids are not for policies, so the core's own books are read here
            newest = max(model.waiters, default=-1)
            if newest > self._seen.get(model.name, -1):
                if not (model.switch is not None and model.switch.target is model):
                    fresh += [(r, model.name) for r in model.waiters if r > self._seen.get(model.name, -1)]
                self._seen[model.name] = newest
        self._tickets += [name for _, name in sorted(fresh)]
        while self._tickets:
            model = cast(Model, view.model(self._tickets.popleft()))
            if model.waiters and model.awake_since is None and model.switch is None:
                return SwitchTo(model.name)
        return Stay()


def one_queue(trace: Trace, hooks: HookTimes) -> Figures:
    """One queue for all models: the first in it is served, or switched to, before the second is looked at."""
    source = hooks.source()
    awake: str | None = None
    running: list[float] = []
    now, switches = 0.0, 0
    waits: list[float] = []
    for arrival in trace.arrivals:
        now = max(now, arrival.at)
        if arrival.model != awake:
            now = max([now, *running])
            running.clear()
            now += source.sleep(awake, arrival.model) if awake is not None else 0.0
            now += source.wake(arrival.model, awake)
            awake = arrival.model
            switches += 1
        while running and running[0] <= now:
            heappop(running)
        if len(running) >= BACKEND.batch:
            now = heappop(running)
        heappush(running, now + BACKEND.alone(arrival.prompt_tokens, arrival.output_tokens))
        waits.append(now - arrival.at)
    return _figures(waits, len(trace.arrivals), switches, 0)


# --- cells --------------------------------------------------------------------------------------------------------


def regime_times(regime: str, models: Sequence[str]) -> HookTimes:
    if regime != "asymmetric":
        return HookTimes.constant(models, float(regime))
    sleeps, wakes = (1.0, 3.0, 0.5, 6.0), (4.0, 30.0, 10.0, 18.0)
    return HookTimes(
        sleeps={model: sleeps[place % 4] for place, model in enumerate(models)},
        wakes={model: wakes[place % 4] for place, model in enumerate(models)},
    )


def settings_for(models: Sequence[str]) -> CoreSettings:
    return CoreSettings(
        models=tuple(ModelSpec(model, wake_timeout=None, sleep_timeout=None, drain_timeout=None) for model in models),
        alive_interval=0,
        max_queue=sys.maxsize,
    )


def _figures(waits: list[float], requests: int, switches: int, unfinished: int) -> Figures:
    summary = Waits.of(waits)
    good = sum(wait <= LIMIT for wait in waits)
    return Figures(summary.mean, summary.p95, max(good, 1) / requests, max(switches, 1), unfinished)


def play(trace: Trace, regime: str, make: Callable[[], SwitchPolicy] | None) -> Figures:
    """One cell; `make` is None for the rule of one queue."""
    hooks = regime_times(regime, trace.models)
    if make is None:
        return one_queue(trace, hooks)
    result = simulate(trace.arrivals, settings_for(trace.models), make(), hooks=hooks, backends=BACKEND)
    unfinished = sum(end is None for end in result.finished)
    return _figures(result.waits(), len(trace.arrivals), result.switches, unfinished)


RULES: Mapping[str, Callable[[], SwitchPolicy] | None] = {
    "fifo": FifoPolicy,
    "break-even": BreakEvenPolicy,
    "round-robin": RoundRobinPolicy,
    "drain-first": DrainFirstPolicy,
    "priority": PriorityPolicy,
    "fifo-2.4": TicketFifo,
    "llama-swap": lambda: DrainFirstPolicy(max_wait_secs=FOREVER),
    "one-queue": None,
}


def made_here() -> Iterator[Trace]:
    """Seeded traffic that no policy was tuned on. A request takes about 5.3 s, so `load` is this share of the batch."""
    for load in (0.02, 0.2, 0.5):
        rate = load * BACKEND.batch / 5.25
        seconds = min(14_400.0, 4000 / rate)
        names = [f"m{place}" for place in range(8)]
        kinds = {
            "zipf8": poisson(zipf_rates(names, rate), seconds, 1),
            "bursty3": bursty(zipf_rates(names[:3], rate), seconds, 2),
            "daily4": daily(zipf_rates(names[:4], rate, 0.5), seconds, 3, day=seconds),
        }
        for kind, arrivals in kinds.items():
            yield Trace(kind, f"u{round(load * 100):02d}", arrivals, _models(arrivals))


def read(folder: Path) -> Iterator[Trace]:
    for path in sorted(folder.glob("*.csv")):
        group, _, load = path.stem.partition("-")
        with path.open(encoding="utf-8", newline="") as lines:
            arrivals = parse_trace(lines)
        yield Trace(group, load, arrivals, _models(arrivals))


def _models(arrivals: Sequence[Arrival]) -> list[str]:
    return list(dict.fromkeys(arrival.model for arrival in arrivals))


# --- tables -------------------------------------------------------------------------------------------------------

Cells = dict[tuple[str, str, str], dict[str, Figures]]  # (group, load, regime) -> rule -> figures


def geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(math.fsum(math.log(ratio) for ratio in ratios) / len(ratios))


def ratio(value: float, base: float) -> float:
    """A ratio that is 1 where both waits are next to nothing (1 ms)."""
    return max(value, 1e-3) / max(base, 1e-3)


def table(title: str, cells: Cells, rules: Sequence[str], baseline: str) -> str:
    lines = [
        f"### {title}: {len(cells)} cells, {baseline} = 1",
        "",
        "| policy | mean wait | p95 | goodput | switches | worst mean | unfinished | mean wait by load |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rule in rules:
        pairs = [(key, cell[rule], cell[baseline]) for key, cell in cells.items()]
        means = {key: ratio(mine.mean, base.mean) for key, mine, base in pairs}
        worst = max(means, key=lambda key: means[key])
        loads: dict[str, list[float]] = {}
        for (_, load, _), value in means.items():
            loads.setdefault(load, []).append(value)
        lines.append(
            f"| {rule} | {geometric_mean(list(means.values())):.2f} "
            f"| {geometric_mean([ratio(mine.p95, base.p95) for _, mine, base in pairs]):.2f} "
            f"| {geometric_mean([mine.goodput / base.goodput for _, mine, base in pairs]):.2f} "
            f"| {geometric_mean([mine.switches / base.switches for _, mine, base in pairs]):.2f} "
            f"| {means[worst]:.2f} ({'-'.join(worst[:2])}, {worst[2]}) "
            f"| {sum(mine.unfinished for _, mine, _ in pairs)} "
            f"| {', '.join(f'{load} {geometric_mean(values):.2f}' for load, values in sorted(loads.items()))} |"
        )
    return "\n".join([*lines, ""])


def run(traces: Sequence[Trace], rules: Sequence[str], jobs: int) -> Cells:
    """All cells, on `jobs` processes, with a progress bar on stderr."""
    cells: Cells = {(trace.group, trace.load, regime): {} for trace in traces for regime in REGIMES}
    tasks = [(trace, rule) for trace in traces for rule in rules]
    with ProcessPoolExecutor(jobs) as pool, Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("traces x policies", total=len(tasks))
        for (trace, rule), figures in zip(tasks, pool.map(_all_regimes, tasks), strict=True):
            for regime, one in zip(REGIMES, figures, strict=True):
                cells[trace.group, trace.load, regime][rule] = one
            progress.advance(bar)
    return cells


def _all_regimes(task: tuple[Trace, str]) -> list[Figures]:
    trace, rule = task
    return [play(trace, regime, RULES[rule]) for regime in REGIMES]


def bounds(traces: Sequence[Trace], cells: Cells, rules: Sequence[str]) -> str:
    """Mean waits as multiples of what no policy can go below, at switches of 10 s."""
    lines = ["| trace | no policy below | " + " | ".join(rules) + " |", "|---|---|" + "---|" * len(rules)]
    for trace in traces:
        bound = lower_bound(trace.arrivals, settings_for(trace.models), regime_times("10", trace.models), BACKEND)
        if bound:
            row = [f"{cells[trace.group, trace.load, '10'][rule].mean / bound:.2f}" for rule in rules]
            lines.append(f"| {trace.group}-{trace.load} | {bound:.2f} s | {' | '.join(row)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description="Policies on traces, against first come, first served.")
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.add_argument("--sets", default="", help="only these sets, by name, separated by commas")
    parser.add_argument("--loads", default="", help="only these loads")
    parser.add_argument("--policies", default=",".join(RULES), help=f"of {', '.join(RULES)}")
    parser.add_argument("--baseline", default="fifo,fifo-2.4", help="compare with these")
    parser.add_argument("--most", type=int, default=sys.maxsize, help="only so many requests of each trace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--write", type=Path, help="write the study with its pictures into this folder")
    arguments = parser.parse_args()
    rules, baselines = arguments.policies.split(","), arguments.baseline.split(",")
    sets, loads = (set(filter(None, text.split(","))) for text in (arguments.sets, arguments.loads))
    traces = list(made_here())
    notes: list[str] = []
    if arguments.traces.is_dir():
        traces += read(arguments.traces)
    else:
        notes.append(f"Left out: the recorded traces, since there is no folder {arguments.traces}.")
    made = {trace.group for trace in made_here()}
    traces = [
        replace(trace, arrivals=trace.arrivals[: arguments.most])
        for trace in traces
        if not (sets and trace.group not in sets) and not (loads and trace.load not in loads)
    ]
    traces = [replace(trace, models=_models(trace.arrivals)) for trace in traces]
    if arguments.most < sys.maxsize:
        notes.append(f"Only the first {arguments.most:,} requests of each trace were played.")
    began = time.perf_counter()
    wanted = list(dict.fromkeys([*rules, *baselines]))
    cells = run(traces, wanted, arguments.jobs)
    requests = sum(len(trace.arrivals) for trace in traces) * len(REGIMES) * len(wanted)
    groups = {
        "Tuned on": [key for key in cells if key[0] in TUNED_ON],
        "Other traces, not tuned on": [key for key in cells if key[0] not in TUNED_ON and key[0] not in made],
        "Made here, not tuned on": [key for key in cells if key[0] in made],
        "All recorded traces": [key for key in cells if key[0] not in made],
    }
    tables = [
        table(title, {key: cells[key] for key in keys}, rules, baseline)
        for baseline in baselines
        for title, keys in groups.items()
        if keys
    ]
    seconds = time.perf_counter() - began
    notes.append(f"{requests:,} requests simulated in {seconds:.0f} s on {arguments.jobs} processes.")
    print("\n".join([*tables, *notes]))
    if arguments.write is not None:
        short = [trace for trace in traces if trace.load in ("u02", "u20") and len(trace.arrivals) <= _MOST_FOR_A_BOUND]
        online = study.against_optimum(arguments.jobs)
        recorded = {key: cell for key, cell in cells.items() if key[0] not in made} or cells
        text = study.page(
            f"python bench/policies.py {shlex.join(sys.argv[1:])}",
            TUNED_ON,
            notes,
            [*_goals(recorded, cells), *study.online_goals(online)]
            if {"break-even", "fifo-2.4"} <= set(wanted)
            else [],
            tables,
            _MOST_FOR_A_BOUND,
            bounds(short, cells, rules),
            online,
            study.weighed(arguments.jobs) if online else "",
        )
        (arguments.write / "policies-study.md").write_text(text, encoding="utf-8")
        by_load = {rule: _by_load(recorded, rule, "fifo-2.4") for rule in wanted if rule not in study.NOT_DRAWN}
        study.draw(by_load, arguments.write / "policies-by-load.svg")


def _goals(recorded: Cells, cells: Cells) -> list[study.Goal]:
    pairs = {key: (cell["break-even"], cell["fifo-2.4"]) for key, cell in cells.items()}
    means = {key: ratio(ours.mean, base.mean) for key, (ours, base) in pairs.items()}
    of_all = [pairs[key] for key in recorded]
    others = [mean for key, mean in means.items() if key[0] not in TUNED_ON]
    light = [means[key] for key in recorded if key[1] in ("u005", "u02")]
    goals = [
        study.Goal("recorded traces, fifo-2.4 = 1: mean wait", 0.65, geometric_mean([means[key] for key in recorded])),
        study.Goal("p95", 0.65, geometric_mean([ratio(ours.p95, base.p95) for ours, base in of_all])),
        study.Goal(
            "goodput", 1.3, geometric_mean([ours.goodput / base.goodput for ours, base in of_all]), at_least=True
        ),
        study.Goal("the worst cell's mean wait", 1.1, max(means[key] for key in recorded)),
    ]
    if light:
        goals.append(study.Goal("the worst cell's mean wait at light load (u005, u02)", 1.02, max(light)))
    if others:
        goals.append(study.Goal("traces that it was not tuned on: mean wait", 0.72, geometric_mean(others)))
    return goals


def _by_load(cells: Cells, rule: str, baseline: str) -> dict[str, float]:
    loads: dict[str, list[float]] = {}
    for (_, load, _), cell in cells.items():
        if not load.startswith("u"):
            continue  # a trace of no stated load
        loads.setdefault(load, []).append(ratio(cell[rule].mean, cell[baseline].mean))
    return {load: geometric_mean(values) for load, values in sorted(loads.items())}


if __name__ == "__main__":
    main()
