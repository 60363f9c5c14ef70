"""Round robin: every model gets its turn, for as long as a multiple of what the switch away from it costs."""

from __future__ import annotations

from collections.abc import Sequence

from llmux.policy.base import View
from llmux.policy.bounded import BoundedPolicy, Candidate


class RoundRobinPolicy(BoundedPolicy):
    """A model with requests in flight stays for `quantum` times the cost of the switch away from it, an idle one gives
    way at once; next is the next in the order of the configuration that somebody waits for.

    Args:
        max_wait_secs: see `llmux.policy.bounded`.
        quantum: length of a stay, in costs of the switch that ends it.

    Raises:
        ValueError: an argument is negative.
    """

    name = "round-robin"
    steady = True

    def __init__(self, max_wait_secs: float | None = None, quantum: float = 2.0) -> None:
        super().__init__(max_wait_secs)
        if not quantum >= 0:
            raise ValueError(f"quantum must be at least 0, not {quantum}")
        self.quantum = quantum

    def choose(self, view: View, candidates: Sequence[Candidate], now: float) -> Candidate | float:
        if len(candidates) > 1:
            places = {model.name: place for place, model in enumerate(view.models())}

            def distance(candidate: Candidate) -> int:
                return (places[candidate.model.name] - places[candidate.victims[0].name]) % len(places)

            candidates = sorted(candidates, key=distance)
        recheck = float("inf")
        taken: set[str] = set()  # devices that an earlier one in the order will get
        for candidate in candidates:
            if not taken.isdisjoint(candidate.plan.devices):
                continue
            until = max(
                (
                    (victim.awake_since or 0.0) + self.quantum * view.expected_cost(victim.name, candidate.model.name)
                    for victim in candidate.victims
                    if victim.in_flight
                ),
                default=now,
            )
            if until <= now:
                return candidate
            taken.update(candidate.plan.devices)
            recheck = min(recheck, until)
        return recheck
