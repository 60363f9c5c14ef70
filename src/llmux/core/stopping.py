"""The end: nothing new is taken on, what is in flight may finish, and the models are left as wished. Pure; part of the
core."""

from __future__ import annotations

from llmux.core.health import Health
from llmux.core.ledger import Ledger, Purpose
from llmux.core.switching import Switching
from llmux.messages import AbortRequests, LastSleeps, ModelState, OnExit, Refusal, Stop, Stopped

#: Why hooks run whose answer nobody needs any more once llmux stops.
_CURIOUS = frozenset(
    {
        Purpose.PROBE,
        Purpose.SETTLE,
        Purpose.CHECK,
        Purpose.RECHECK,
        Purpose.REVERIFY,
        Purpose.CANARY,
        Purpose.PROVE,
    }
)

#: Once the last sleeps have had their time, what still begins to run is ended after so many seconds.
_AGAIN = 1.0


class Stopping:
    """Brings the core to its end, once `stop` was called."""

    def __init__(self, ledger: Ledger, switching: Switching, health: Health) -> None:
        self._ledger = ledger
        self._switching = switching
        self._health = health
        self._exit_sleeps = False
        self._stopped = False

    def stop(self, event: Stop, now: float) -> None:
        """Refuse what waits and call off what only drains; what is in flight or running has the grace."""
        ledger = self._ledger
        if ledger.stop is not None:
            return
        ledger.stop = event
        self._health.stop()
        for model in ledger.models.values():
            ledger.refuse_all(model, Refusal.SHUTTING_DOWN, "llmux is shutting down", now, 5.0)
            operators = [*model.sleep_operators, *model.check_operators]
            model.sleep_operators, model.check_operators = [], []
            for operator_id in operators:
                ledger.reply(operator_id, model.name, Refusal.SHUTTING_DOWN, "llmux is shutting down")
        yields, ledger.yields = ledger.yields, []
        for order in yields:
            ledger.reply(order.operator_id, order.model, Refusal.SHUTTING_DOWN, "llmux is shutting down")
        for switch in list(ledger.switches.values()):
            if switch.draining and switch.target is not None:
                self._switching.call_off(switch, now)
        ledger.cancel_runs(lambda run: run.purpose in _CURIOUS)
        ledger.set_timer("grace", now + event.grace)

    def grace_over(self, now: float) -> None:
        """What is still in flight or running has had its time."""
        ledger = self._ledger
        for model in ledger.models.values():
            if model.granted:
                ledger.out.append(AbortRequests(model.name, tuple(model.granted), "llmux is shutting down"))
        if not self._exit_sleeps:
            self._end_hooks(now)
            self._bound_sleeps(now)

    def exit_over(self, now: float) -> None:
        """The last sleeps have had their time, and so has what cleans up after wakes that the grace has ended."""
        self._end_hooks(now)
        self._ledger.set_timer("exit", now + _AGAIN)

    def _bound_sleeps(self, now: float) -> None:
        stop = self._ledger.stop
        if stop is not None and stop.sleep_within is not None and "exit" not in self._ledger.timers:
            self._ledger.set_timer("exit", now + stop.sleep_within)

    def _end_hooks(self, now: float) -> None:
        ledger = self._ledger
        ledger.cancel_runs(lambda run: True)
        for model in ledger.models.values():
            if f"verify:{model.name}" in ledger.timers:
                ledger.cancel_timer(f"verify:{model.name}")
                self._switching.verify_no_longer(model, now)

    def go_on(self, now: float) -> None:
        """Once nothing is in flight and no hook runs: the last sleeps, if they are wanted, and then the end."""
        ledger = self._ledger
        if self._stopped or ledger.requests or ledger.runs or self._retries_pending():
            return
        stop = ledger.stop
        if stop is not None and stop.on_exit is OnExit.SLEEP and self._health.started and not self._exit_sleeps:
            self._exit_sleeps = True
            up = (ModelState.AWAKE, ModelState.UNCONFIRMED)
            last = [model for model in ledger.models.values() if model.state in up and model.switch is None]
            if last and stop.sleep_within is not None:
                self._bound_sleeps(now)
                ledger.out.append(LastSleeps(tuple(model.name for model in last), ledger.timers["exit"] - now))
            for model in last:
                self._switching.unload(model, now)
            if ledger.runs:
                return
        self._stopped = True
        for key in list(ledger.timers):
            ledger.cancel_timer(key)
        ledger.out.append(Stopped())

    def _retries_pending(self) -> bool:
        return any(key.startswith(("sleep:", "verify:")) for key in self._ledger.timers)
