"""Whether what has begun will go on: for the invariants, and for probes that must tell when it does not.

Pure; part of the core. Reads, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmux.core.ledger import Ledger, Model, Purpose
from llmux.messages import ModelState
from llmux.snapshot import OVERDUE_SECS

#: What gets a model out of a state in which it must not stay for ever: the end of such runs, and such timers.
_CARRIED: Mapping[ModelState, tuple[frozenset[Purpose], tuple[str, ...]]] = {
    ModelState.WAKING: (frozenset({Purpose.WAKE, Purpose.CANARY}), ()),
    ModelState.SLEEPING: (frozenset({Purpose.SLEEP, Purpose.VERIFY, Purpose.VOUCH}), ("sleep", "verify")),
    ModelState.LOST: (frozenset({Purpose.RECHECK, Purpose.REVERIFY}), ("lost",)),
}


def goes_on(ledger: Ledger, model: Model) -> bool:
    """Whether anything that is under way, or a timer, will get `model` out of its state; also where it may stay there
    for ever. O(running hooks)."""
    if model.state not in _CARRIED:
        return True
    purposes, timers = _CARRIED[model.state]
    if any(f"{timer}:{model.name}" in ledger.timers for timer in timers):
        return True
    if model.state is ModelState.LOST and (ledger.stop is not None or model.switch is not None):
        return True
    return any(r.model is model and (r.purpose in purposes or r.then in purposes) for r in ledger.runs.values())


def wedged(ledger: Ledger, model: Model, now: float) -> str:
    """What about `model` will never end, in a few words; empty if all goes on. Only a fault of llmux makes it so."""
    if not goes_on(ledger, model):
        return f"{model.name} is {model.state}, and nothing is under way that would end that"
    switch, timeout = model.switch, model.spec.drain_timeout
    if model.state is not ModelState.DRAINING or switch is None:
        return ""
    if not any(victim.granted for victim in switch.victims):
        return f"{model.name} is draining, and has nothing in flight"
    expired = timeout is not None and f"drain:{model.name}" not in ledger.timers
    if model.granted and expired and now > switch.began + (timeout or 0.0) + OVERDUE_SECS:
        return f"the drain of {model.name} has not ended, although its time is over"
    return ""
