"""Several awake models on several devices: who has to go, and when. Against an LRU swap with the same budgets.

    python bench/devices.py [--traces DIR] [--sets NAME,...] [--loads u20,...] [--cases SET-LOAD,...] [--rules NAME,...]
                            [--jobs 2] [--write docs]

Plays traces (CSV: arrival_s, model, prompt_tokens, output_tokens; named SET-LOAD.csv) and seeded traffic made here,
Zipf and bursty, through the simulator, on two or three devices. Models have sizes from 2 to 26 GiB, one needs two
devices at a time, and wakes take time in proportion to size, or are drawn independently of it (`mixed`). A budget is
the devices' memory as a share of what all models together need. A cell is a trace with costs and a budget. Every rule
plays the same cells. Figures are geometric means over cells of the ratio to the first rule's figure.

The rules, all on the same core:

- LRU swap: wake whoever waits longest as soon as somebody waits, in the place of the least recently used. That is what
  Ollama does, and `fifo` of llmux did.
- fifo, break-even, ...: the built-in policies with the victims that the core gives them (`llmux.core.worth`).
- ... LRU victims: the same policy, and least recently used victims: what the choice of victims is worth by itself.
- ... clairvoyant victims: the same policy, and victims chosen with all arrivals known: whose next request is the
  longest away (Belady 1966), or whose wake is the cheapest per second until then. What a better choice could gain.

With `--write DIR` the tables go to DIR/devices-study.md, with a picture beside it.

What was tuned, was tuned on the sets of `TUNED_ON` and on no other.
"""

from __future__ import annotations

import argparse
import math
import random
import shlex
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import study

from llmux.core import CoreSettings, ModelSpec
from llmux.core.ledger import Ledger, Model
from llmux.core.planning import Planner
from llmux.core.worth import Worth
from llmux.policy import (
    BreakEvenPolicy,
    Decision,
    DrainFirstPolicy,
    FifoPolicy,
    PriorityPolicy,
    RoundRobinPolicy,
    Stakes,
    SwitchPolicy,
    View,
)
from llmux.sim import Arrival, BackendModel, HookTimes, bursty, parse_trace, simulate, zipf_rates
from llmux.sim.generators import poisson
from llmux.sim.results import Waits

TRACES = Path(__file__).parents[2] / "shared" / "traces"
TUNED_ON = ("arena5", "bursty8")
BUDGETS = (0.35, 0.5, 0.7)
COSTS = ("by size", "mixed")
GIB = 1 << 30
LIMIT = 60.0  # longest wait, in seconds, that counts as goodput
BACKEND = BackendModel()
#: GiB, dealt to the models of a set in an order that its name decides.
SIZES = (8, 14, 5, 20, 10, 3, 16, 7, 26, 12, 4, 18, 6, 9, 2, 22)

_HEAD = """# Several awake models: victims against an LRU swap

Made by `{command}`; what is said about the figures is written by hand.

How long requests wait on two or three devices with room for 35, 50 or 70 % of the models' memory, compared with an LRU
swap on the same machine: whoever waits longest is woken at once, in the place of the least recently used. Figures are
geometric means over cells of the ratio to the LRU swap's figure; a cell is a trace, a budget, and wakes in proportion
to size or independent of it (`mixed`). Goodput counts requests that wait no more than 60 s. u02 and u20 are loads, in
percent of what one batch could serve. *Clairvoyant victims* are no policy that could be had: they are chosen with all
arrivals known. [policies.md](policies.md#several-awake-models) has the rules.

The traces: {traces}.

![Mean wait by rule, LRU swap = 1](devices-by-load.svg)

{said}

"""
_SAID = """\
`break-even` is at 0.80 of the LRU swap's mean wait on what it was not tuned on, and at 0.71 on the rest: 0.8 was aimed
at, and is just reached. With the least recently used as its victims it is at 0.91 and 0.77, so that is what the choice
of victims is worth. By load the picture is uneven: 0.65 and 0.49 at u20, and 0.83 and 0.86 at u02, short of 0.8. At
u02 most requests meet a model that has been asleep for long, whoever the victims were: even those chosen with all
arrivals known, the ones whose next request is the longest away, leave it at 0.76 and 0.85. So on the traces that it
was tuned on next to nothing is left to gain there by victims, and 0.8 is out of reach by them; on the others it gets
about two thirds of what such victims would get. That is no proof that nobody could do better: with sizes, several
devices and wakes that differ, to find the best victims is hard even for one who knows all that comes.

The worst cells are those with the most room, with wakes in proportion to size. The longest wait grows with load,
within the bound, as it does on one device: few wait longer so that many wait less. Higher loads, and the recorded
traces that are not named above, are not in these tables."""


