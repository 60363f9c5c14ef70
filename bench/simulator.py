"""How long 100,000 simulated requests take, by policy, number of models and load.

    python bench/simulator.py [--requests 20000] [--rounds 3] [--against OTHER/src]

CPU time of one process, least of the rounds, scaled to 100,000 requests. Poisson arrivals, the k-th model gets 1/k^0.8
of them, a switch takes 10 s, one model is awake at a time; `light` is a request every ten seconds, `heavy` one per
second, when there is always somebody waiting. With `--against`, the same with another version of llmux (say, of a
`git worktree`), by turns in the same run, and whether both gave the same waits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from llmux.core import CoreSettings, ModelSpec
from llmux.policy import load_policy
from llmux.sim import HookTimes, poisson, simulate, zipf_rates

GOAL = 5.0
"""Seconds per 100,000 requests, at most."""

POLICIES = ("fifo", "break-even", "round-robin", "drain-first", "priority")
MODELS = (2, 4, 8)
LOADS = {"light": 0.1, "heavy": 1.0}

Times = dict[str, tuple[float, str]]
"""By cell: CPU seconds per 100,000 requests, and a digest of all waits."""


def once(requests: int) -> Times:
    """Every cell, one time."""
    times: Times = {}
    for load, rate in LOADS.items():
        for count in MODELS:
            names = [f"m{number}" for number in range(1, count + 1)]
            arrivals = poisson(zipf_rates(names, rate, 0.8), requests / rate, 1)
            settings = CoreSettings(models=tuple(ModelSpec(name) for name in names), alive_interval=0.0)
            for name in POLICIES:
                policy = load_policy(name, {})
                began = time.process_time()
                result = simulate(arrivals, settings, policy, hooks=HookTimes.constant(names, 10.0))
                seconds = time.process_time() - began
                digest = hashlib.sha256(repr(result.started).encode()).hexdigest()
                times[f"{name} {count} {load}"] = seconds / len(arrivals) * 1e5, digest
    return times


def run(source: Path, requests: int) -> Times:
    """Every cell, one time, in a process of its own with the llmux of `source`."""
    command = [sys.executable, __file__, "--requests", str(requests), "--once"]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONHASHSEED": "0"}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return {cell: (seconds, digest) for cell, (seconds, digest) in json.loads(ended.stdout).items()}


def least(rounds: list[Times]) -> dict[str, float]:
    return {cell: min(times[cell][0] for times in rounds) for cell in rounds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, metavar="SRC", help="the src folder of another version")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(once(options.requests)))
        return
    sources = [Path(__file__).resolve().parents[1] / "src"]
    if options.against is not None:
        sources.append(options.against.resolve())
    rounds: list[list[Times]] = [[] for _ in sources]
    for number in range(options.rounds):
        for source, results in zip(sources, rounds, strict=True):
            results.append(run(source, options.requests))
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    here = least(rounds[0])
    columns = [f"{count} models, {load}" for load in LOADS for count in MODELS]
    print(f"Seconds of CPU per 100,000 requests{', before / now (ratio)' if options.against else ''}; goal {GOAL:g}.\n")
    print(f"| policy | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for policy in POLICIES:
        row = []
        for cell in (f"{policy} {count} {load}" for load in LOADS for count in MODELS):
            if options.against is None:
                row.append(f"{here[cell]:.2f}")
            else:
                before = least(rounds[1])[cell]
                row.append(f"{before:.2f} / {here[cell]:.2f} ({here[cell] / before:.2f})")
        print(f"| {policy} | {' | '.join(row)} |")
    worst = max(here, key=lambda cell: here[cell])
    print(f"\nThe longest: {worst}, {here[worst]:.2f} s: the goal is {'met' if here[worst] <= GOAL else 'missed'}.")
    if options.against is not None:
        differ = [cell for cell, (_, digest) in rounds[0][0].items() if digest != rounds[1][0][cell][1]]
        print(f"Waits that differ: {', '.join(differ) or 'none'}.")


if __name__ == "__main__":
    main()
