"""The books, summed up for people and probes. Reads, changes nothing."""

from __future__ import annotations

from llmux.core.core import Core
from llmux.core.ledger import Model, Purpose
from llmux.messages import ModelState
from llmux.snapshot import DeviceSnapshot, ModelSnapshot, Snapshot

#: Timers after which the scheduler looks at its queues again, as opposed to deadlines and periodic checks.
_PROGRESS_TIMERS = ("recheck", "sleep:", "lost:", "drain:", "leave:")


def snapshot(core: Core, now: float) -> Snapshot:
    """How the scheduler is doing at `now`, in seconds on the clock that `Core.handle` is given. O(models)."""
    ledger = core.ledger
    lost: set[str] = set()
    for model in ledger.holding.values():
        if model.state is ModelState.LOST and model.placement is not None:
            lost.update(model.placement)
    used = dict.fromkeys(core.settings.devices, 0)
    if not core.probing:
        for claim in core.planner.claims():
            for device, amount in claim.items():
                used[device] += amount
    pending = (
        bool(ledger.switches)
        or any(run.purpose is not Purpose.CHECK for run in ledger.runs.values())
        or any(key.startswith(_PROGRESS_TIMERS) for key in ledger.timers)
    )
    return Snapshot(
        models=tuple(_model(model, now) for model in ledger.models.values()),
        devices=tuple(
            DeviceSnapshot(name=name, capacity=capacity, used=used[name], lost=name in lost)
            for name, capacity in core.settings.devices.items()
        ),
        seconds_since_last_event=max(0.0, now - ledger.last_event),
        work_pending=pending,
        stopping=ledger.stop is not None,
    )


def _model(model: Model, now: float) -> ModelSnapshot:
    oldest = model.oldest_arrival
    return ModelSnapshot(
        name=model.name,
        state=model.state,
        waiting=model.waiting,
        in_flight=model.in_flight,
        oldest_waiter_age=None if oldest is None else now - oldest,
        devices=tuple(model.placement) if model.placement is not None else (),
    )
