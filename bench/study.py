"""What `policies.py` writes into docs: a page in Markdown, the table of the online optimum, and a picture."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmux.core import CoreSettings, ModelSpec
from llmux.policy import BreakEvenPolicy, FifoPolicy, SwitchPolicy
from llmux.sim import Arrival, BackendModel, HookTimes, simulate

_CASES = tuple((load, skew) for load, skew in ((0.2, 1.0), (0.02, 1.0), (0.2, 5.0), (0.2, 20.0)))
_COSTS = (2.0, 10.0)  # at 40 s one run takes minutes, and its noise is larger than what it should show
_REQUESTS = 6_000
_MODELS = ("first", "second")
_COLOURS = ("#3b82c4", "#c77d2b", "#3f9b63", "#a45bb0", "#c2504f", "#8a8a8a", "#6f7f1f", "#2a9aa0")

_HEAD = """# How the policies compare

Made by `{command}`. Do not edit.

A cell is a trace with one of four costs of switching: 2, 10 or 40 s, and different ones for each model. One device
holds one model; 16 requests are served at a time. Figures are geometric means over cells of the ratio to the baseline's
figure; *worst mean* is the largest ratio of mean waits, and where. Goodput counts requests that wait no more than 60 s.
u005 to u80 are loads, in percent of what a batch could serve (u005: 0.5). `fifo-2.4`, `llama-swap` and `one-queue` are
no policies of llmux: they play the rules of llmux 2.4.0, of llama-swap and of Ollama with one runner.

{notes}

![Mean wait by load, fifo-2.4 = 1](policies-by-load.svg)

"""


def page(command: str, tables: Sequence[str], bounds: str, notes: Sequence[str]) -> str:
    """The whole page."""
    parts = [
        _HEAD.format(command=command, notes=" ".join(notes)),
        *[text.replace("### ", "## ", 1) + "\n" for text in tables],
        "## Against a bound for every policy\n\n",
        "Mean waits at 10 s a switch, as multiples of a mean that no policy, not even "
        "a clairvoyant one, can go below (`llmux.sim.bounds`, by Lagrangian duality).\n\n",
        bounds + "\n",
        "## Against the best online policy\n\n" + against_optimum(),
    ]
    return "".join(parts)


def against_optimum() -> str:
    """Break-even and plain fifo beside the optimum of `optimum.py`, simulated on the same arrivals."""
    try:
        import optimum
    except ImportError as error:
        return f"Left out: {error}; `pip install 'llmux-server[plot]'` brings what is missing.\n"
    lines = [
        "Two models, Poisson arrivals, exponential service of 5.25 s, rates known to the optimum and measured by the "
        "policy; mean waits in seconds. *computed* is by value iteration, *played* its policy in the simulator on the "
        f"same {_REQUESTS:,} requests as the others. *rare* is the second, rarer model's mean wait as a multiple of "
        "what fifo gives it.",
        "",
        "| load | skew | cost | optimum computed | played | rare | fifo | / optimum | break-even | / optimum | rare |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for load, skew in _CASES:
        for cost in _COSTS:
            pair = optimum.Pair.of(load, skew, cost)
            best = optimum.optimum(pair, exact=5e-3)
            arrivals = traffic(pair.rates, pair.service, _REQUESTS, 1)
            played, fifo, ours = (
                waits(arrivals, cost, policy)
                for policy in (optimum.TablePolicy(_MODELS, best.leaves), FifoPolicy(), BreakEvenPolicy())
            )
            lines.append(
                f"| {load:g} | {skew:g}:1 | {cost:g} s | {best.mean:.2f} | {played[0]:.2f} | {played[1] / fifo[1]:.2f} "
                f"| {fifo[0]:.2f} | {fifo[0] / played[0]:.2f} | {ours[0]:.2f} | {ours[0] / played[0]:.2f} "
                f"| {ours[1] / fifo[1]:.2f} |"
            )
    return "\n".join([*lines, ""])


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
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for colour, (rule, values) in zip(_COLOURS, by_load.items(), strict=False):
            places = list(range(len(values)))
            axes.plot(
                places,
                list(values.values()),
                marker="o",
                markersize=4,
                color=colour,
                label=rule,
                linewidth=2.6 if rule == "break-even" else 1.3,
            )
            axes.set_xticks(places, list(values))
        axes.axhline(1.0, color="#8a8a8a", linestyle=":", linewidth=1)
        axes.set_yscale("log")
        ticks = [0.5, 0.7, 1.0, 1.5, 2.0, 5.0, 10.0, 50.0]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("load")
        axes.set_ylabel("mean wait, fifo-2.4 = 1")
        axes.tick_params(colors="#808080")
        for part in (axes.xaxis.label, axes.yaxis.label):
            part.set_color("#808080")
        for spine in axes.spines.values():
            spine.set_color("#808080")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right center", frameon=False, labelcolor="#808080")
        figure.savefig(file, transparent=True, metadata={"Date": None})
