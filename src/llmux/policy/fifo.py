"""First in, first out: the model whose oldest request has waited longest is next."""

from __future__ import annotations

from collections.abc import Sequence

from llmux.policy.base import Decision, Plan, Stay, SwitchTo, View, waiting_since


class FifoPolicy:
    """Serve the oldest waiter's model first; it switches as soon as somebody waits for a model that is not awake.

    A model that must wait for its turn keeps the devices it could be given: a younger request may overtake it only on
    other devices, so a model that needs much memory is not starved by a stream of small ones.

    An awake model that is full (``max_in_flight``) may have requests waiting that are older than those of another. It
    serves these first, until it has been awake for what a switch to the other and back costs; then it gives way all the
    same, so that a request which never ends holds nobody up.

    The bound of `llmux.policy.bounded` holds with 0 for ``max_wait_secs`` and, where a model has ``max_in_flight``,
    with ``min_active_secs`` or twice the switch's cost, whichever is more.
    """

    name = "fifo"

    def decide(self, view: View, now: float) -> Decision:
        recheck: float | None = None
        kept: set[str] = set()
        for model in sorted(view.waiting(), key=waiting_since):
            plan = view.plan(model.name, avoid=kept)
            until = _turn_ends(view, plan, now) if isinstance(plan, Plan) else plan.until
            if isinstance(plan, Plan) and until is None:
                return SwitchTo(model.name, plan)
            kept.update(plan.devices)
            if until is not None and (recheck is None or until < recheck):
                recheck = until
        return Stay(recheck)

    def latest(self, view: View, names: Sequence[str], now: float) -> list[float]:
        """See `llmux.policy.base.Foreseeing`: at once, but for the turn of whoever has its room."""
        ends = [_turn_ends(view, plan, now) if isinstance(plan, Plan) else None for plan in map(view.plan, names)]
        return [now if end is None else end for end in ends]


def _turn_ends(view: View, plan: Plan, now: float) -> float | None:
    """Until when a victim serves its own waiters first; None if none does."""
    last: float | None = None
    arrived = view.model(plan.model).oldest_arrival
    for victim in map(view.model, plan.victims):
        if victim.oldest_arrival is None or victim.awake_since is None:
            continue
        there, back = view.expected_cost(victim.name, plan.model), view.expected_cost(plan.model, victim.name)
        until = victim.awake_since + there + back
        older = arrived is None or victim.oldest_arrival <= arrived
        if older and until > now and (last is None or until > last):
            last = until
    return last
