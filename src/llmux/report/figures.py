"""The numbers of a candidate, over all of its scenarios. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmux.sim import Result, Shares, Waits


@dataclass(frozen=True, slots=True)
class Figures:
    """What the table has, for all models together or for one of them.

    Attributes:
        requests: how many arrived.
        waits: from arrival to the start of service, in seconds, of those that were served.
        goodput: share of all requests that were served after no more than the limit.
        unserved: requests that were never served: refused or given up.
        unfinished: those, and the ones that were cut off while they were served.
        switches_per_1000, shares: None for a single model. Shares are of the time of all scenarios together.
    """

    requests: int
    waits: Waits
    goodput: float
    unserved: int
    unfinished: int
    switches_per_1000: float | None
    shares: Shares | None


def figures(results: Sequence[Result], limit: float, model: str | None = None) -> Figures:
    """Sum up the runs of one candidate; `limit` is the longest wait, in seconds, that counts as good."""
    waits = [wait for result in results for wait in result.waits(model)]
    ends = [
        end
        for result in results
        for end, name in zip(result.finished, result.model_of, strict=True)
        if model is None or name == model
    ]
    requests = len(ends)
    whole = model is None
    return Figures(
        requests=requests,
        waits=Waits.of(waits),
        goodput=sum(wait <= limit for wait in waits) / requests if requests else 1.0,
        unserved=requests - len(waits),
        unfinished=sum(end is None for end in ends),
        switches_per_1000=1000 * sum(result.switches for result in results) / requests if whole and requests else None,
        shares=_shares(results) if whole else None,
    )


def _shares(results: Sequence[Result]) -> Shares:
    seconds = sum(result.seconds for result in results)
    if seconds == 0:
        return Shares(0.0, 0.0, 0.0, 1.0)

    parts = [
        [getattr(result.shares, name) * result.seconds for result in results]
        for name in ("switching", "draining", "serving", "idle")
    ]
    return Shares(*(sum(part) / seconds for part in parts))
