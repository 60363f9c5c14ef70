"""What came of a simulation: waits, switches, and where the time went. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waits:
    """Waits of a set of requests, in seconds; all 0 for none. Percentiles are nearest ranks."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    longest: float

    @classmethod
    def of(cls, waits: Sequence[float]) -> Waits:
        if not waits:
            return cls(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        ordered = sorted(waits)
        p50, p95, p99 = (ordered[max(0, math.ceil(len(ordered) * share) - 1)] for share in (0.5, 0.95, 0.99))
        return cls(len(ordered), math.fsum(ordered) / len(ordered), p50, p95, p99, ordered[-1])


@dataclass(frozen=True, slots=True)
class Shares:
    """Parts of the simulated time, which sum to 1. Where several things go on at once, the first named counts: a hook
    of a switch runs; a model drains; requests are served; nothing happens."""

    switching: float
    draining: float
    serving: float
    idle: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One simulation in numbers.

    Attributes:
        waits: from arrival to the start of service (a place in the batch), over all requests that were served.
        grants: from arrival to the grant, which is the part that llmux decides.
        models: `waits`, per model.
        goodput: share of all requests, unserved ones included, that were served with a wait within the limit.
        unfinished: requests that were refused, cut off, or not over when the simulation ended.
        switches: successful switches, cold starts included.
        switches_per_1000: the same, per thousand requests.
        seconds: simulated time.
    """

    requests: int
    waits: Waits
    grants: Waits
    models: dict[str, Waits]
    goodput: float
    unfinished: int
    switches: int
    switches_per_1000: float
    shares: Shares
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a simulation gave. The lists are by request, in the order of the arrivals; None where it never
    came to that. Times are in seconds."""

    models: tuple[str, ...]
    model_of: list[str]
    arrived: list[float]
    granted: list[float | None]
    started: list[float | None]
    finished: list[float | None]
    switches: int
    shares: Shares
    seconds: float

    def waits(self, model: str | None = None) -> list[float]:
        """From arrival to the start of service, of the requests that were served; of one model, or of all."""
        return [
            start - arrival
            for start, arrival, name in zip(self.started, self.arrived, self.model_of, strict=True)
            if start is not None and (model is None or name == model)
        ]

    def summary(self, limit: float = 60.0) -> Summary:
        """Sum it up; `limit` is the longest wait, in seconds, that counts as good."""
        count = len(self.arrived)
        waits = self.waits()
        grants = [
            grant - arrival for grant, arrival in zip(self.granted, self.arrived, strict=True) if grant is not None
        ]
        return Summary(
            requests=count,
            waits=Waits.of(waits),
            grants=Waits.of(grants),
            models={model: Waits.of(self.waits(model)) for model in self.models},
            goodput=sum(wait <= limit for wait in waits) / count if count else 1.0,
            unfinished=sum(end is None for end in self.finished),
            switches=self.switches,
            switches_per_1000=1000 * self.switches / count if count else 0.0,
            shares=self.shares,
            seconds=self.seconds,
        )
