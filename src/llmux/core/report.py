"""The books, summed up for people and probes. Reads, changes nothing."""

from __future__ import annotations

from llmux.core.core import Core
from llmux.core.ledger import Ledger, Model, Purpose, Run, Switch
from llmux.core.progress import wedged
from llmux.messages import Event, ModelState, OperatorDrain, OperatorPin, OperatorRelease, OperatorUnpin
from llmux.snapshot import (
    OVERDUE_SECS,
    DeviceSnapshot,
    KeptSnapshot,
    LostSnapshot,
    ModelSnapshot,
    Pin,
    ReleasedSnapshot,
    Snapshot,
    Standing,
    SwitchSnapshot,
)

#: Timers after which the scheduler looks at its queues again, as opposed to deadlines and periodic checks.
_PROGRESS_TIMERS = ("recheck", "sleep:", "verify:", "lost:", "drain:", "leave:", "yield:")


def snapshot(core: Core, now: float) -> Snapshot:
    """How the scheduler is doing at `now`, in seconds on the clock that `Core.handle` is given. O(models)."""
    ledger = core.ledger
    lost: dict[str, list[str]] = {}
    for model in ledger.holding.values():
        if model.lost_since is not None and model.placement is not None:
            for device in model.placement:
                lost.setdefault(device, []).append(model.name)
    used = dict.fromkeys(core.settings.devices, 0)
    promised = dict.fromkeys(core.settings.devices, 0)
    promised_to: dict[str, list[str]] = {}
    if not core.probing:
        for model in ledger.holding.values():
            for device, amount in (model.placement or {}).items():
                used[device] += amount
        for target, placement in core.planner.promises():
            for device, amount in placement.items():
                promised[device] += amount
                promised_to.setdefault(device, []).append(target.name)
    pending = (
        bool(ledger.switches)
        or any(run.purpose is not Purpose.CHECK for run in ledger.runs.values())
        or any(key.startswith(_PROGRESS_TIMERS) for key in ledger.timers)
    )
    return Snapshot(
        models=tuple(_model(core, model, now) for model in ledger.models.values()),
        devices=tuple(
            DeviceSnapshot(
                name=name,
                capacity=capacity,
                used=used[name],
                lost=name in lost,
                lost_models=tuple(lost.get(name, ())),
                promised=promised[name],
                promised_to=tuple(promised_to.get(name, ())),
            )
            for name, capacity in core.settings.devices.items()
        ),
        seconds_since_last_event=max(0.0, now - ledger.last_event),
        work_pending=pending,
        stopping=ledger.stop is not None,
        switches=tuple(_switch(switch, now) for switch in ledger.switches.values()),
        released=_released(ledger, now),
        overdue=tuple(f"{run.hook} of {run.model.name}" for run in ledger.runs.values() if _overdue(run, now)),
        wedged=tuple(why for model in ledger.models.values() if (why := wedged(ledger, model, now))),
    )


def owners(core: Core) -> dict[str, ModelState]:
    """The models that may hold memory, and what is known of them: what `Start.past` is to have the next time. WAKING is
    every one that was not seen awake since its last wake began: it may still load. O(models)."""
    found: dict[str, ModelState] = {}
    for model in core.ledger.models.values():
        if not model.asked:
            if model.past is not None:
                found[model.name] = model.past
        elif model.state is not ModelState.ASLEEP:
            found[model.name] = ModelState.WAKING if model.half_woken else model.state
    return found


def standing(core: Core) -> Standing:
    """The orders that stand. O(models)."""
    ledger = core.ledger
    models = ledger.models.values()
    return Standing(
        released=None if ledger.released is None else ledger.released.refuse,
        drained=tuple(model.name for model in models if model.drained),
        pins={m.name: Pin(m.pinned, m.spec.pinned) for m in models if m.pinned != m.spec.pinned},
    )


def orders(core: Core, standing: Standing) -> list[Event]:
    """What to tell a core that has just been made so that `standing` stands again, as far as it has the models. Nobody
    waits for the replies."""
    found: list[Event] = []
    if standing.released is not None:
        found.append(OperatorRelease(0, standing.released))
    models = core.ledger.models
    found += [OperatorDrain(0, name) for name in standing.drained if name in models]
    for name, pin in standing.pins.items():
        if name in models and models[name].spec.pinned == pin.configured:  # else the file was changed since
            found.append(OperatorPin(0, name) if pin.pinned else OperatorUnpin(0, name))
    return found


def _switch(switch: Switch, now: float) -> SwitchSnapshot:
    if switch.draining:
        phase = ModelState.DRAINING
    elif switch.target is not None and switch.target.state is ModelState.WAKING:
        phase = ModelState.WAKING
    else:
        phase = ModelState.SLEEPING
    to_model = None if switch.target is None else switch.target.name
    return SwitchSnapshot(switch.from_model, to_model, phase, now - switch.began)


def _released(ledger: Ledger, now: float) -> ReleasedSnapshot | None:
    if ledger.released is None:
        return None
    holding = tuple(name for name in ledger.models if name in ledger.holding)
    return ReleasedSnapshot(ledger.released.refuse, max(0.0, now - ledger.released.since), holding)


def _overdue(run: Run, now: float) -> bool:
    timeout = run.model.spec.timeout(run.hook)
    return timeout is not None and now > run.began + timeout + OVERDUE_SECS


def _lost(ledger: Ledger, model: Model, now: float) -> LostSnapshot | None:
    if model.lost_since is None:
        return None
    next_look = ledger.timers.get(f"lost:{model.name}")
    return LostSnapshot(
        since_secs=now - model.lost_since,
        error=model.sleep_error,
        next_look_secs=None if next_look is None else max(0.0, next_look - now),
    )


def _kept(model: Model, now: float) -> KeptSnapshot | None:
    if not model.sleep_failures or model.state not in (ModelState.AWAKE, ModelState.UNCONFIRMED):
        return None
    pause = model.sleep_not_before - now
    return KeptSnapshot(model.sleep_error, pause if pause > 0 else None)


def _model(core: Core, model: Model, now: float) -> ModelSnapshot:
    ledger = core.ledger
    oldest = model.oldest_arrival
    return ModelSnapshot(
        name=model.name,
        state=model.state,
        waiting=model.waiting,
        in_flight=model.in_flight,
        oldest_waiter_age=None if oldest is None else now - oldest,
        devices=tuple(model.placement) if model.placement is not None else (),
        lost=_lost(ledger, model, now),
        pinned=model.pinned,
        drained=model.drained,
        pinned_against=core.planner.pinned_against(model) if model.waiters and not model.closed else (),
        kept=_kept(model, now),
    )
