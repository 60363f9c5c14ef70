"""Switches, from their first drain to the last hook: drain, sleep, wake, and what happens when one of them fails.

Pure. The order of things is fixed here, the choice of what to switch to is not: `Core` brings it from the policy.
"""

from __future__ import annotations

from llmux.core.health import Health, describe
from llmux.core.idle import IdleModels
from llmux.core.ledger import Ledger, Model, Purpose, Run, Switch
from llmux.core.lifecycle import Step
from llmux.core.planning import Planner
from llmux.core.verifying import Verdict, Verifying
from llmux.messages import (
    AbortRequests,
    CloseBackend,
    Hook,
    HookEnded,
    ModelState,
    Outcome,
    Refusal,
    SleepFailed,
    SwitchDrained,
    SwitchEnded,
    SwitchStarted,
)
from llmux.policy.base import Plan


class Switching:
    """Carries switches through. Its methods are called by `Core` with the event that concerns them."""

    def __init__(self, ledger: Ledger, planner: Planner, health: Health, idle: IdleModels) -> None:
        self._ledger = ledger
        self._planner = planner
        self._health = health
        self._idle = idle
        self._verifying = Verifying(ledger)

    # --- beginning and draining ---------------------------------------------------------------------------------

    def begin(self, plan: Plan, now: float, *, by_operator: bool = False, preload: bool = False) -> None:
        """Begin the switch that `plan` describes; it must be sound. Without an operator's command and without
        `preload` it is for those who wait."""
        target = self._ledger.models[plan.model]
        victims = tuple(self._ledger.models[name] for name in plan.victims)
        awake = [victim for victim in victims if victim.awake_since is not None]
        switch = Switch(
            switch_id=self._ledger.next_id(),
            target=target,
            victims=victims,
            from_model=awake[0].name if awake else None,
            placement=self._planner.placement(plan) or target.spec.placements[0],
            began=now,
            by_operator=by_operator,
        )
        cause = "operator" if by_operator else "preload" if preload else "demand"
        self._ledger.out.append(
            SwitchStarted(switch.switch_id, switch.from_model, target.name, plan.victims, plan.devices, cause)
        )
        self._open(switch, now)

    def unload(self, model: Model, now: float, *, reconfiguring: bool = False, yielding: bool = False) -> None:
        """Put `model` to sleep for no other's sake; `reconfiguring` says that it is for the configuration's, `yielding`
        that it is because an operator has closed it."""
        switch = Switch(
            self._ledger.next_id(),
            None,
            (model,),
            model.name,
            {},
            now,
            reconfiguring=reconfiguring,
            yielding=yielding,
        )
        self._open(switch, now)

    def unload_idle(self, model: Model, now: float) -> None:
        """Put `model` to sleep since nobody needs it."""
        self._open(Switch(self._ledger.next_id(), None, (model,), model.name, {}, now), now, Step.IDLE)

    def retire(self, model: Model, now: float) -> None:
        """Put an awake model whose backend fails requests to sleep. Not even if it stays alive does it go back to
        work without having been woken anew."""
        switch = Switch(self._ledger.next_id(), None, (model,), model.name, {}, now)
        self._open(switch, now, Step.RETIRE, trusted=False)

    def _open(self, switch: Switch, now: float, step: Step = Step.DRAIN, *, trusted: bool = True) -> None:
        self._ledger.switches[switch.switch_id] = switch
        if switch.target is not None:
            switch.target.switch = switch
        for victim in switch.victims:
            victim.switch = switch
            victim.kept_if_alive = trusted and victim.state is ModelState.AWAKE
            if victim.state is ModelState.LOST:
                continue
            self._ledger.step(victim, step, now)
            timeout = victim.spec.drain_timeout
            if victim.granted and self._drains(victim) and timeout is not None:
                self._ledger.set_timer(f"drain:{victim.name}", now + timeout)
        self._advance_drain(switch, now)

    def finished(self, model: Model, now: float) -> None:
        """A request of `model` ended: its drain may be over."""
        if model.switch is not None and model.state is ModelState.DRAINING:
            self._advance_drain(model.switch, now)

    def drain_expired(self, model: Model) -> None:
        """The drain's deadline has passed: cut what is still in flight; their ends complete the drain."""
        if model.switch is None or model.state is not ModelState.DRAINING or not model.granted:
            return
        model.switch.aborted += len(model.granted)
        reason = f"drain of {model.name} took longer than {model.spec.drain_timeout:g} s"
        self._ledger.out.append(AbortRequests(model.name, tuple(model.granted), reason))

    def no_longer_wanted(self, target: Model, now: float) -> None:
        """The last who waited for `target` is gone: a switch that only drains so far is called off."""
        switch = target.switch
        if switch is None or switch.target is not target or not switch.draining or switch.by_operator:
            return
        self.call_off(switch, now)

    def call_off(self, switch: Switch, now: float, why: str = "nobody waits for it any more") -> None:
        """Undo a switch that has put nothing to sleep yet."""
        self._close(switch)
        for victim in switch.victims:
            self._ledger.cancel_timer(f"drain:{victim.name}")
            if victim.state is not ModelState.DRAINING:
                continue
            if victim.kept_if_alive:
                self._ledger.step(victim, Step.UNDRAIN, now)
                self._serve(victim, now)
            else:
                self._ledger.step(victim, Step.DIED, now)
                self._idle.begins(victim, now)
        self._ended(switch, "cancelled", now, detail=why)

    def make_void(self, switch: Switch, now: float, why: str) -> None:
        """Its target must not be woken by this switch after all: undo it, or let it end once its victims sleep."""
        if switch.draining:
            self.call_off(switch, now, why)
        else:
            switch.void = why
            switch.placement = {}

    def drain_on(self, now: float) -> None:
        """Whether drains are waited for may have changed."""
        for switch in list(self._ledger.switches.values()):
            if switch.draining:
                self._advance_drain(switch, now)

    def _drains(self, victim: Model) -> bool:
        """Whether requests in flight are waited for. Those of a model that was removed always are."""
        return self._ledger.settings.drain_before_switch or victim.leaving

    def _advance_drain(self, switch: Switch, now: float) -> None:
        if any(victim.granted and self._drains(victim) for victim in switch.victims):
            return
        switch.drained = now
        if switch.from_model is not None and switch.target is not None:
            duration = now - switch.began
            self._ledger.costs.record_drain(switch.from_model, duration)
            self._ledger.out.append(
                SwitchDrained(switch.switch_id, switch.from_model, switch.target.name, duration, switch.aborted)
            )
        for victim in switch.victims:
            self._ledger.cancel_timer(f"drain:{victim.name}")
            self._ledger.out.append(CloseBackend(victim.name))
            self._ledger.step(victim, Step.SLEEP, now)
            victim.sleep_attempt = 0
            self._ledger.run_hook(victim, Hook.SLEEP, Purpose.SLEEP)
        self._wake_if_clear(switch, now)

    # --- sleeping ------------------------------------------------------------------------------------------------

    def sleep_ended(self, run: Run, result: HookEnded, now: float) -> None:
        """A sleep hook is done, for a switch, as clean-up, or to recover a lost model."""
        model = run.model
        if result.outcome is not Outcome.OK:
            self._sleep_failed(model, f"sleep hook of {model.name} {describe(result)}", result, now)
            return
        # Only without draining are there any: whatever the sleep did not end is cut now.
        self._ledger.abort_all(model, f"{model.name} was put to sleep")
        model.sleep_seconds = result.duration
        if model.spec.verify:
            self._verifying.begin(model, now)
        else:
            self._slept(model, now)

    def verified(self, run: Run, result: HookEnded, now: float) -> None:
        """The verify hook has said whether the memory is free."""
        model = run.model
        match self._verifying.verdict(model, result, now):
            case Verdict.FREE:
                model.sleep_seconds += now - model.verify_began
                self._slept(model, now)
            case Verdict.HELD:
                self._still_held(model, result, now)
            case Verdict.UNKNOWN:
                pass

    def verify_due(self, model: Model, now: float) -> None:
        """It is time to ask the verify hook again."""
        if model.state is ModelState.SLEEPING:
            self._verifying.ask(model, now)

    def verify_no_longer(self, model: Model, now: float) -> None:
        """llmux stops, and cannot wait any longer for the memory to come free."""
        self._still_held(model, HookEnded(0, Outcome.CANCELLED, 0.0), now)

    def _still_held(self, model: Model, result: HookEnded, now: float) -> None:
        waited = now - model.verify_began
        why = f"memory of {model.name} is not free {waited:.1f} s after its sleep hook: verify hook {describe(result)}"
        self._sleep_failed(model, why, result, now)

    def _slept(self, model: Model, now: float) -> None:
        switch = model.switch
        if model.kept_if_alive:
            self._ledger.costs.record_sleep(model.name, model.sleep_seconds)
        model.sleep_failures = 0
        model.lost_checks = 0
        model.sleep_not_before = float("-inf")
        self._ledger.step(model, Step.SLEPT, now)
        if switch is None or switch.target is not model:  # else it is about to be woken again
            operators, model.sleep_operators = model.sleep_operators, []
            for operator_id in operators:
                self._ledger.reply(operator_id, model.name)
        if switch is not None:
            if model.kept_if_alive:
                switch.sleep_seconds = max(switch.sleep_seconds, model.sleep_seconds)
            self._wake_if_clear(switch, now)

    def retry_sleep(self, model: Model) -> None:
        """The pause after a failed sleep hook is over."""
        if model.state is ModelState.SLEEPING:
            self._ledger.run_hook(model, Hook.SLEEP, Purpose.SLEEP)

    def _sleep_failed(self, model: Model, why: str, result: HookEnded, now: float) -> None:
        model.sleep_error = why
        if self._ledger.stop is not None and result.outcome is Outcome.CANCELLED:
            self._ledger.step(model, Step.DOUBTED, now)
            if model.switch is not None:
                self._fail(model.switch, model.sleep_error, now, 0.0)
            return
        delays = self._ledger.settings.sleep_retry_delays
        if model.lost_checks == 0 and model.sleep_attempt < len(delays) and self._ledger.stop is None:
            delay = delays[model.sleep_attempt]
            model.sleep_attempt += 1
            self._ledger.set_timer(f"sleep:{model.name}", now + delay)
        else:
            self._ledger.run_hook(model, Hook.ALIVE, Purpose.VOUCH)

    def vouched(self, run: Run, result: HookEnded, now: float) -> None:
        """The alive hook was asked after a sleep that failed for good."""
        model, switch = run.model, run.model.switch
        alive = result.outcome is Outcome.OK
        model.sleep_failures += 1
        pause = self._ledger.backoff(model.sleep_failures)
        model.sleep_not_before = now + pause
        to_model = switch.target.name if switch is not None and switch.target is not None else None
        self._ledger.out.append(SleepFailed(model.name, to_model, model.sleep_error, lost=not alive))
        operators, model.sleep_operators = model.sleep_operators, []
        for operator_id in operators:
            self._ledger.reply(operator_id, model.name, Refusal.HOOK_FAILED, model.sleep_error)
        for order in self._ledger.yields:
            if model.name in order.left:
                order.left.discard(model.name)
                order.failed[model.name] = model.sleep_error
        if switch is not None and switch.target is not model:
            model.switch = None
        if switch is not None and switch.target is model and switch.unproven:
            self._blame_wake(model, switch.unproven, now)
        if not alive:
            self._health.lose(model, now)
        elif model.kept_if_alive:
            self._ledger.step(model, Step.KEPT, now)
            self._serve(model, now)
        else:
            model.lost_checks = 0
            self._ledger.step(model, Step.DOUBTED, now)
        if switch is not None:
            self._fail(switch, model.sleep_error, now, pause)

    def _fail(self, switch: Switch, why: str, now: float, pause: float) -> None:
        """A victim, or a target whose canary failed, could not be put to sleep: those who wait are told at once."""
        switch.failed = switch.failed or (f"{switch.unproven}; {why}" if switch.unproven else why)
        if switch.target is not None:
            detail = switch.failed if switch.unproven else f"no room for {switch.target.name}: {switch.failed}"
            self._ledger.refuse_all(switch.target, Refusal.HOOK_FAILED, detail, now, pause)
        self._wake_if_clear(switch, now)

    # --- waking --------------------------------------------------------------------------------------------------

    def _wake_if_clear(self, switch: Switch, now: float) -> None:
        """Once every victim is dealt with: wake the target, if its room is free and somebody still waits."""
        if any(victim.switch is switch and victim.state is ModelState.SLEEPING for victim in switch.victims):
            return
        target = switch.target
        if switch.unproven and not self._planner.still_fits(switch):
            # It was woken when the configuration changed, and who was found awake since may have a claim on its room.
            switch.void = switch.void or "its room is claimed by another since the configuration changed"
        if switch.failed or switch.void or target is None or target.closed or not target.wanted:
            self._close(switch)
            result = "failure" if switch.failed else "cancelled"
            self._ended(switch, result, now, detail=switch.failed or switch.unproven or switch.void)
            return
        for victim in switch.victims:
            if victim is not target and victim.switch is switch:  # it may be the target of another one by now
                victim.switch = None
        target.placement = switch.placement
        target.placed = True
        self._ledger.step(target, Step.WAKE, now)
        switch.wake_run = self._ledger.run_hook(target, Hook.WAKE, Purpose.WAKE).run_id

    def woke(self, run: Run, result: HookEnded, now: float) -> None:
        """The wake hook is done."""
        model, switch = run.model, self._switch_of(run.model)
        switch.wake_seconds = result.duration
        if result.outcome is not Outcome.OK:
            self._wake_failed(model, switch, f"wake hook of {model.name} {describe(result)}", now)
        elif model.spec.canary and self._ledger.stop is None:
            self._ledger.run_hook(model, Hook.CANARY, Purpose.CANARY)
        else:
            self._woken(model, switch, now)

    def canary_ended(self, run: Run, result: HookEnded, now: float) -> None:
        """A model that was woken has shown whether it serves. If not, it is put to sleep and woken once more."""
        model, switch = run.model, self._switch_of(run.model)
        switch.wake_seconds += result.duration  # a cost like the hook's own: nobody is served before
        if result.outcome is Outcome.OK:
            self._woken(model, switch, now)
            return
        why = f"canary of {model.name} {describe(result)}"
        if switch.unproven or self._ledger.stop is not None:
            woken = self._ledger.stop is not None and result.outcome is Outcome.CANCELLED
            self._wake_failed(model, switch, why, now, woken=woken)
            return
        switch.unproven = why
        self._clean_up(model, Step.UNPROVEN, now)

    def _switch_of(self, model: Model) -> Switch:
        if model.switch is None:
            raise RuntimeError(f"{model.name} was woken by no switch")
        return model.switch

    def _woken(self, model: Model, switch: Switch, now: float) -> None:
        cost = self._learn(model, switch)
        model.found = False
        model.wake_failures = 0
        self._close(switch)
        self._ledger.step(model, Step.WOKE, now)
        self._serve(model, now)
        self._ended(switch, "success", now, cost=cost)

    def _learn(self, model: Model, switch: Switch) -> float | None:
        costs = self._ledger.costs
        if not model.found:  # otherwise it was awake already, and its wake says nothing about a real one
            costs.record_wake(model.name, switch.wake_seconds)
        awake = [victim for victim in switch.victims if victim.kept_if_alive]
        if len(awake) > 1:  # several put to sleep side by side are nobody's pair
            return None
        return costs.record(switch.from_model, model.name, switch.sleep_seconds + switch.wake_seconds)

    def _blame_wake(self, model: Model, why: str, now: float) -> float:
        """Remember that `model` could not be woken; returns for how many seconds it is not tried again."""
        model.wake_failures += 1
        pause = self._ledger.backoff(model.wake_failures)
        model.wake_not_before = now + pause
        model.wake_error = why
        return pause

    def _clean_up(self, model: Model, step: Step, now: float) -> None:
        """Put a model to sleep that was not woken as it should be."""
        model.kept_if_alive = False
        model.sleep_attempt = 0
        self._ledger.out.append(CloseBackend(model.name))
        self._ledger.step(model, step, now)
        self._ledger.abort_all(model, f"{model.name} has to be put to sleep")
        self._ledger.run_hook(model, Hook.SLEEP, Purpose.SLEEP)

    def _wake_failed(self, model: Model, switch: Switch, why: str, now: float, *, woken: bool = False) -> None:
        """`woken` says that only the proof is missing, as llmux stops. A wake that was cut short is cleaned up even
        then: a server that loads on would say no to the next llmux's alive hook, and its memory would be given away."""
        pause = self._blame_wake(model, why, now)
        self._ledger.refuse_all(model, Refusal.HOOK_FAILED, model.wake_error, now, pause)
        self._close(switch)
        if woken:
            self._ledger.step(model, Step.ABANDONED, now)
        else:
            self._clean_up(model, Step.CLEAN_UP, now)
        self._ended(switch, "failure", now, detail=model.wake_error)

    # --- common endings ------------------------------------------------------------------------------------------

    def _serve(self, model: Model, now: float) -> None:
        """An awake model takes on all that waits for it."""
        operators, model.operators = model.operators, []
        for operator_id in operators:
            self._ledger.reply(operator_id, model.name)
        self._ledger.release(model, now)
        self._health.watch(model, now)
        self._idle.begins(model, now)

    def _close(self, switch: Switch) -> None:
        del self._ledger.switches[switch.switch_id]
        if switch.target is not None:
            switch.target.preloading = False
        for model in (*switch.victims, *([switch.target] if switch.target is not None else [])):
            if model.switch is switch:
                model.switch = None
                self._health.in_hand_no_longer(model)

    def _ended(self, switch: Switch, result: str, now: float, *, cost: float | None = None, detail: str = "") -> None:
        if switch.target is None:
            return
        self._ledger.out.append(
            SwitchEnded(
                switch_id=switch.switch_id,
                from_model=switch.from_model,
                to_model=switch.target.name,
                result=result,
                duration=now - switch.began,
                sleep=switch.sleep_seconds,
                wake=switch.wake_seconds,
                cost=cost,
                detail=detail,
            )
        )
