"""Who is awake, who is well, who is lost: everything that the alive hook is asked for.

Pure. At the start every model is asked, before anything is woken; awake models are asked now and then, and at once when
their backend refuses a connection; a lost model is looked at again until it is known what became of it. Where the alive
hook is not enough, the canary (of an awake model) or the verify hook (of a lost one) is asked too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmux.core.ledger import Ledger, Model, Purpose, Run
from llmux.core.lifecycle import Step
from llmux.messages import (
    NOT_EXECUTED,
    BackendFailed,
    CloseBackend,
    Failure,
    Hook,
    HookEnded,
    ModelDied,
    ModelState,
    Outcome,
    ProbesEnded,
    Refusal,
)

#: A check that failed is repeated this soon, so that a dead model is not relied on for several whole intervals.
_SOON = 2.0


def describe(result: HookEnded) -> str:
    """How a hook run failed, as the end of a sentence that begins with the hook."""
    if result.outcome is Outcome.CANCELLED:
        return "was cancelled"
    fallback = f"exit code {result.exit_code}" if result.outcome is Outcome.FAILED else result.outcome.value
    return f"failed: {result.detail or fallback}"


class Health:
    """Asks alive hooks and draws the conclusions."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._unasked = list(reversed(ledger.models.values()))
        self._asking = 0
        self._past: dict[str, ModelState] = {}  # of models that have not been there yet
        self._asked: list[Model] = []  # since it was last known of everybody
        self.started = False
        self.probing = bool(self._unasked)
        """Whether it is not yet known who was awake at the start."""
        for model in ledger.models.values():
            self._claim(model)

    # --- at the start ----------------------------------------------------------------------------------------

    def start(self, past: Mapping[str, ModelState]) -> None:
        """Ask every model whether it is awake, a few at a time; `past` is what `Start` has."""
        self.started = True
        self._past = dict(past)
        self._remind(self._ledger.models.values())
        self._ask_more()

    def _remind(self, models: Iterable[Model]) -> None:
        for model in models:
            model.past = self._past.pop(model.name, None)
            model.half_woken = model.past is ModelState.WAKING

    def join(self, models: Iterable[Model]) -> None:
        """Some models are new: ask them too. Until one has answered, nobody else gets the room that it may hold."""
        joining = list(models)
        self._remind(joining)
        for model in joining:
            self._claim(model)
            self._unasked.insert(0, model)
        if self.started:
            self._ask_more()

    def stop(self) -> None:
        """Ask nobody any more."""
        self._unasked.clear()
        self.probing = self._asking > 0

    def _ask_more(self) -> None:
        while self._unasked and self._asking < self._ledger.settings.probe_parallel:
            self._asking += 1
            self._ledger.run_hook(self._unasked.pop(), Hook.ALIVE, Purpose.PROBE)

    def _claim(self, model: Model) -> None:
        """Until it is known to be asleep, a model claims its place; all of its places, where it could be in several."""
        claim: dict[str, int] = {}
        for placement in model.spec.placements:
            for device, amount in placement.items():
                claim[device] = max(amount, claim.get(device, 0))
        model.placement = claim
        model.placed = len(model.spec.placements) == 1

    def probed(self, run: Run, result: HookEnded, now: float) -> None:
        """One model's answer. Only a clear no says that it holds nothing; silence does not. Nor does a no where the
        past has something else to say: then its verify hook is asked, if it has one, and else its sleep hook must
        succeed before its memory is another's. A verify hook knows nothing of a server that still loads."""
        model = run.model
        if model.state is ModelState.UNCONFIRMED:
            if result.outcome is not Outcome.FAILED or result.exit_code in NOT_EXECUTED:
                model.found = True
            elif model.past is None:
                self._ledger.step(model, Step.FOUND_ASLEEP, now)
            elif model.spec.verify and not model.half_woken and self._ledger.stop is None:
                self._ledger.run_hook(model, Hook.VERIFY, Purpose.SETTLE)
                return
        self._answered(model)

    def settled(self, run: Run, result: HookEnded, now: float) -> None:
        """The verify hook's answer about a model that an earlier llmux has left in doubt."""
        if run.model.state is ModelState.UNCONFIRMED and result.outcome is Outcome.OK:
            self._ledger.step(run.model, Step.VERIFIED, now)
        self._answered(run.model)

    def _answered(self, model: Model) -> None:
        """It is known as well as it can be whether `model` holds memory."""
        self._asking -= 1
        self._ask_more()
        model.asked = True
        self._asked.append(model)
        if self._asking or self._unasked:
            return
        self.probing = False
        asked, self._asked = self._asked, []
        if self._ledger.stop is None:
            found = sorted((model for model in asked if model.found), key=lambda model: model.order)
            self._ledger.out.append(ProbesEnded(tuple(model.name for model in found)))

    # --- while awake -----------------------------------------------------------------------------------------

    def watch(self, model: Model, now: float) -> None:
        """Check `model` from now on, for as long as it is awake."""
        model.check_failures = 0
        model.check_urgent = False
        model.doubt = ""
        if model.check is not None:
            model.check.stale = True
        self._check_later(model, now)

    def _check_later(self, model: Model, now: float, *, soon: bool = False) -> None:
        interval = self._ledger.settings.alive_interval
        if interval > 0 and self._ledger.stop is None:
            self._ledger.set_timer(f"check:{model.name}", now + (min(interval, _SOON) if soon else interval))

    def check_due(self, model: Model, now: float) -> None:
        """The time for a scheduled check has come."""
        if self._ledger.stop is not None:
            return
        if model.state is ModelState.AWAKE and model.check is None:
            model.check = self._ledger.run_hook(model, Hook.ALIVE, Purpose.CHECK)
        elif model.state is ModelState.DRAINING:
            self._ledger.set_timer(f"check:{model.name}", now + self._ledger.settings.alive_interval)

    def suspect(self, model: Model, event: BackendFailed, now: float) -> None:
        """Its backend failed a request. A connection that could not be made, or broke: ask now, and believe the first
        no; but a backend that nobody has reached for a while and where nobody listens is dead, whoever says otherwise.
        An answer that was an error may be the request's fault: only many of them in a row raise doubt."""
        if model.state is not ModelState.AWAKE or self._ledger.stop is not None:
            return
        count, limit = event.in_a_row, model.spec.doubt_after
        if event.failure is Failure.REFUSED and count >= self._ledger.settings.refusals:
            self._die(model, f"nobody listens at its backend, and {count} requests in a row failed", now)
            return
        if limit is not None and count % limit == 0:
            model.doubt = f"its backend failed {count} requests in a row"
        elif event.failure is Failure.ANSWER:
            return
        model.check_urgent = True
        if model.check is None:
            model.check = self._ledger.run_hook(model, Hook.ALIVE, Purpose.CHECK)

    def checked(self, run: Run, result: HookEnded, now: float) -> bool:
        """A check's answer. Returns whether the model must be put to sleep and woken: it is alive, but no good."""
        model = run.model
        model.check = None
        if model.state is not ModelState.AWAKE:
            return False
        if run.stale:
            if model.check_urgent:
                model.check = self._ledger.run_hook(model, Hook.ALIVE, Purpose.CHECK)
            else:
                self._check_later(model, now)
            return False
        urgent, model.check_urgent = model.check_urgent, False
        doubt, model.doubt = model.doubt, ""
        settings = self._ledger.settings
        answered_no = result.outcome is Outcome.TIMEOUT or (
            result.outcome is Outcome.FAILED and result.exit_code not in NOT_EXECUTED
        )
        model.check_failures = model.check_failures + 1 if answered_no else 0
        if answered_no and (urgent or model.check_failures >= settings.alive_failures):
            self._die(model, f"alive hook {describe(result)}", now)
        elif doubt and self._ledger.stop is None:
            if not model.spec.canary:
                self._blame(model, doubt, now)
                return True
            model.doubt = doubt
            model.check = self._ledger.run_hook(model, Hook.CANARY, Purpose.PROVE)
        else:
            self._check_later(model, now, soon=answered_no)
        return False

    def proved(self, run: Run, result: HookEnded, now: float) -> bool:
        """The answer to the canary of a model whose backend fails requests. Returns what `checked` does: where the
        canary is answered, the requests were at fault."""
        model = run.model
        model.check = None
        if model.state is not ModelState.AWAKE:
            return False
        doubt, model.doubt = model.doubt, ""
        no_good = result.outcome in (Outcome.FAILED, Outcome.TIMEOUT) and not run.stale
        if no_good and self._ledger.stop is None:
            self._blame(model, f"{doubt}, and its canary {describe(result)}", now)
            return True
        if model.check_urgent and self._ledger.stop is None:
            model.check = self._ledger.run_hook(model, Hook.ALIVE, Purpose.CHECK)
        else:
            self._check_later(model, now)
        return False

    def _die(self, model: Model, detail: str, now: float) -> None:
        self._blame(model, detail, now)
        self._ledger.step(model, Step.DIED, now)
        self._ledger.out.append(CloseBackend(model.name))

    def _blame(self, model: Model, detail: str, now: float) -> None:
        """`model` is no good any more: the sooner after its wake, the longer it is not tried again."""
        lived = now - model.awake_since if model.awake_since is not None else 0.0
        model.crashes = 0 if lived >= self._ledger.settings.stable_after else model.crashes + 1
        model.wake_not_before = now + self._ledger.backoff(model.crashes)
        model.wake_error = f"{model.name} died: {detail}"
        self._ledger.cancel_timer(f"check:{model.name}")
        self._ledger.out.append(ModelDied(model.name, detail))

    # --- lost ------------------------------------------------------------------------------------------------

    def lose(self, model: Model, now: float) -> None:
        """Nobody knows whether `model` holds its memory: remember that, and look again later."""
        self._ledger.step(model, Step.LOST, now)
        settings = self._ledger.settings
        pause = min(settings.lost_check_base * 2.0 ** min(model.lost_checks, 30), settings.lost_check_cap)
        model.lost_checks += 1
        self._ledger.set_timer(f"lost:{model.name}", now + pause)
        operators, model.check_operators = model.check_operators, []
        for operator_id in operators:
            self._ledger.reply(operator_id, model.name, Refusal.DEVICE_LOST, model.sleep_error, pause)

    def recheck_due(self, model: Model) -> None:
        """Look at a lost model again."""
        if model.state is ModelState.LOST and model.switch is None and self._ledger.stop is None:
            self._ledger.run_hook(model, Hook.ALIVE, Purpose.RECHECK)

    def in_hand_no_longer(self, model: Model) -> None:
        """A switch that dealt with `model` is over. Looks at a lost one that came due meanwhile were left out, and so
        was an operator who wants one."""
        timer = f"lost:{model.name}"
        waits = timer in self._ledger.timers and not model.check_operators
        if model.state is ModelState.LOST and not waits and not self.looking(model):
            self._ledger.cancel_timer(timer)
            self.recheck_due(model)

    def looking(self, model: Model) -> bool:
        """Whether a lost model is being looked at. O(running hooks)."""
        looks = (Purpose.RECHECK, Purpose.REVERIFY)
        return any(r.model is model and r.purpose in looks and self._recent(r) for r in self._ledger.runs.values())

    @staticmethod
    def _recent(run: Run) -> bool:
        """Whether a look at a lost model began after it was lost. An older one must not declare its memory free."""
        return run.model.lost_since is not None and run.began >= run.model.lost_since

    def _answerable(self, run: Run) -> bool:
        """Whether the end of a look at a lost model has anything to say."""
        model = run.model
        if model.state is not ModelState.LOST or model.switch is not None or self._ledger.stop is not None:
            return False
        return self._recent(run)

    def rechecked(self, run: Run, result: HookEnded, now: float) -> None:
        """Alive means that it is known again; else its verify hook may know that the memory is free; else its sleep
        hook gets another chance to say so."""
        model = run.model
        if not self._answerable(run):
            return
        if result.outcome is Outcome.OK:
            self.found_again(model, Step.VOUCHED, now)
        elif model.spec.verify:
            self._ledger.run_hook(model, Hook.VERIFY, Purpose.REVERIFY)
        else:
            self._sleep_again(model, now)

    def reverified(self, run: Run, result: HookEnded, now: float) -> None:
        """The verify hook's answer about a lost model that is not alive."""
        model = run.model
        if not self._answerable(run):
            return
        if result.outcome is Outcome.OK:
            self.found_again(model, Step.VERIFIED, now)
        else:
            self._sleep_again(model, now)

    def _sleep_again(self, model: Model, now: float) -> None:
        model.kept_if_alive = False
        self._ledger.step(model, Step.SLEEP, now)
        self._ledger.abort_all(model, f"{model.name} has to be put to sleep")
        self._ledger.run_hook(model, Hook.SLEEP, Purpose.SLEEP)

    def found_again(self, model: Model, step: Step, now: float) -> None:
        """It is known what a lost model holds."""
        model.lost_checks = 0
        self._ledger.cancel_timer(f"lost:{model.name}")
        self._ledger.step(model, step, now)
