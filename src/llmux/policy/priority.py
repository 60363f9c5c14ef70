"""Priority: more important models first; whoever waits grows more important."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmux.policy.base import ModelView, View, waiting_since
from llmux.policy.bounded import BoundedPolicy, Candidate


class PriorityPolicy(BoundedPolicy):
    """A model has a level, and while requests wait for it, that of the most urgent one is added; its oldest waiter
    raises it by one for every `ageing_secs` of waiting. An awake model with requests in flight gives way to one that
    has reached its own level, an idle one to anybody. Next is the highest, among equals the one that has waited
    longest.

    Args:
        max_wait_secs: see `llmux.policy.bounded`.
        levels: per model; higher is more important. Models that are not named have the `priority` of their own, 0 by
            default.
        ageing_secs: seconds of waiting that are worth one level.

    Raises:
        ValueError: `max_wait_secs` is negative, or `ageing_secs` is not above 0.
    """

    name = "priority"
    steady = True

    def __init__(
        self,
        max_wait_secs: float | None = None,
        levels: Mapping[str, float] | None = None,
        ageing_secs: float = 30.0,
    ) -> None:
        super().__init__(max_wait_secs)
        if not ageing_secs > 0:
            raise ValueError(f"ageing_secs must be above 0, not {ageing_secs}")
        self.levels = dict(levels or {})
        self.ageing_secs = ageing_secs

    def choose(self, view: View, candidates: Sequence[Candidate], now: float) -> Candidate | float:
        recheck = float("inf")
        taken: set[str] = set()  # devices that one before will get
        # `candidates` come oldest first, and the sort is stable: that decides among equals.
        for candidate in sorted(candidates, key=lambda candidate: self._reaches(candidate.model, 0.0)):
            if not taken.isdisjoint(candidate.plan.devices):
                continue
            until = max(
                (
                    self._reaches(candidate.model, self._level(victim))
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

    def _level(self, model: ModelView) -> float:
        return self.levels.get(model.name, model.priority)

    def _reaches(self, model: ModelView, level: float) -> float:
        """When a waiting model reaches `level`; the earlier that is, the higher it is now."""
        return waiting_since(model) + (level - self._level(model) - model.urgency) * self.ageing_secs
