"""Models that nobody has asked for in a while are put to sleep, if the configuration wants that.

Pure; part of the core. Each such model has one timer, which is not set anew for every request that ends: when it fires,
it is seen since when the model has had nothing to do, and the timer is set for the rest of the time.
"""

from __future__ import annotations

from llmux.core.ledger import Ledger, Model
from llmux.messages import ModelIdle, ModelState


class IdleModels:
    """Knows since when models have had nothing to do."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def begins(self, model: Model, now: float) -> None:
        """`model`, which may hold its memory, has nothing in flight from `now` on. O(1), and no effect while its timer
        is set."""
        if not model.spec.idle_sleep:
            return
        model.idle_since = now
        key = f"idle:{model.name}"
        if key not in self._ledger.timers:
            self._ledger.set_timer(key, now + model.spec.idle_sleep)

    def due(self, model: Model, now: float) -> bool:
        """Its timer has fired: whether it is to be put to sleep now. Then telemetry is told why."""
        if not model.spec.idle_sleep or self._ledger.stop is not None:
            return False
        if model.state not in (ModelState.AWAKE, ModelState.UNCONFIRMED) or model.switch is not None or model.granted:
            return False  # `begins` is called when that is over
        at = max(model.idle_since + model.spec.idle_sleep, model.sleep_not_before)
        if model.wanted or not model.asked or model.pinned:
            at = max(at, now + model.spec.idle_sleep)
        if now < at:
            self._ledger.set_timer(f"idle:{model.name}", at)
            return False
        self._ledger.out.append(ModelIdle(model.name, now - model.idle_since))
        return True

    def reconfigured(self, now: float) -> None:
        """The settings are others now; the time that a model has had nothing to do already counts. O(models)."""
        for model in self._ledger.models.values():
            self._ledger.cancel_timer(f"idle:{model.name}")
            up = model.state in (ModelState.AWAKE, ModelState.UNCONFIRMED) and model.switch is None
            if up and not model.granted and model.spec.idle_sleep:
                if model.idle_since == float("-inf"):
                    model.idle_since = max(model.last_used, model.awake_since or now)
                self._ledger.set_timer(f"idle:{model.name}", max(now, model.idle_since + model.spec.idle_sleep))
