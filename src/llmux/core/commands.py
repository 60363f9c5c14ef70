"""What operators order: awake, asleep, free, look again. Pure; part of the core.

A command that cannot be carried out at once waits in its model's books, and is looked at again after every event,
before the policy is asked.
"""

from __future__ import annotations

from llmux.core.health import Health
from llmux.core.ledger import Ledger, Model
from llmux.core.lifecycle import Step
from llmux.core.planning import Planner
from llmux.core.switching import Switching
from llmux.core.yielding import closed_detail
from llmux.messages import (
    ModelState,
    OperatorCheck,
    OperatorFree,
    OperatorPin,
    OperatorSleep,
    OperatorSwitch,
    OperatorUnpin,
    PinChanged,
    Refusal,
)
from llmux.policy.base import Plan


class Commands:
    """Takes commands in and carries them out as soon as that is possible."""

    def __init__(self, ledger: Ledger, planner: Planner, switching: Switching, health: Health) -> None:
        self._ledger = ledger
        self._planner = planner
        self._switching = switching
        self._health = health

    def _known(self, operator_id: int, name: str) -> Model | None:
        model = self._ledger.models.get(name)
        if model is None:
            self._ledger.reply(operator_id, name, Refusal.MODEL_NOT_FOUND, f"Model not found: {name}")
            return None
        if self._ledger.stop is not None:
            self._ledger.reply(operator_id, name, Refusal.SHUTTING_DOWN, "llmux is shutting down")
            return None
        return model

    def switch(self, event: OperatorSwitch, now: float) -> None:
        """Somebody wants a model awake."""
        model = self._known(event.operator_id, event.model)
        if model is None:
            return
        if model.leaving:
            self._ledger.reply(
                event.operator_id, event.model, Refusal.MODEL_NOT_FOUND, f"Model not found: {event.model}"
            )
        elif model.closed:
            reason, detail = closed_detail(self._ledger, model)
            self._ledger.reply(event.operator_id, event.model, reason, detail)
        elif model.state is ModelState.AWAKE:
            self._ledger.reply(event.operator_id, event.model)
        else:
            model.operators.append(event.operator_id)
            self._ledger.commanded[model.name] = model
            if model.switch is not None and model.switch.target is model:
                model.switch.by_operator = True  # it goes on even if every waiter leaves

    def sleep(self, event: OperatorSleep, now: float) -> None:
        """Somebody wants a model asleep."""
        model = self._known(event.operator_id, event.model)
        if model is None:
            return
        if model.state is ModelState.ASLEEP and model.switch is None:
            self._ledger.reply(event.operator_id, event.model)
        else:
            model.sleep_operators.append(event.operator_id)
            self._ledger.commanded[model.name] = model

    def free(self, event: OperatorFree, now: float) -> None:
        """Somebody vouches that a model holds no memory."""
        model = self._known(event.operator_id, event.model)
        if model is None:
            return
        if (
            model.state in (ModelState.LOST, ModelState.UNCONFIRMED)
            and model.switch is None
            and not self._health.probing
        ):
            self._health.found_again(model, Step.FREED, now)
            self._ledger.reply(event.operator_id, event.model)
        elif model.state is ModelState.ASLEEP:
            self._ledger.reply(event.operator_id, event.model)
        else:
            self._ledger.reply(
                event.operator_id, event.model, Refusal.NOT_READY, f"{model.name} is {model.state}, not lost"
            )

    def check(self, event: OperatorCheck, now: float) -> None:
        """Somebody wants a lost model looked at now. One that is not lost has nothing to be looked for."""
        model = self._known(event.operator_id, event.model)
        if model is None:
            return
        if model.lost_since is None:
            self._ledger.reply(event.operator_id, event.model)
            return
        model.check_operators.append(event.operator_id)
        self._ledger.commanded[model.name] = model
        if model.state is ModelState.LOST and model.switch is None and not self._health.looking(model):
            self._ledger.cancel_timer(f"lost:{model.name}")
            self._health.recheck_due(model)

    def pin(self, event: OperatorPin | OperatorUnpin, now: float) -> None:
        """Somebody wants a model to stay awake whoever else is asked for, or not any more. It is not woken for that."""
        model = self._known(event.operator_id, event.model)
        if model is None:
            return
        pinned = isinstance(event, OperatorPin)
        if model.pinned != pinned:
            model.pinned = pinned
            self._ledger.out.append(PinChanged(model.name, pinned))
        self._ledger.reply(event.operator_id, event.model)

    def _refuse_for_pins(self, model: Model, pinned: tuple[str, ...]) -> None:
        """One order must not quietly undo another."""
        many = "are" if len(pinned) > 1 else "is"
        detail = f"there is no room for {model.name} while {', '.join(pinned)} {many} pinned; `llmux unpin` ends that"
        operators, model.operators = model.operators, []
        for operator_id in operators:
            self._ledger.reply(operator_id, model.name, Refusal.NOT_READY, detail)

    def obey(self, now: float) -> None:
        """Operators' commands come before the policy, and before `min_active` and back-off."""
        for model in list(self._ledger.commanded.values()):
            if model.check_operators and model.lost_since is None:
                operators, model.check_operators = model.check_operators, []
                for operator_id in operators:
                    self._ledger.reply(operator_id, model.name)
            if model.sleep_operators and model.switch is None:
                if model.state in (ModelState.AWAKE, ModelState.UNCONFIRMED, ModelState.LOST):
                    self._switching.unload(model, now)
                elif model.state is ModelState.ASLEEP:
                    operators, model.sleep_operators = model.sleep_operators, []
                    for operator_id in operators:
                        self._ledger.reply(operator_id, model.name)
            if model.operators:
                plan = self._planner.plan(model.name, by_operator=True)
                if isinstance(plan, Plan):
                    self._switching.begin(plan, now, by_operator=True)
                elif model.switch is None and (pinned := self._planner.pinned_against(model)):
                    self._refuse_for_pins(model, pinned)
            if not (model.operators or model.sleep_operators or model.check_operators):
                del self._ledger.commanded[model.name]
