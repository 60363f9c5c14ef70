"""What must be true after every event, whatever happened: checked by the tests and the simulator.

Reads, changes nothing. O(everything), so never called on the request path.
"""

from __future__ import annotations

from llmux.core.core import Core
from llmux.core.devices import free_after
from llmux.core.ledger import Model
from llmux.core.lifecycle import HOLDING
from llmux.core.progress import goes_on
from llmux.messages import ModelState


def violations(core: Core) -> list[str]:
    """All broken invariants, each in a sentence; none if all is well."""
    found: list[str] = []
    ledger, settings = core.ledger, core.settings
    trusted = [
        model
        for model in ledger.models.values()
        if not model.must_go  # the configuration took its room away, and it is on its way
        and (
            model.state in (ModelState.AWAKE, ModelState.WAKING)
            or (model.state is ModelState.DRAINING and model.kept_if_alive)
        )
    ]
    for name, free in free_after(settings.devices, [m.placement for m in trusted if m.placement is not None]).items():
        if free < 0:
            found.append(f"device {name} is overcommitted by {-free} to {[m.name for m in trusted]}")
    for waking in (model for model in ledger.models.values() if model.state is ModelState.WAKING):
        claims = [m.placement for m in ledger.holding.values() if m.placement is not None]
        left = free_after(settings.devices, claims)
        # Where the configuration changed since its wake began, others may claim what was free then.
        since = waking.switch is not None and waking.switch.wake_run > ledger.configured
        for name in (waking.placement or ()) if since else ():
            if left[name] < 0:
                found.append(f"{waking.name} is waking while the owner of {name} is not known")
        if waking.switch is None:
            found.append(f"{waking.name} is waking for no switch")
    queued = 0
    for model in ledger.models.values():
        queued += len(model.waiters)
        if (model.name in ledger.waiting_models) != bool(model.waiters):
            found.append(f"{model.name} has {len(model.waiters)} waiters but its place among the waiting is wrong")
        if (model.name in ledger.holding) != (model.state in HOLDING):
            found.append(f"{model.name} is {model.state} but its place among the holding is wrong")
        if model.state is ModelState.AWAKE and model.waiters and not (model.full or model.closed):
            found.append(f"{model.name} is awake and keeps {len(model.waiters)} waiting")
        if model.state is ModelState.ASLEEP and model.placement is not None:
            found.append(f"{model.name} is asleep and claims {model.placement}")
        if model.state is not ModelState.ASLEEP and model.placement is None and not core.probing:
            found.append(f"{model.name} is {model.state} and claims nothing")
        if model.switch is not None and model.switch.switch_id not in ledger.switches:
            found.append(f"{model.name} belongs to a switch that is over")
        if model.state in (ModelState.DRAINING, ModelState.WAKING) and model.switch is None:
            found.append(f"{model.name} is {model.state} outside of any switch")
        for request in (*model.waiters.values(), *model.granted.values()):
            if ledger.requests.get(request.request_id) is not request:
                found.append(f"request {request.request_id} of {model.name} is not in the books")
        if any(r.granted_at is not None for r in model.waiters.values()):
            found.append(f"{model.name} keeps a granted request waiting")
        if any(r.granted_at is None for r in model.granted.values()):
            found.append(f"{model.name} serves a request that was not granted")
        if model.must_go != (model.name in ledger.outgoing):
            found.append(f"{model.name} must go: {model.must_go}, but its place among the outgoing is wrong")
        if model.leaving and (model.waiters or model.operators):
            found.append(f"{model.name} was removed, and somebody waits for it")
        found += _closing(core, model)
        if model.operators and model.name not in ledger.commanded:
            found.append(f"a command for {model.name} is forgotten")
    if queued != ledger.queued:
        found.append(f"{queued} wait, the books say {ledger.queued}")
    in_flight = sum(len(model.granted) for model in ledger.models.values())
    if queued + in_flight != len(ledger.requests):
        found.append(f"{len(ledger.requests)} requests in the books, {queued} waiting, {in_flight} in flight")
    for model in ledger.models.values():
        if not goes_on(ledger, model):
            found.append(f"{model.name} is {model.state}, and nothing will ever end that")
    for run_id, run in ledger.runs.items():
        if run.run_id != run_id:
            found.append(f"run {run.run_id} is in the books as {run_id}")
    found += _stuck(core)
    return found


def _closing(core: Core, model: Model) -> list[str]:
    """What is wrong with a model that operators have, or have not, taken out of use."""
    ledger, found = core.ledger, []
    if not model.closed == (model.name in ledger.closed) == (model.drained or ledger.released is not None):
        found.append(f"{model.name} is closed: {model.closed}, and its place among the closed is wrong")
    if not model.closed:
        return found
    if model.operators:
        found.append(f"{model.name} is closed, and somebody was promised that it will be awake")
    if model.state is ModelState.WAKING and model.switch is not None and model.switch.wake_run > model.closed_after:
        found.append(f"{model.name} was woken although it is closed")
    idle = model.state in (ModelState.AWAKE, ModelState.UNCONFIRMED) and model.switch is None and model.asked
    if idle and ledger.stop is None and not core.probing and f"yield:{model.name}" not in ledger.timers:
        found.append(f"{model.name} is closed and {model.state}, and nothing will put it to sleep")
    return found


def _stuck(core: Core) -> list[str]:
    """Waiters that nothing under way, no timer and no other event to come would ever serve or end."""
    ledger = core.ledger
    # A full model takes the next one as soon as one of those that it serves has ended; those of a closed one, and of
    # one that has no room because of pinned ones, wait because an operator wants them to.
    waits = ledger.waiting_models.values()
    if core.starved:  # it was told, and the policy wants it so
        return []
    if ledger.runs or ledger.switches or all(m.full or m.closed or core.planner.pinned_against(m) for m in waits):
        return []
    if not core.probing and not any(key == "recheck" or key.startswith(("sleep:", "verify:")) for key in ledger.timers):
        return [f"{ledger.queued} wait, and nothing is under way for them"]
    return []
