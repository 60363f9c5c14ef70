"""Another configuration while everything runs: what is new joins, what is gone leaves, and the rest goes on.

Pure; part of the core. Rules, so that no memory is ever promised twice:

- A model that may hold memory keeps the larger of its old and its new claim until it is asleep. New needs count from
  its next wake.
- Where the devices have no room any more for all that is awake, what costs least to lose is drained and put to
  sleep; so is a model whose device is gone. Until they sleep, nobody is woken in their place.
- A device that is gone may have been renamed. So whoever holds memory of it claims all of every device that is new
  in this file, or in a later one, until it is asleep.
- A switch that has not begun to wake its target is undone if that target no longer fits where it was meant to go, or,
  while it only drains, if there is anything new about needs and devices; then it is planned again.
- A model that is removed finishes what it has in flight, is put to sleep, and is forgotten then. If it comes back
  before, it goes on where it was.
- A model that is added is asked first whether it is awake, like all of them at the start.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from llmux.core.devices import Candidate, choose_victims, free_after
from llmux.core.health import Health
from llmux.core.ledger import Ledger, Model
from llmux.core.planning import Planner
from llmux.core.settings import IMPLICIT_DEVICE, CoreSettings, ModelSpec, Placement
from llmux.core.switching import Switching
from llmux.messages import ModelRemoved, ModelState, Refusal

_WHY = "the configuration changed"

#: Kinds of timers that belong to one model.
_TIMERS = ("check", "drain", "sleep", "verify", "lost", "leave", "yield", "idle")


class Reconfigure:
    """Applies a configuration, and carries on with what that takes longer than a moment."""

    def __init__(self, ledger: Ledger, planner: Planner, switching: Switching, health: Health) -> None:
        self._ledger = ledger
        self._planner = planner
        self._switching = switching
        self._health = health

    def apply(self, settings: CoreSettings, now: float) -> None:
        """Take `settings` in place of those there are. O(everything that waits)."""
        ledger = self._ledger
        old, ledger.settings = ledger.settings, settings
        ledger.configured = ledger.last_id
        joining = self._exchange_models(settings)
        self._remove_those_gone(settings, now)
        for model in ledger.holding.values():
            if model not in joining and model.placement is not None:
                self._reclaim(model, model.placement, settings.devices, old.devices)
        self._planner.reconfigured()
        self._health.join(joining)
        ledger.crowded = True
        self._make_room()
        self._undo_what_no_longer_fits(now, anew=_room(old) != _room(settings))
        if old.request_timeout != settings.request_timeout:
            self._set_deadlines(settings.request_timeout)
        if old.alive_interval != settings.alive_interval:
            self._watch_anew(now)
        self._switching.drain_on(now)
        for model in list(ledger.waiting_models.values()):
            if model.state is ModelState.AWAKE:
                ledger.release(model, now)  # more of them may be in flight now

    def carry_on(self, now: float) -> None:
        """Send those off who must go and can, and forget those who are gone. O(models that hold memory)."""
        if self._ledger.crowded:
            self._make_room()
        for model in list(self._ledger.outgoing.values()):
            if model.state is ModelState.ASLEEP:
                if not model.leaving:
                    self._stays(model)
                elif not model.granted and not any(run.model is model for run in self._ledger.runs.values()):
                    self._forget(model)
            elif model.switch is None and model.asked and model.state in (ModelState.AWAKE, ModelState.UNCONFIRMED):
                if now < model.sleep_not_before:
                    self._ledger.set_timer(f"leave:{model.name}", model.sleep_not_before)
                else:
                    self._switching.unload(model, now, reconfiguring=True)

    # --- models ---------------------------------------------------------------------------------------------------

    def _exchange_models(self, settings: CoreSettings) -> list[Model]:
        """Put the models in order, with their new specs; those that left come last. Returns the new ones."""
        ledger = self._ledger
        joining: list[Model] = []
        models: dict[str, Model] = {}
        for order, spec in enumerate(settings.models):
            known = ledger.models.get(spec.name)
            if known is None:
                known = Model(spec=spec, order=order)
                joining.append(known)
                ledger.holding[spec.name] = known
                ledger.set_closed(known)  # where llmux is released, it is so for newcomers too
            elif known.spec.pinned != spec.pinned:
                known.pinned = spec.pinned  # else what an operator has ordered stands
            known.spec, known.order, known.leaving = spec, order, False
            self._stays(known)  # until it turns out that it cannot
            models[spec.name] = known
        for model in ledger.models.values():
            if model.name not in models:
                model.order = len(models)
                models[model.name] = model
        ledger.models = models
        return joining

    def _remove_those_gone(self, settings: CoreSettings, now: float) -> None:
        configured = {spec.name for spec in settings.models}
        for model in self._ledger.models.values():
            if model.name in configured or model.leaving:
                continue
            model.leaving = True
            self._goes(model)
            self._ledger.refuse_all(model, Refusal.MODEL_NOT_FOUND, f"Model not found: {model.name}", now)

    def _forget(self, model: Model) -> None:
        ledger = self._ledger
        for kind in _TIMERS:
            ledger.cancel_timer(f"{kind}:{model.name}")
        operators = [*model.sleep_operators, *model.check_operators]
        model.sleep_operators, model.check_operators = [], []
        for operator_id in operators:
            ledger.reply(operator_id, model.name)
        ledger.commanded.pop(model.name, None)
        ledger.closed.pop(model.name, None)
        del ledger.outgoing[model.name]
        del ledger.models[model.name]
        ledger.costs.forget(model.name)
        ledger.out.append(ModelRemoved(model.name))

    def _goes(self, model: Model) -> None:
        model.must_go = True
        self._ledger.outgoing[model.name] = model

    def _stays(self, model: Model) -> None:
        model.must_go = False
        self._ledger.outgoing.pop(model.name, None)
        self._ledger.cancel_timer(f"leave:{model.name}")

    # --- room -----------------------------------------------------------------------------------------------------

    def _reclaim(self, model: Model, held: Placement, devices: Mapping[str, int], known: Collection[str]) -> None:
        """Say in terms of the new devices and needs what `model`, which may hold `held`, may hold. `known` are the
        devices that there were."""
        # One that was removed has no new needs. Where its memory cannot be told by the new names, it may be anywhere.
        spec = msgspec.structs.replace(model.spec, placements=(dict(devices),)) if model.leaving else model.spec
        claim, stays = claim_after(held, spec, devices, sure=model.asked and model.placed)
        model.adrift = adrift_after(held, devices, known, model.adrift)
        if model.adrift is not None:
            claim, stays = {**claim, **{device: devices[device] for device in model.adrift}}, False
            model.placed = False
        model.placement = claim
        if model.state is ModelState.WAKING and model.switch is not None:
            model.switch.placement = claim
        if model.state is ModelState.UNCONFIRMED and model.switch is None:
            model.placed = model.placed and claim in spec.placements
        if not stays:
            self._goes(model)

    def _make_room(self) -> None:
        """Where more is awake than there is room for, choose who must go."""
        ledger = self._ledger
        awake = [
            model
            for model in ledger.holding.values()
            if model.state in (ModelState.AWAKE, ModelState.WAKING, ModelState.DRAINING)
            and not model.must_go
            and model.placement is not None
        ]
        # A model that sleeps or goes may yet stay awake, if its sleep fails: only then can it be too much.
        ledger.crowded = any(m.must_go or m.state is ModelState.SLEEPING for m in ledger.holding.values())
        free = free_after(ledger.settings.devices, [m.placement for m in awake if m.placement is not None])
        if all(amount >= 0 for amount in free.values()):
            return
        # Who drains anyway goes first, who is being woken for others last.
        worth, now = self._planner.worth, self._planner.now
        costs = {m: 0.0 if m.state is ModelState.DRAINING else worth.credit(m, now) for m in awake}
        least = 1.0 + sum(costs.values())
        candidates = [
            Candidate(m.name, m.placement, costs[m] + (least if m.state is ModelState.WAKING or m.pinned else 0.0))
            for m in sorted(awake, key=lambda m: (m.last_used, m.order))
            if m.placement is not None
        ]
        for name in choose_victims(dict.fromkeys(free, 0), free, candidates) or ():
            self._goes(ledger.models[name])
        ledger.crowded = True

    def _undo_what_no_longer_fits(self, now: float, *, anew: bool) -> None:
        """`anew`: needs or devices are others now, so whatever only drains is better planned again."""
        for switch in list(self._ledger.switches.values()):
            if switch.switch_id not in self._ledger.switches:
                continue
            if switch.target is None:
                # Sent off by an earlier configuration, and there is room for it after all.
                staying = [v for v in switch.victims if not (v.must_go or v.sleep_operators)]
                if switch.reconfiguring and switch.draining and len(staying) == len(switch.victims):
                    self._switching.call_off(switch, now, _WHY)
                continue
            again = anew and switch.draining
            if switch.target.state is not ModelState.WAKING and (again or not self._planner.still_fits(switch)):
                self._switching.make_void(switch, now, _WHY)

    # --- time -----------------------------------------------------------------------------------------------------

    def _set_deadlines(self, timeout: float | None) -> None:
        """The time that a request may wait counts from its arrival, for those who wait already too."""
        ledger = self._ledger
        ledger.cancel_timer("wait")
        for model in ledger.waiting_models.values():
            for request in model.waiters.values():
                request.deadline = None if timeout is None else request.arrived + timeout
        if timeout is not None and ledger.waiting_models:
            oldest = min(m.oldest_arrival for m in ledger.waiting_models.values() if m.oldest_arrival is not None)
            ledger.set_timer("wait", max(oldest + timeout, self._planner.now))

    def _watch_anew(self, now: float) -> None:
        for model in self._ledger.models.values():
            self._ledger.cancel_timer(f"check:{model.name}")
            if model.state in (ModelState.AWAKE, ModelState.DRAINING):
                self._health.watch(model, now)


def _room(settings: CoreSettings) -> tuple[dict[str, int], dict[str, tuple[dict[str, int], ...]]]:
    """What there is, and who needs what."""
    return settings.devices, {spec.name: spec.placements for spec in settings.models}


def claim_after(
    held: Placement, spec: ModelSpec, devices: Mapping[str, int], *, sure: bool = True
) -> tuple[Placement, bool]:
    """What a model that holds `held` must be taken to hold now that the configuration says `spec` and `devices`; and
    whether it can stay where it is. `sure` says that it is known to have been given `held`, and nothing else."""
    left = {device: amount for device, amount in held.items() if device in devices}
    if not sure:
        return _larger(left, *spec.placements), True
    if len(left) == len(held):
        same = [placement for placement in spec.placements if placement.keys() == held.keys()]
        return _larger(held, *same), True
    if IMPLICIT_DEVICE in held or IMPLICIT_DEVICE in devices:
        # Devices have been declared, or are not any more: the same memory by other names.
        return _larger(*spec.placements), len(spec.placements) == 1
    return left, False


def adrift_after(
    held: Placement, devices: Mapping[str, int], known: Collection[str], before: frozenset[str] | None
) -> frozenset[str] | None:
    """Which of `devices` may be, by another name, one that a model holds memory of and that is gone; None if none of
    them is. `held` is what it was taken to hold when the devices were `known`, `before` what was said of them then."""
    gone = any(amount and device not in devices for device, amount in held.items())
    if before is None and (not gone or IMPLICIT_DEVICE in held or IMPLICIT_DEVICE in devices):
        return None
    return frozenset(device for device in devices if device not in known or device in (before or ()))


def _larger(*claims: Placement) -> dict[str, int]:
    """All of them on one another: on each device the largest."""
    largest: dict[str, int] = {}
    for claim in claims:
        for device, amount in claim.items():
            largest[device] = max(amount, largest.get(device, 0))
    return largest
