"""Drain first: serve the awake model until nobody is left who asks for it, then whoever has waited longest."""

from __future__ import annotations

from collections.abc import Sequence

from llmux.policy.base import View
from llmux.policy.bounded import BoundedPolicy, Candidate


class DrainFirstPolicy(BoundedPolicy):
    """Few switches: a model gives way only when it is idle, or when somebody is due.

    Args:
        max_wait_secs: see `llmux.policy.bounded`; under steady traffic this is what ends a stay.
    """

    name = "drain-first"
    steady = True

    def choose(self, view: View, candidates: Sequence[Candidate], now: float) -> Candidate | float:
        for candidate in candidates:
            if not any(victim.in_flight for victim in candidate.victims):
                return candidate
        return float("inf")
