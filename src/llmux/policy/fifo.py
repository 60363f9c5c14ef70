"""First in, first out: the model whose oldest request has waited longest is next."""

from __future__ import annotations

from llmux.policy.base import Decision, ModelView, Plan, Stay, SwitchTo, View


class FifoPolicy:
    """Serve the oldest waiter's model first; it switches as soon as somebody waits for a model that is not awake.

    A model that must wait for its turn keeps the devices it could be given: a younger request may overtake it only on
    other devices, so a model that needs much memory is not starved by a stream of small ones.
    """

    name = "fifo"

    def decide(self, view: View, now: float) -> Decision:
        recheck: float | None = None
        kept: set[str] = set()
        for model in sorted(view.waiting(), key=_oldest):
            plan = view.plan(model.name, avoid=kept)
            if isinstance(plan, Plan):
                return SwitchTo(model.name, plan)
            kept.update(plan.devices)
            if plan.until is not None and (recheck is None or plan.until < recheck):
                recheck = plan.until
        return Stay(recheck)


def _oldest(model: ModelView) -> float:
    return float("inf") if model.oldest_arrival is None else model.oldest_arrival
