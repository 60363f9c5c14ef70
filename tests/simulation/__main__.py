"""Many seeds on all processors, or one seed's story."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.progress import track

from tests.simulation.world import Verdict, run


def judged(seed: int) -> Verdict:
    """Without its story, which is long."""
    verdict = run(seed)
    verdict.lines.clear()
    return verdict


def many(first: int, count: int, processes: int) -> int:
    console = Console()
    failed = 0
    requests, hours = 0, 0.0
    faults: Counter[str] = Counter()
    with ProcessPoolExecutor(processes) as pool:
        verdicts = pool.map(judged, range(first, first + count), chunksize=4)
        for verdict in track(verdicts, "seeds", total=count, console=console):
            requests += verdict.requests
            hours += verdict.hours
            faults += verdict.faults
            if verdict.broken:
                failed += 1
                console.print(f"seed {verdict.seed}: {verdict.broken[0]}", markup=False)
    console.print(
        f"{count} seeds from {first}: {failed} failed; {requests} requests, {faults.total()} faults "
        f"in {hours:.0f} virtual hours ({faults.total() / hours:.0f} an hour)"
    )
    for kind, number in faults.most_common():
        console.print(f"{number:9} {kind}", markup=False)
    if failed:
        console.print("one seed's story: python -m tests.simulation --seed N --story")
    return 1 if failed else 0


def one(seed: int, story: bool) -> int:
    verdict = run(seed)
    if story:
        sys.stdout.write("\n".join(verdict.lines) + "\n")
    for what in verdict.broken:
        sys.stdout.write(f"broken: {what}\n")
    sys.stdout.write(f"seed {seed}: {'failed' if verdict.broken else 'passed'}\n")
    return 1 if verdict.broken else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--story", action="store_true", help="with --seed: tell it line by line")
    options = parser.parse_args()
    if options.seed is not None:
        return one(options.seed, options.story)
    return many(options.first, options.seeds, options.processes)


if __name__ == "__main__":
    sys.exit(main())
