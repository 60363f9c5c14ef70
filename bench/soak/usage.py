"""Memory, tasks and descriptors of each life of llmux, and how much they have grown."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

WARM_UP = 30.0
"""Growth is counted from so many seconds after llmux listens: by then everything has been used once."""

SHORTEST = 60.0
"""A life must have been looked at for so many seconds: what comes and goes in less would make any growth per hour."""

ENDS = 4
"""Start and end of a life are the medians of so many samples, since what is in flight comes and goes."""

#: What a life may gain: of memory this many MiB, or a tenth of what it had if that is more.
ALLOWED = {"memory_mib": 10.0, "descriptors": 10.0, "tasks": 6.0}


@dataclass
class Life:
    """One process: from when it listened until it ended, on the monotonic clock, and samples of what it used."""

    began: float
    ended: float = math.inf
    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def take(self, now: float, used: dict[str, float]) -> None:
        """Another sample, unless it is too early."""
        if now >= self.began + WARM_UP:
            self.samples.append((now, used))

    def grown(self) -> dict[str, tuple[float, float, float]] | None:
        """For each measure its value at the start and at the end, and its growth per hour; None if the life was too
        short to tell."""
        if len(self.samples) < 2 * ENDS or self.samples[-1][0] - self.samples[0][0] < SHORTEST:
            return None
        first, last = self.samples[:ENDS], self.samples[-ENDS:]
        hours = (_middle([at for at, _ in last]) - _middle([at for at, _ in first])) / 3600
        found = {}
        for measure in ALLOWED:
            start, end = (_middle([used[measure] for _, used in side]) for side in (first, last))
            found[measure] = (start, end, (end - start) / hours)
        return found


def _middle(values: list[float]) -> float:
    return statistics.median(values)


def too_much(life: Life) -> list[str]:
    """The measures that have grown by more than they may."""
    grown = life.grown() or {}
    return [
        measure
        for measure, (start, end, _) in grown.items()
        if end > start + max(ALLOWED[measure], start * 0.1 if measure == "memory_mib" else 0.0)
    ]


def read(metrics: str) -> dict[str, float]:
    """What llmux says of itself at /metrics."""
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    return {
        "memory_mib": float(values["process_resident_memory_bytes"]) / 2**20,
        "descriptors": float(values["process_open_fds"]),
        "tasks": float(values["llmux_tasks"]),
    }