@dataclass(frozen=True, slots=True)
class Trace:
    group: str
    load: str
    arrivals: list[Arrival]

    @property
    def models(self) -> list[str]:
        return sorted({arrival.model for arrival in self.arrivals})


@dataclass(frozen=True, slots=True)
class Figures:
    """One rule in one cell. Waits in seconds, to the start of service."""

    mean: float
    p95: float
    longest: float
    goodput: float
    switches: int
    unfinished: int


# --- LRU, for comparison ------------------------------------------------------------------------------------------


class LeastRecentlyUsed(Worth):
    """Credits that put the least recently used first, whatever it is: each more than all before it together."""

    def credit(self, model: Model, now: float) -> float:
        held = self._ledger.holding.values()
        earlier = sum((other.last_used, other.order) < (model.last_used, model.order) for other in held)
        return 1e9 * 2.0**earlier

    def charge(self, victims: Iterable[Model], now: float) -> None:
        pass

    def stakes(self, target: Model, victims: Iterable[Model], now: float) -> Stakes:
        return Stakes(0.0, 0.0)


class WithLru:
    """A policy whose victims are the least recently used, and which gives nobody up as too costly to lose."""

    def __init__(self, inner: SwitchPolicy) -> None:
        self.name = f"{inner.name} with LRU victims"
        self._inner = inner

    def decide(self, view: View, now: float) -> Decision:
        planner = cast(Planner, view)
        if not isinstance(planner.worth, LeastRecentlyUsed):
            planner.worth = LeastRecentlyUsed(planner.worth._ledger)  # what policies cannot do
        return self._inner.decide(view, now)


class Clairvoyant(LeastRecentlyUsed):
    """Credits that know who is asked for when: first goes the model whose next request is the longest away, or with
    `priced`, the one whose wake costs the least per second until then."""

    def __init__(self, ledger: Ledger, coming: Mapping[str, Sequence[float]], priced: bool) -> None:
        super().__init__(ledger)
        self._coming = coming
        self._priced = priced

    def credit(self, model: Model, now: float) -> float:
        if self._priced:
            return self._ledger.costs.expected_wake(model.name) / max(1e-3, self._away(model, now))
        held = self._ledger.holding.values()
        later = sum((self._away(other, now), other.order) > (self._away(model, now), model.order) for other in held)
        return 1e9 * 2.0**later

    def _away(self, model: Model, now: float) -> float:
        if model.granted:
            return 0.0
        times = self._coming.get(model.name, ())
        place = bisect_right(times, now)
        return times[place] - now if place < len(times) else 1e9


class WithForesight:
    """A policy whose victims are chosen with all arrivals known, which gives nobody up as too costly to lose."""

    def __init__(self, inner: SwitchPolicy, trace: Trace, *, priced: bool) -> None:
        self.name = f"{inner.name} with clairvoyant victims"
        self._inner = inner
        self._priced = priced
        self._coming: dict[str, list[float]] = {}
        for arrival in trace.arrivals:
            self._coming.setdefault(arrival.model, []).append(arrival.at)

    def decide(self, view: View, now: float) -> Decision:
        planner = cast(Planner, view)
        if not isinstance(planner.worth, Clairvoyant):
            planner.worth = Clairvoyant(planner.worth._ledger, self._coming, self._priced)
        return self._inner.decide(view, now)


RULES: Mapping[str, Callable[[Trace], SwitchPolicy]] = {
    "LRU swap": lambda trace: WithLru(FifoPolicy()),
    "fifo": lambda trace: FifoPolicy(),
    "break-even": lambda trace: BreakEvenPolicy(),
    "break-even, LRU victims": lambda trace: WithLru(BreakEvenPolicy()),
    "break-even, clairvoyant victims (next request)": lambda trace: WithForesight(
        BreakEvenPolicy(), trace, priced=False
    ),
    "break-even, clairvoyant victims (wake per second)": lambda trace: WithForesight(
        BreakEvenPolicy(), trace, priced=True
    ),
    "round-robin": lambda trace: RoundRobinPolicy(),
    "drain-first": lambda trace: DrainFirstPolicy(),
    "priority": lambda trace: PriorityPolicy(),
}


