"""What `policies.py` writes into docs: a page in Markdown, the table of the online optimum, and a picture."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llmux.core import CoreSettings, ModelSpec
from llmux.policy import BreakEvenPolicy, FifoPolicy, SwitchPolicy
from llmux.sim import Arrival, BackendModel, HookTimes, simulate

_COSTS = (40, 10, 2)  # seconds; the longest to work out comes first
_CASES = tuple((load, skew, cost) for load, skew in ((0.2, 20), (0.2, 5), (0.2, 1), (0.02, 1)) for cost in _COSTS)
_WEIGHTS = (1.0, 2.0, 3.0, 4.0)
_EXACT = 5e-3  # of the mean
_REQUESTS = 10_000
_SEEDS = range(101, 109)  # none of those that break-even was tuned with, which are below 20
_MODELS = ("first", "second")
_COLOURS = ("#3b82c4", "#c77d2b", "#3f9b63", "#a45bb0", "#c2504f", "#2a9aa0", "#8f8f1f")
_GREY = "#808080"
NOT_DRAWN = ("fifo-2.4", "priority", "one-queue")  # the baseline, one that is fifo here, and one off the scale

_HEAD = """# How the policies compare

Made by `{command}`; what was tried is written by hand.

A cell is a trace with one of four costs of switching: 2, 10 or 40 s, and different ones for each model. One device
holds one model; 16 requests are served at a time. Figures are geometric means over cells of the ratio to the baseline's
figure; *worst mean* is the largest ratio of mean waits, and where. Goodput counts requests that wait no more than 60 s.
u005 to u80 are loads, in percent of what a batch could serve (u005: 0.5). `fifo-2.4`, `llama-swap` and `one-queue` are
no policies of llmux: they play the rules of llmux 2.4.0, of llama-swap and of Ollama with one runner. `priority` has no
levels here, and is fifo then. What
[break-even](policies.md#the-built-in-policies) leaves to choose was tuned on {tuned} and on no other trace.

{notes}

![Mean wait by load, fifo-2.4 = 1](policies-by-load.svg)

The picture is of the recorded traces; `one-queue` would be far above it.

"""

_TRIED = """
What was tried, each time on the traces that break-even was tuned on (u02 to u50) and on two models at 20:1, load 0.2:

- To count those who wait for the rarer model more, at any ratio: by the square root of the ratio of demands, as until
  then, 5:1 is at 1.04, 1.04 and 1.11 of the optimum at 2, 10 and 40 s a switch, and 20:1 at 1.12, 1.11 and 1.25, where
  the rarer model waits 1.4 to 1.5 times as long as under fifo. With everybody counted alike up to 4:1, as now, 5:1 is
  at 1.03, 1.03 and 1.04. The power of what is beyond 4:1 trades the mean at 20:1 for the rarer model: with 1.0, 1.1
  and 1.2 they are at 1.13 and 1.42, 1.14 and 1.37, 1.14 and 1.31 at 2 s; at 1.12 and 1.54, 1.15 and 1.46, 1.17 and
  1.41 at 10 s; at 1.26 and 1.52, 1.30 and 1.43, 1.35 and 1.37 at 40 s. (14 seeds.) On all recorded
  traces, the square root has a mean of 0.613 and a p95 of 0.643, fifo-2.4 = 1.
- To count all those who wait alike, at any ratio. Without a limit on waiting, the exact value of that at 20:1 is 1.05
  of the optimum at 2 s a switch and 1.04 at 10 s, but the rarer model waits 3.0 and 2.2 times as long as under fifo.
- One step of policy improvement on the spot, with the measured rates. It is at 1.00 of the optimum at 5:1 and 40 s a
  switch without a tuned constant, and at 0.68 of fifo-2.4 in the mean on the traces, 0.60 at u80 instead of 0.37: real
  traffic is not Poisson.
- To count seldom asked models more, but often asked ones not less, so that a burst takes nothing from its own weight:
  within 0.4 % on the traces, and worse at 20:1 (at 2 s a switch 1.16 of the optimum, where the other is at 1.10 with
  the same `patience`).
- Exponents of the batch from 1 to 1.6, and `patience` from 0.7 to 1: what one of mean wait, p95 and the rarer model's
  wait gains, another loses.
- To derive another limit on waiting. At 20:1, 2 s a switch, five, four and three tours are at 1.16, 1.20 and 1.28 of
  the optimum, where six are at 1.12 and eight at 1.11 (one seed, and the square root of the ratio). On the traces, mean
  wait and p95 are the same within 0.1 % from four tours on; three have 0.5 % less at p95 and 0.4 % more in the mean. A
  minute at least, as it was with four tours, does at 20:1 what six tours do, but is long where switches take half a
  second. The other policies have four tours: with six, drain-first waits longer on the traces tuned on, 0.96 of fifo
  in the mean.
- To let an idle model linger for a share of the geometric mean of what an absence gathers for either, whatever their
  ratio: at 40 s a switch 5:1 is at 1.16 of the optimum and 20:1 at 1.46. (6,000 requests.)
- `patience` of 0.75 instead of 0.8, once lingering was as it is now: p95 on the traces at u20 is 1.1 % less; 5:1 at
  40 s a switch is at 1.11 instead of 1.09. With 0.7, p95 is 0.9 % less, and two models alike are at 1.06 at 10 s a
  switch.
"""

_BOUNDS = """## Against a bound for every policy

Mean waits at 10 s a switch, as multiples of a mean that no policy, not even a clairvoyant one, can go below; traces of
up to {most} requests at u02 and u20.

The bound is that of `llmux.sim.bounds`: what is kept from others is priced (Lagrangian duality), and each model is then
planned for itself by dynamic programming that knows all that is to come. Exact dynamic programming over all models at
once would need as its state who waits, who is served and for how long yet, which is too much for any trace here. So the
bound is below the best that can be done, on these traces by an unknown part: a figure of 2 does not mean that half
could be saved. `tests/sim/test_bounds.py` holds it against every built-in policy and against random ones, and on cases
of three and four requests against all sequences of choices, the best of which is less than 1 % above it.

"""


@dataclass(frozen=True, slots=True)
class Online:
    """One case of two models: mean waits in seconds, of everybody and of the rarer model, for each seed."""

    load: float
    skew: float
    cost: float
    computed: float
    optimum: tuple[tuple[float, float], ...]
    fifo: tuple[tuple[float, float], ...]
    ours: tuple[tuple[float, float], ...]

    @property
    def excess(self) -> float:
        """Break-even's mean wait, as a multiple of the optimum's on the same requests."""
        return against(self.ours, self.optimum, 0)

    @property
    def rare(self) -> float:
        """The rarer model's mean wait, as a multiple of what fifo gives it."""
        return against(self.ours, self.fifo, 1)


@dataclass(frozen=True, slots=True)
class Goal:
    """What break-even should reach, and what it does."""

    text: str
    limit: float
    reached: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.reached >= self.limit if self.at_least else self.reached <= self.limit


def page(
    command: str,
    tuned: Sequence[str],
    notes: Sequence[str],
    goals: Sequence[Goal],
    tables: Sequence[str],
    most: int,
    bounds: str,
    online: Sequence[Online],
    weighed: str,
) -> str:
    """The whole page."""
    parts = [
        _HEAD.format(command=command, notes=" ".join(notes), tuned=", ".join(tuned)),
        _goals(goals),
        *[text.replace("### ", "## ", 1) + "\n" for text in tables],
        _BOUNDS.format(most=most),
        bounds + "\n",
        "## Against the best online policy\n\n",
        _online(online) + "\n" + weighed if online else "Left out, for want of numpy.\n",
    ]
    return "".join(parts)


def _goals(goals: Sequence[Goal]) -> str:
    lines = ["## What break-even should reach, and does", "", "| goal | limit | reached | |", "|---|---|---|---|"]
    for goal in goals:
        sign = "at least" if goal.at_least else "at most"
        off = abs(goal.reached / goal.limit - 1)
        met = "met" if goal.met else f"missed by {max(off, 0.001):.1%}"
        lines.append(f"| {goal.text} | {sign} {goal.limit:g} | {goal.reached:.3f} | {met} |")
    return "\n".join([*lines, _TRIED, ""])


def online_goals(online: Sequence[Online]) -> list[Goal]:
    """Those that are about the best online policy: the worst case counts."""
    near = [case.excess for case in online if case.skew <= 5]
    far = [case for case in online if case.skew > 5]
    goals = [Goal("best online policy = 1, demand alike and 5:1: the worst case", 1.05, max(near))] if near else []
    for case in far:
        at = f"{case.skew:g}:1, {case.cost:g} s a switch"
        goals.append(Goal(f"best online policy = 1, {at}", 1.15, case.excess))
        goals.append(Goal(f"the rarer model's mean wait, fifo = 1, {at}", 1.5, case.rare))
    return goals


def against_optimum(jobs: int) -> list[Online]:
    """Break-even and plain fifo beside the optimum of `optimum.py`, simulated on the same arrivals, on `jobs`
    processes. Empty without numpy."""
    try:
        import optimum  # noqa: F401  # only to know whether it can be
    except ImportError as error:
        print(f"Left out: {error}; `pip install 'llmux-server[plot]'` brings what is missing.")
        return []
    with ProcessPoolExecutor(jobs) as pool:
        cases = pool.map(_case, _CASES)
        return sorted(cases, key=lambda case: (-case.load, case.skew, case.cost))


def _case(case: tuple[float, float, float]) -> Online:
    import optimum

    load, skew, cost = case
    pair = optimum.Pair.of(load, skew, cost)
    best = optimum.optimum(pair, exact=_EXACT)
    played, fifo, ours = [], [], []
    for seed in _SEEDS:
        arrivals = traffic(pair.rates, pair.service, _REQUESTS, seed)
        played.append(waits(arrivals, cost, optimum.TablePolicy(_MODELS, best.leaves)))
        fifo.append(waits(arrivals, cost, FifoPolicy()))
        ours.append(waits(arrivals, cost, BreakEvenPolicy()))
    return Online(load, skew, cost, best.mean, tuple(played), tuple(fifo), tuple(ours))


def against(these: Sequence[tuple[float, float]], those: Sequence[tuple[float, float]], which: int) -> float:
    """Geometric mean over the seeds of the ratio of mean waits, of everybody (0) or of the rarer model (1)."""
    return statistics.geometric_mean(one[which] / other[which] for one, other in zip(these, those, strict=True))


def _online(cases: Sequence[Online]) -> str:
    lines = [
        "Two models, Poisson arrivals, exponential service of 5.25 s, rates known to the optimum and measured by the "
        "policy; mean waits in seconds. *computed* is by value iteration (`bench/optimum.py`), *played* its policy in "
        f"the simulator on the same requests as the others: {len(_SEEDS)} times {_REQUESTS:,}, none of which "
        "break-even was tuned on. Waits are means, ratios geometric means over those. *rare* is the second, rarer "
        "model's mean wait as a multiple of what fifo gives it.",
        "",
        "| load | skew | cost | optimum computed | played | rare | fifo | / optimum | break-even | / optimum | rare |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {case.load:g} | {case.skew:g}:1 | {case.cost:g} s | {case.computed:.2f} | {_mean(case.optimum):.2f} "
        f"| {against(case.optimum, case.fifo, 1):.2f} | {_mean(case.fifo):.2f} "
        f"| {against(case.fifo, case.optimum, 0):.2f} | {_mean(case.ours):.2f} | {case.excess:.3f} | {case.rare:.2f} |"
        for case in cases
    ]
    return "\n".join([*lines, ""])


def _mean(waits: Sequence[tuple[float, float]]) -> float:
    return statistics.fmean(everybody for everybody, _ in waits)


def weighed(jobs: int) -> str:
    """What it takes to make the rarer of two models wait less, at 20:1."""
    with ProcessPoolExecutor(jobs) as pool:
        columns = list(pool.map(_weigh, _COSTS))
    lines = [
        "### What the rarer model's wait costs everybody",
        "",
        "The best policies at 20:1 and load 0.2, by value iteration, if a second that a request for the rarer model "
        "waits counts more than others. Each figure is a mean wait over everybody, optimum = 1, and after it the rarer "
        "model's, fifo = 1. No policy can be below in one without being above in the other: at 40 s a switch, 1.15 for "
        "everybody and 1.5 for the rarer model cannot be had together.",
        "",
        "| a second counts | " + " | ".join(f"{cost} s a switch" for cost in _COSTS) + " |",
        "|---|---|---|---|",
    ]
    for weight, *cells in zip(_WEIGHTS, *columns, strict=True):
        lines.append(f"| {weight:g} times | " + " | ".join(f"{mean:.2f}, {rare:.2f}" for mean, rare in cells) + " |")
    return "\n".join([*lines, ""])


def _weigh(cost: float) -> list[tuple[float, float]]:
    import optimum

    pair = optimum.Pair.of(0.2, 20, cost)
    fifo = optimum.value_of(pair, lambda awake, x, y: True, exact=_EXACT)
    values = [optimum.optimum(pair, weights=(1.0, weight), exact=_EXACT) for weight in _WEIGHTS]
    return [(value.mean / values[0].mean, value.means[1] / fifo.means[1]) for value in values]


def traffic(rates: Sequence[float], service: float, requests: int, seed: int) -> list[Arrival]:
    """Poisson arrivals of two models with exponential service, in output tokens of a millisecond."""
    rng = random.Random(seed)  # noqa: S311  # traffic, not secrets
    total, at, arrivals = sum(rates), 0.0, []
    for _ in range(requests):
        at += rng.expovariate(total)
        model = _MODELS[rng.random() * total >= rates[0]]
        arrivals.append(Arrival(at, model, 0, max(1, round(1000 * rng.expovariate(1 / service)))))
    return arrivals


def waits(arrivals: Sequence[Arrival], cost: float, policy: SwitchPolicy) -> tuple[float, float]:
    """Mean wait of all, and of the second model, in seconds."""
    settings = CoreSettings(
        models=tuple(ModelSpec(model, drain_timeout=None) for model in _MODELS),
        alive_interval=0,
        max_queue=len(arrivals) + 1,
    )
    backend = BackendModel(rate=1000.0, overhead=0.0)
    result = simulate(arrivals, settings, policy, hooks=HookTimes.constant(_MODELS, cost), backends=backend)
    every, rare = result.waits(), result.waits(_MODELS[1])
    return sum(every) / len(every), sum(rare) / len(rare)


def draw(by_load: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """Mean waits by load, one line per rule: in colours and greys that can be read on white and on black."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        print(f"Left out: the picture. {error}")
        return
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmux", "font.size": 10}):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(1.0, color=_GREY, linestyle=":", linewidth=1)
        for colour, (rule, values) in zip(_COLOURS, by_load.items(), strict=False):
            ours = rule == "break-even"
            axes.plot(
                list(range(len(values))),
                list(values.values()),
                marker="o",
                markersize=5 if ours else 4,
                color=colour,
                label=rule,
                linewidth=2.8 if ours else 1.3,
                zorder=3 if ours else 2,
            )
            axes.set_xticks(list(range(len(values))), list(values))
        axes.set_yscale("log")
        ticks = [0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("load")
        axes.set_ylabel("mean wait, fifo-2.4 = 1 (log)")
        axes.tick_params(colors=_GREY)
        for part in (axes.xaxis.label, axes.yaxis.label):
            part.set_color(_GREY)
        for spine in axes.spines.values():
            spine.set_color(_GREY)
        axes.spines[["top", "right"]].set_visible(False)
        legend = figure.legend(loc="outside right center", frameon=False)
        for text in legend.get_texts():
            text.set_color(_GREY)
        figure.savefig(file, transparent=True, metadata={"Date": None})


def bars(groups: Mapping[str, Mapping[str, float]], rules: Sequence[str], label: str, file: Path) -> None:
    """One group of bars per entry, one bar per rule, in the colours of `draw`."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        print(f"Left out: the picture. {error}")
        return
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmux", "font.size": 10}):
        figure = Figure(figsize=(7.5, 5.2), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(1.0, color=_GREY, linestyle=":", linewidth=1)
        width = 0.8 / len(rules)
        for place, rule in enumerate(rules):
            colour = _GREY if place == 0 else _COLOURS[(place - 1) % len(_COLOURS)]
            at = [group + (place - (len(rules) - 1) / 2) * width for group in range(len(groups))]
            axes.bar(at, [group[rule] for group in groups.values()], width * 0.9, color=colour, label=rule)
        axes.set_xticks(list(range(len(groups))), list(groups))
        axes.set_ylabel(label)
        axes.tick_params(colors=_GREY)
        axes.yaxis.label.set_color(_GREY)
        for spine in axes.spines.values():
            spine.set_color(_GREY)
        axes.spines[["top", "right"]].set_visible(False)
        legend = figure.legend(loc="outside lower center", frameon=False, ncols=2)
        for text in legend.get_texts():
            text.set_color(_GREY)
        figure.savefig(file, transparent=True, metadata={"Date": None})
