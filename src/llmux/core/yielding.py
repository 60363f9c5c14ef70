"""Models that an operator has taken out of use: the whole of them (a release: somebody else needs the devices), or one
(a drain). Pure; part of the core.

Such a model is *closed*: it is given no requests and is not woken. What it has in flight may finish, as in any drain;
then it is put to sleep, its verify hook asked as always. One that is being woken at that moment is put to sleep once it
is awake, since a wake that is cut short leaves behind nobody knows what. A model that cannot be put to sleep is told of
to whoever gave the order, and is tried again, ever less often, for as long as it is closed; a lost one is looked at
again as it always is. Requests for closed models wait in their queues, under the limits and deadlines that they always
have, unless the release says that they are refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmux.core.health import Health
from llmux.core.ledger import Ledger, Model, Release, Yield
from llmux.core.switching import Switching
from llmux.messages import (
    DrainChanged,
    ModelState,
    OperatorDrain,
    OperatorRelease,
    OperatorResume,
    OperatorUndrain,
    Refusal,
    Released,
    Resumed,
)

#: What clients are told who are refused, and after how many seconds they may try again: nobody knows.
REFUSED = "llmux has given its devices away for a while; requests are refused until an operator resumes it"
REFUSED_RETRY_SECS = 30.0

_WHY_CLOSED = "an operator took it out of use"
_WHY_REOPENED = "an operator put it back into use"


def closed_detail(ledger: Ledger, model: Model) -> tuple[Refusal, str]:
    """Why nobody can have `model`, which is closed, awake."""
    if ledger.released is not None:
        return Refusal.RELEASED, "llmux is released and wakes nothing; `llmux resume` ends that"
    return Refusal.DRAINED, f"{model.name} is drained; `llmux undrain {model.name}` ends that"


class Yielding:
    """Closes and reopens models, and sees to it that those that are closed get to sleep."""

    def __init__(self, ledger: Ledger, switching: Switching, health: Health) -> None:
        self._ledger = ledger
        self._switching = switching
        self._health = health

    # --- orders ---------------------------------------------------------------------------------------------------

    def release(self, event: OperatorRelease, now: float) -> None:
        """Somebody else needs the devices. A second release changes what becomes of requests, if it says so."""
        ledger = self._ledger
        if self._stopping(event.operator_id, ""):
            return
        known = ledger.released
        if known is None or known.refuse != event.refuse:
            ledger.released = Release(event.refuse, now if known is None else known.since)
            ledger.out.append(Released(event.refuse))
        ledger.yields.append(Yield(event.operator_id, "", set(ledger.models)))
        self._close(ledger.models.values(), now)
        if event.refuse:
            for model in list(ledger.waiting_models.values()):
                ledger.refuse_all(model, Refusal.RELEASED, REFUSED, now, REFUSED_RETRY_SECS)

    def resume(self, event: OperatorResume, now: float) -> None:
        """The devices are back. What was not put to sleep yet stays awake; what was wakes when it is asked for."""
        ledger = self._ledger
        if self._stopping(event.operator_id, ""):
            return
        if ledger.released is not None:
            ledger.released = None
            ledger.out.append(Resumed())
            self._give_up("", "llmux was resumed before everything was asleep")
            self._reopen(ledger.models.values(), now)
        ledger.reply(event.operator_id, "")

    def drain(self, event: OperatorDrain, now: float) -> None:
        """Somebody wants one model to finish, sleep, and stay asleep."""
        model = self._known(event.operator_id, event.model)
        if model is None:
            return
        if not model.drained:
            model.drained = True
            self._ledger.out.append(DrainChanged(model.name, True))
        self._ledger.yields.append(Yield(event.operator_id, model.name, {model.name}))
        self._close((model,), now)

    def undrain(self, event: OperatorUndrain, now: float) -> None:
        """That model may be given requests again, and woken for them, unless llmux is released."""
        model = self._known(event.operator_id, event.model)
        if model is None:
            return
        if model.drained:
            model.drained = False
            self._ledger.out.append(DrainChanged(model.name, False))
            self._give_up(model.name, f"{model.name} was undrained before it was asleep")
            self._reopen((model,), now)
        self._ledger.reply(event.operator_id, event.model)

    def _stopping(self, operator_id: int, name: str) -> bool:
        if self._ledger.stop is None:
            return False
        self._ledger.reply(operator_id, name, Refusal.SHUTTING_DOWN, "llmux is shutting down")
        return True

    def _known(self, operator_id: int, name: str) -> Model | None:
        model = self._ledger.models.get(name)
        if model is None or model.leaving:
            self._ledger.reply(operator_id, name, Refusal.MODEL_NOT_FOUND, f"Model not found: {name}")
            return None
        return None if self._stopping(operator_id, name) else model

    def _give_up(self, model: str, why: str) -> None:
        """Tell those whose order was taken back before it was carried out."""
        ledger = self._ledger
        orders = [order for order in ledger.yields if order.model == model]
        ledger.yields = [order for order in ledger.yields if order.model != model]
        for order in orders:
            ledger.reply(order.operator_id, model, Refusal.NOT_READY, why)

    # --- closing and reopening ------------------------------------------------------------------------------------

    def _close(self, models: Iterable[Model], now: float) -> None:
        ledger = self._ledger
        closed = list(models)
        for model in closed:  # all of them first: no switch that is called off below may grant anything
            ledger.set_closed(model)
            operators, model.operators = model.operators, []
            for operator_id in operators:
                ledger.reply(operator_id, model.name, *closed_detail(ledger, model))
        for model in closed:
            model.sleep_not_before = float("-inf")  # an order does not wait for a back-off
            switch = model.switch
            if switch is not None and switch.target is model and model.state is not ModelState.WAKING:
                self._switching.make_void(switch, now, _WHY_CLOSED)
        for model in closed:
            if model.state is ModelState.LOST and model.switch is None and not self._health.looking(model):
                ledger.cancel_timer(f"lost:{model.name}")
                self._health.recheck_due(model)

    def _reopen(self, models: Iterable[Model], now: float) -> None:
        ledger = self._ledger
        reopened = [model for model in models if model.closed]
        for model in reopened:
            ledger.set_closed(model)
        for model in reopened:
            if model.closed:
                continue  # still drained, or llmux still released
            ledger.cancel_timer(f"yield:{model.name}")
            switch = model.switch
            if switch is not None and switch.yielding and switch.draining:
                self._switching.call_off(switch, now, _WHY_REOPENED)
            elif switch is None and model.state is ModelState.AWAKE:
                ledger.release(model, now)

    # --- getting them to sleep ------------------------------------------------------------------------------------

    def carry_on(self, now: float) -> None:
        """Put those to sleep that are closed and can be, and answer the orders that have come to their end.
        O(closed models)."""
        ledger = self._ledger
        for model in list(ledger.closed.values()):
            if model.switch is not None or not model.asked:
                continue
            if model.state not in (ModelState.AWAKE, ModelState.UNCONFIRMED):
                continue
            if now < model.sleep_not_before:
                ledger.set_timer(f"yield:{model.name}", model.sleep_not_before)
            else:
                self._switching.unload(model, now, yielding=True)
        for order in list(ledger.yields):
            self._answer(order)

    def _answer(self, order: Yield) -> None:
        ledger = self._ledger
        order.left = {
            name
            for name in order.left
            if (model := ledger.models.get(name)) is not None and model.state is not ModelState.ASLEEP
        }
        if order.left:
            return
        ledger.yields.remove(order)
        # Somebody who could not be put to sleep at first may have been since.
        failed = [model for name in order.failed if (model := ledger.holding.get(name)) is not None]
        if not failed:
            ledger.reply(order.operator_id, order.model)
            return
        lost = any(model.state is ModelState.LOST for model in failed)
        told = "; ".join(f"{model.name} is {model.state} ({order.failed[model.name]})" for model in failed)
        detail = f"not asleep: {told}. Nothing is woken meanwhile, and it is tried again"
        ledger.reply(order.operator_id, order.model, Refusal.DEVICE_LOST if lost else Refusal.HOOK_FAILED, detail)
