"""When a model can be expected to take requests: what those who are turned away are told about coming back.

Pure. Reads the books, changes nothing. A guess: no policy is asked, and no deadline is taken for what something takes.
"""

from __future__ import annotations

from llmux.core.ledger import Ledger, Model, Switch
from llmux.messages import ModelState, Prospects

#: Seconds that a request is taken to need, before one has ended.
SERVICE_PRIOR = 5.0


def outlook(ledger: Ledger, model: Model, now: float) -> float:
    """Seconds until `model` is likely to take requests again, from what switches, drains and requests have taken so
    far; 0 if that time has come. O(models that hold memory, and switches under way)."""
    if model.state is ModelState.AWAKE and model.switch is None:
        return _service(model) / max(1, model.in_flight) if model.full else 0.0
    if model.switch is not None and model.switch.target is model:
        return _rest(ledger, model.switch, now)
    before = 0.0
    awake = None
    for switch in ledger.switches.values():
        rest = _rest(ledger, switch, now)
        if switch.target is not None and rest >= before:
            awake = switch.target.name  # will be, and must make room then
        before = max(before, rest)
    if awake is None:
        holder = max(
            (one for one in ledger.holding.values() if one.state is ModelState.AWAKE),
            key=lambda one: (one.last_used, -one.order),
            default=None,
        )
        awake = None if holder is None else holder.name
    drain = 0.0 if awake is None else ledger.costs.drain(awake) or 0.0
    pause = max(0.0, model.wake_not_before - now)
    return max(pause, before + drain) + ledger.costs.expected(awake, model.name)


def prospects(ledger: Ledger, model: Model, now: float, pinned: tuple[str, ...] = ()) -> Prospects:
    """Where those who wait for `model` stand, for which there is no room as long as `pinned` are. O(those, and what
    `outlook` looks at)."""
    in_order = model.waiters.in_order(ledger.settings.level_seconds)
    places = {request.request_id: ahead for ahead, request in enumerate(in_order)}
    if model.closed or pinned:
        if ledger.released is not None:
            why = "llmux is released"
        elif model.closed:
            why = f"{model.name} is drained"
        else:
            why = f"no room while {', '.join(pinned)} {'is' if len(pinned) == 1 else 'are'} pinned"
        return Prospects(places, 0.0, held=why)  # for how long, nobody knows
    most = model.spec.max_in_flight
    if most is None:
        return Prospects(places, outlook(ledger, model, now))
    at_once = 1 if model.state is ModelState.AWAKE and model.switch is None else most
    return Prospects(places, outlook(ledger, model, now), at_once, _service(model) / most)


def _service(model: Model) -> float:
    """Seconds that a request takes."""
    return SERVICE_PRIOR if model.service_time is None else model.service_time


def _rest(ledger: Ledger, switch: Switch, now: float) -> float:
    """Seconds that a switch will go on."""
    costs = ledger.costs
    names = [victim.name for victim in switch.victims]
    drained = switch.drained
    if drained is None:
        drained = max(now, switch.began + max((costs.drain(name) or 0.0 for name in names), default=0.0))
    if switch.target is None:
        takes = max((costs.sleep(name) or 0.0 for name in names), default=0.0)
    else:
        takes = costs.expected(switch.from_model, switch.target.name)
    return max(0.0, drained + takes - now)