# --- cells --------------------------------------------------------------------------------------------------------


def fleet(trace: Trace, budget: float, costs: str) -> tuple[CoreSettings, HookTimes]:
    """Devices and models for a trace: sizes and wakes depend on the set's name and nothing else."""
    models = trace.models
    rng = random.Random(trace.group)  # noqa: S311  # a machine, not secrets
    sizes = [SIZES[place % len(SIZES)] for place in range(len(models))]
    rng.shuffle(sizes)
    count = 2 if len(models) <= 8 else 3
    names = [f"gpu{place}" for place in range(count)]
    largest = max(sizes)
    capacity = max(largest, math.ceil(budget * sum(sizes) / count))
    specs, wakes = [], {}
    for model, size in zip(models, sizes, strict=True):
        placements = tuple({name: size * GIB} for name in names)
        if size == largest and len(models) > 3:  # the largest is spread over two devices
            placements = ({names[0]: size * GIB // 2, names[1]: size * GIB // 2},)
        specs.append(ModelSpec(model, placements, wake_timeout=None, sleep_timeout=None, drain_timeout=None))
        wakes[model] = 1.0 + size if costs == "by size" else rng.choice((2.0, 5.0, 10.0, 20.0, 40.0))
    settings = CoreSettings(
        models=tuple(specs),
        devices=dict.fromkeys(names, capacity * GIB),
        alive_interval=0,
        max_queue=sys.maxsize,
    )
    return settings, HookTimes(sleeps={model: 0.2 * wake for model, wake in wakes.items()}, wakes=wakes)


def play(trace: Trace, budget: float, costs: str, rule: str) -> Figures:
    settings, hooks = fleet(trace, budget, costs)
    result = simulate(trace.arrivals, settings, RULES[rule](trace), hooks=hooks, backends=BACKEND)
    waits = Waits.of(result.waits())
    good = sum(wait <= LIMIT for wait in result.waits())
    unfinished = sum(end is None for end in result.finished)
    return Figures(
        waits.mean, waits.p95, waits.longest, max(good, 1) / len(trace.arrivals), max(result.switches, 1), unfinished
    )


def made_here() -> Iterator[Trace]:
    """Seeded traffic. A request takes about 5.3 s, so `load` is this share of one batch."""
    for load in (0.02, 0.2, 0.5):
        rate = load * BACKEND.batch / 5.25
        seconds = min(14_400.0, 4000 / rate)
        names = [f"m{place:02d}" for place in range(16)]
        kinds = {
            "zipf12": poisson(zipf_rates(names[:12], rate), seconds, 11),
            "zipf16": poisson(zipf_rates(names, rate, 1.5), seconds, 12),
            "bursty8": bursty(zipf_rates(names[:8], rate), seconds, 13),
            "bursty12": bursty(zipf_rates(names[:12], rate, 0.7), seconds, 14, cv=5.0),
        }
        for kind, arrivals in kinds.items():
            yield Trace(kind, f"u{round(load * 100):02d}", arrivals)


def read(folder: Path) -> Iterator[Trace]:
    """The recorded traces of more than two models."""
    for path in sorted(folder.glob("*.csv")):
        group, _, load = path.stem.partition("-")
        with path.open(encoding="utf-8", newline="") as lines:
            trace = Trace(group, load, parse_trace(lines))
        if len(trace.models) > 2:
            yield trace


def ratio(value: float, base: float) -> float:
    """A ratio that is 1 where both waits are next to nothing (1 ms)."""
    return max(value, 1e-3) / max(base, 1e-3)


def geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(math.fsum(math.log(each) for each in ratios) / len(ratios))


Key = tuple[str, str, float, str]
Cells = dict[Key, dict[str, Figures]]


def table(title: str, cells: Cells, rules: Sequence[str]) -> str:
    base = rules[0]
    lines = [
        f"### {title}: {len(cells)} cells, {base} = 1",
        "",
        "| rule | mean wait | p95 | longest | goodput | switches | worst mean | unfinished | mean wait by load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for rule in rules:
        means = {key: ratio(cell[rule].mean, cell[base].mean) for key, cell in cells.items()}
        worst = max(means, key=lambda key: means[key])
        loads: dict[str, list[float]] = {}
        for (_, load, _, _), value in means.items():
            loads.setdefault(load, []).append(value)
        pairs = [(cell[rule], cell[base]) for cell in cells.values()]
        lines.append(
            f"| {rule} | {geometric_mean(list(means.values())):.2f} "
            f"| {geometric_mean([ratio(mine.p95, other.p95) for mine, other in pairs]):.2f} "
            f"| {geometric_mean([ratio(mine.longest, other.longest) for mine, other in pairs]):.2f} "
            f"| {geometric_mean([mine.goodput / other.goodput for mine, other in pairs]):.2f} "
            f"| {geometric_mean([mine.switches / other.switches for mine, other in pairs]):.2f} "
            f"| {means[worst]:.2f} ({worst[0]}-{worst[1]}, {worst[2]:g}, {worst[3]}) "
            f"| {sum(mine.unfinished for mine, _ in pairs)} "
            f"| {', '.join(f'{load} {geometric_mean(values):.2f}' for load, values in sorted(loads.items()))} |"
        )
    return "\n".join([*lines, ""])


def run(trace: Trace, rules: Sequence[str]) -> Cells:
    return {
        (trace.group, trace.load, budget, costs): {rule: play(trace, budget, costs, rule) for rule in rules}
        for budget in BUDGETS
        for costs in COSTS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Several awake models, against an LRU swap.")
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.add_argument("--sets", default="", help="only these sets, by name, separated by commas")
    parser.add_argument("--loads", default="", help="only these loads")
    parser.add_argument("--cases", default="", help="only these traces, as SET-LOAD")
    parser.add_argument("--write", type=Path, help="write the study with its picture into this folder")
    parser.add_argument("--rules", default=",".join(key.replace(", ", "; ") for key in RULES))
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    rules = [rule.replace("; ", ", ") for rule in arguments.rules.split(",")]
    sets, loads, cases = (
        set(filter(None, text.split(","))) for text in (arguments.sets, arguments.loads, arguments.cases)
    )
    traces = list(made_here())
    if arguments.traces.is_dir():
        traces += read(arguments.traces)
    else:
        print(f"Left out: the recorded traces, since there is no folder {arguments.traces}.\n")
    traces = [
        trace
        for trace in traces
        if (not sets or trace.group in sets)
        and (not loads or trace.load in loads)
        and (not cases or f"{trace.group}-{trace.load}" in cases)
    ]
    cells: Cells = {}
    began = time.perf_counter()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for done, part in enumerate(pool.map(run, traces, [rules] * len(traces)), 1):
            cells |= part
            print(f"{done} of {len(traces)} traces, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    tables = []
    shares: dict[str, dict[str, float]] = {}  # the mean waits of the picture: title -> rule -> ratio
    for load in ("all", *sorted({key[1] for key in cells})):
        for title, tuned in (("tuned on", True), ("not tuned on", False)):
            part = {
                key: cell for key, cell in cells.items() if load in ("all", key[1]) and (key[0] in TUNED_ON) is tuned
            }
            if part:
                tables.append(table(f"{load}, {title}", part, rules))
            if part and load != "all":
                shares[f"{load}, {title}"] = {
                    rule: geometric_mean([ratio(cell[rule].mean, cell[rules[0]].mean) for cell in part.values()])
                    for rule in rules
                }
    print("\n".join(tables))
    if arguments.write is not None:
        command = f"python bench/devices.py {shlex.join(sys.argv[1:])}"
        text = _HEAD.format(command=command, traces=", ".join(f"{t.group}-{t.load}" for t in traces), said=_SAID)
        text += "\n".join(one.replace("### ", "## ", 1) for one in tables)
        (arguments.write / "devices-study.md").write_text(text, encoding="utf-8")
        study.bars(shares, rules, f"mean wait, {rules[0]} = 1", arguments.write / "devices-by-load.svg")


if __name__ == "__main__":
    main()
