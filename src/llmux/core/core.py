"""The decision core: events in, effects out.

Pure: no I/O, no clock, no randomness; `now` comes with every event. `handle` is the only way in, and the books change
nowhere else, so whatever drives the core, a live process, the simulator or a recorded log, gets the same effects for
the same events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmux.core.commands import Commands
from llmux.core.counsel import Counsel
from llmux.core.health import Health
from llmux.core.idle import IdleModels
from llmux.core.ledger import Ledger, Model, Purpose, Request, Run
from llmux.core.outlook import Outlook
from llmux.core.planning import Planner
from llmux.core.preload import Preload
from llmux.core.reconfigure import Reconfigure
from llmux.core.settings import ConfigChanged, CoreEvent, CoreSettings
from llmux.core.stopping import Stopping
from llmux.core.switching import Switching
from llmux.core.yielding import REFUSED, REFUSED_RETRY_SECS, Yielding
from llmux.costs import SwitchCostTracker
from llmux.messages import (
    Active,
    Arrived,
    BackendFailed,
    Effect,
    Finished,
    Grant,
    HookEnded,
    Idle,
    Left,
    ModelState,
    OperatorCheck,
    OperatorDrain,
    OperatorFree,
    OperatorPin,
    OperatorRelease,
    OperatorResume,
    OperatorSleep,
    OperatorSwitch,
    OperatorUndrain,
    OperatorUnpin,
    PolicyFault,
    Prospects,
    Refusal,
    Reject,
    Start,
    Stop,
    SwitcherState,
    TimerFired,
)
from llmux.messages import (
    Switching as SwitchingState,
)
from llmux.policy.base import SwitchPolicy
from llmux.policy.registry import load_policy


class Core:
    """Queues, grants and switches for the models and devices of the settings, until `ConfigChanged` brings others.

    Args:
        settings: what the configuration says.
        policy: decides when to switch and to what.
        costs: measured switch costs; the core adds to them.
        make_policy: makes the policy that a `ConfigChanged` names, from its name and options.
    """

    def __init__(
        self,
        settings: CoreSettings,
        policy: SwitchPolicy,
        costs: SwitchCostTracker | None = None,
        make_policy: Callable[[str, Mapping[str, Any]], SwitchPolicy] = load_policy,
    ) -> None:
        self._make_policy = make_policy
        self.costs = costs if costs is not None else SwitchCostTracker()
        self.ledger = Ledger(settings, self.costs)
        self.planner = Planner(self.ledger)
        self._outlook = Outlook(self.ledger, self.planner, policy)
        self._health = Health(self.ledger)
        self._idle = IdleModels(self.ledger)
        self._switching = Switching(self.ledger, self.planner, self._health, self._idle)
        self._preload = Preload(self.ledger, self.planner, self._switching)
        self._commands = Commands(self.ledger, self.planner, self._switching, self._health)
        self._yielding = Yielding(self.ledger, self._switching, self._health)
        self._stopping = Stopping(self.ledger, self._switching, self._health)
        self._reconfigure = Reconfigure(self.ledger, self.planner, self._switching, self._health)
        self._counsel = Counsel(self.ledger, self.planner, policy)
        self._undecided = True  # whether the event at hand may call for a switch
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Left: self._left,
            HookEnded: self._hook_ended,
            TimerFired: self._timer_fired,
            BackendFailed: self._backend_failed,
            Start: self._start,
            OperatorSwitch: self._commands.switch,
            OperatorSleep: self._commands.sleep,
            OperatorFree: self._commands.free,
            OperatorCheck: self._commands.check,
            OperatorPin: self._commands.pin,
            OperatorUnpin: self._commands.pin,
            OperatorRelease: self._yielding.release,
            OperatorResume: self._yielding.resume,
            OperatorDrain: self._yielding.drain,
            OperatorUndrain: self._yielding.undrain,
            Stop: self._stopping.stop,
            ConfigChanged: self._config_changed,
        }

    @property
    def policy(self) -> SwitchPolicy:
        """The policy that is asked now."""
        return self._counsel.policy

    @property
    def starved(self) -> bool:
        """Whether it was told that the policy keeps somebody waiting for far too long."""
        return self._counsel.starved

    @property
    def settings(self) -> CoreSettings:
        """What the configuration says now."""
        return self.ledger.settings

    def handle(self, event: CoreEvent, now: float) -> list[Effect]:
        """Take in one event; returns what must be done about it, in that order.

        Args:
            event: what happened. Events about things that are over (a hook run, a request) are ignored.
            now: seconds on a clock that never goes back.
        """
        ledger = self.ledger
        ledger.last_event = now
        out: list[Effect] = []
        ledger.out = out
        self.planner.look(now)
        self._undecided = True
        if type(event) is Arrived:  # the two that come with every request need no table
            self._arrived(event, now)
        elif type(event) is Finished:
            self._finished(event, now)
        else:
            self._handlers[type(event)](event, now)
        if self._undecided and (
            ledger.waiting_models
            or ledger.commanded
            or ledger.outgoing
            or ledger.crowded
            or ledger.closed
            or ledger.yields
            or ledger.stop is not None
            or self._preload.left
        ):
            self._decide(now)
        return out

    # --- what callers may ask --------------------------------------------------------------------------------

    def state(self) -> SwitcherState:
        """2.4.0's summary: a switch under way (the oldest), else an awake model (the one last used), else idle."""
        for switch in self.ledger.switches.values():
            if switch.target is not None:
                return SwitchingState(switch.from_model, switch.target.name)
        awake = [model for model in self.ledger.models.values() if model.state is ModelState.AWAKE]
        if awake:
            return Active(max(awake, key=lambda model: (model.last_used, -model.order)).name)
        return Idle()

    def prospects(self, model: str, now: float) -> Prospects:
        """Where those who wait for `model` stand. O(those, and what `Outlook` looks at)."""
        known = self.ledger.models.get(model)
        if known is None:
            return Prospects({}, 0.0)
        self.planner.look(now)
        return self._outlook.prospects(known, now)

    @property
    def probing(self) -> bool:
        """Whether it is not yet known which models are awake, so that nothing may be woken."""
        return self._health.probing

    # --- requests --------------------------------------------------------------------------------------------

    def _arrived(self, event: Arrived, now: float) -> None:
        ledger = self.ledger
        request_id, name = event.request_id, event.model
        model = ledger.models.get(name)
        if model is None or model.leaving:
            ledger.out.append(Reject(request_id, name, Refusal.MODEL_NOT_FOUND, f"Model not found: {name}", 0.0))
            return
        model.arrivals.record(now)
        if model.state is ModelState.AWAKE and ledger.stop is None and not model.closed and not model.full:
            request = Request(request_id, model, now, None, now)
            ledger.requests[request_id] = request
            model.granted[request_id] = request
            model.last_used = now
            ledger.out.append(Grant(request_id, name, 0.0, False))
            self._undecided = False  # one more for a model that is awake anyway is no reason to switch
            return
        refusal = self._refusal(model, now)
        if refusal is not None:
            reason, detail, retry_after = refusal
            ledger.out.append(Reject(request_id, name, reason, detail, 0.0, retry_after))
            return
        timeout = self.settings.request_timeout
        deadline = None if timeout is None else now + timeout
        ledger.enqueue(Request(request_id, model, now, deadline, None, event.level))
        if deadline is not None and "wait" not in ledger.timers:
            ledger.set_timer("wait", deadline)

    def _refusal(self, model: Model, now: float) -> tuple[Refusal, str, float | None] | None:
        """Why a request for `model` should not even wait, if there is such a reason."""
        if self.ledger.stop is not None:
            return Refusal.SHUTTING_DOWN, "llmux is shutting down", 5.0
        if self.ledger.released is not None and self.ledger.released.refuse:
            return Refusal.RELEASED, REFUSED, REFUSED_RETRY_SECS
        if self.ledger.queued >= self.settings.max_queue:
            detail = f"{self.ledger.queued} requests are waiting already"
            return Refusal.QUEUE_FULL, detail, self._outlook.seconds(model, now)
        most = model.spec.max_queue
        if most is not None and model.waiting >= most:
            detail = f"{model.waiting} requests are waiting for {model.name} already"
            return Refusal.QUEUE_FULL, detail, self._outlook.seconds(model, now)
        if self.planner.obstructed(model):
            return Refusal.DEVICE_LOST, self._lost_detail(), self.settings.lost_check_base
        pause = model.wake_not_before - now
        waking = model.switch is not None and model.switch.target is model
        if pause > self.settings.backoff_hold and not waking:
            return Refusal.BACKOFF, f"{model.name} is not tried again yet: {model.wake_error}", pause
        return None

    def _lost_detail(self) -> str:
        lost = [model for model in self.ledger.holding.values() if model.state is ModelState.LOST]
        names = ", ".join(model.name for model in lost)
        return f"it is not known whether {names} still holds its memory ({lost[0].sleep_error})" if lost else ""

    def _left(self, event: Left, now: float) -> None:
        request = self.ledger.requests.get(event.request_id)
        if request is None:
            return
        if request.granted_at is not None:
            self._end(request, now)
            return
        self.ledger.dequeue(request)
        if not request.model.wanted:
            self._switching.no_longer_wanted(request.model, now)

    def _finished(self, event: Finished, now: float) -> None:
        request = self.ledger.requests.get(event.request_id)
        if request is not None and request.granted_at is not None:
            self._end(request, now)

    def _end(self, request: Request, now: float) -> None:
        model = request.model
        del self.ledger.requests[request.request_id]
        del model.granted[request.request_id]
        if request.granted_at is not None:
            model.served(now - request.granted_at)
        if model.switch is not None:
            self._switching.finished(model, now)
        else:
            if model.state is ModelState.AWAKE:
                self.ledger.release(model, now)  # there is room for one more
            if not model.granted and model.state in (ModelState.AWAKE, ModelState.UNCONFIRMED):
                self._idle.begins(model, now)

    def _expire_waiters(self, now: float) -> None:
        """The oldest deadline has come. All deadlines are the same time after arrival, so the oldest is the next."""
        overdue: list[Request] = []
        upcoming: float | None = None
        for model in self.ledger.waiting_models.values():
            for request in model.waiters.values():
                if request.deadline is None:
                    continue
                if request.deadline > now:
                    if upcoming is None or request.deadline < upcoming:
                        upcoming = request.deadline
                    break
                overdue.append(request)
        for request in overdue:
            self.ledger.dequeue(request)
        again = {model: self._outlook.seconds(model, now) for model in dict.fromkeys(one.model for one in overdue)}
        for request in sorted(overdue, key=lambda r: r.request_id):
            detail = f"Request timed out waiting for model {request.model.name}"
            self.ledger.reject(request, Refusal.WAIT_TIMEOUT, detail, now, again[request.model])
        # Only now: a switch that is called off grants what waits for its victims, and nothing overdue may be among it.
        for model in dict.fromkeys(request.model for request in overdue):
            if not model.wanted:
                self._switching.no_longer_wanted(model, now)
        if upcoming is not None:
            self.ledger.set_timer("wait", upcoming)

    # --- hooks, timers, backends -----------------------------------------------------------------------------

    def _start(self, event: Start, now: float) -> None:
        self._health.start(event.past)

    def _hook_ended(self, event: HookEnded, now: float) -> None:
        run = self.ledger.runs.pop(event.run_id, None)
        if run is None:
            return
        if run.then is not None:
            self._run_again(run, run.then, now)
            return
        before = run.model.state
        match run.purpose:
            case Purpose.PROBE:
                self._health.probed(run, event, now)
                self._found(run.model, now)
            case Purpose.SETTLE:
                self._health.settled(run, event, now)
                self._found(run.model, now)
            case Purpose.CHECK:
                if self._health.checked(run, event, now):
                    self._switching.retire(run.model, now)
            case Purpose.PROVE:
                if self._health.proved(run, event, now):
                    self._switching.retire(run.model, now)
            case Purpose.RECHECK:
                self._health.rechecked(run, event, now)
            case Purpose.VOUCH:
                self._switching.vouched(run, event, now)
            case Purpose.SLEEP:
                self._switching.sleep_ended(run, event, now)
            case Purpose.VERIFY:
                self._switching.verified(run, event, now)
            case Purpose.REVERIFY:
                self._health.reverified(run, event, now)
            case Purpose.WAKE:
                self._switching.woke(run, event, now)
            case Purpose.CANARY:
                self._switching.canary_ended(run, event, now)
        if run.model.state is ModelState.LOST:
            self._refuse_obstructed(now)
        elif run.model.state is ModelState.UNCONFIRMED and before is not ModelState.UNCONFIRMED:
            self._idle.begins(run.model, now)  # it may hold its memory, and nobody may ever ask for it again

    def _found(self, model: Model, now: float) -> None:
        """It may be that `model` was asked whether it is awake."""
        if model.asked and model.state is ModelState.UNCONFIRMED:
            self._idle.begins(model, now)

    def _run_again(self, run: Run, purpose: Purpose, now: float) -> None:
        """A hook has ended that something newer waits for: see `Ledger.run_hook`."""
        model = run.model
        if model.check is run:
            model.check = None
        if purpose is Purpose.VERIFY:
            self._switching.verify_due(model, now)
        elif self.ledger.stop is None or purpose in (Purpose.VOUCH, Purpose.CANARY):  # a model's state waits for these
            fresh = self.ledger.run_hook(model, run.hook, purpose)
            if purpose in (Purpose.CHECK, Purpose.PROVE):
                model.check = fresh

    def _refuse_obstructed(self, now: float) -> None:
        for model in list(self.ledger.models.values()):
            if model.wanted and model.switch is None and self.planner.obstructed(model):
                pause = self.settings.lost_check_base
                self.ledger.refuse_all(model, Refusal.DEVICE_LOST, self._lost_detail(), now, pause)

    def _timer_fired(self, event: TimerFired, now: float) -> None:
        if self.ledger.timers.pop(event.key, None) is None:
            return
        kind, _, name = event.key.partition(":")
        if kind == "wait":
            self._expire_waiters(now)
        elif kind == "grace":
            self._stopping.grace_over(now)
        elif kind == "exit":
            self._stopping.exit_over(now)
        elif kind == "recheck":
            self._counsel.woken(now)
        elif kind not in ("leave", "yield"):  # these, too, only have decisions made, as they are after every event
            model = self.ledger.models[name]
            match kind:
                case "drain":
                    self._switching.drain_expired(model)
                case "sleep":
                    self._switching.retry_sleep(model)
                case "verify":
                    self._switching.verify_due(model, now)
                case "check":
                    self._health.check_due(model, now)
                case "lost":
                    self._health.recheck_due(model)
                case "idle":
                    if self._idle.due(model, now):
                        self._switching.unload_idle(model, now)

    def _backend_failed(self, event: BackendFailed, now: float) -> None:
        model = self.ledger.models.get(event.model)
        if model is not None:
            self._health.suspect(model, event, now)

    def _config_changed(self, event: ConfigChanged, now: float) -> None:
        if self.ledger.stop is not None:
            return
        if event.policy is not None:
            try:
                self._counsel.replaced(self._make_policy(event.policy.name, event.policy.options))
            except Exception as error:  # whoever sends the event has tried it, but it is a third party's code
                self.ledger.out.append(PolicyFault(event.policy.name, f"{type(error).__name__}: {error}"))
        self._preload.reconfigured(self.settings, event.settings)
        self._reconfigure.apply(event.settings, now)
        self._outlook.reconfigured(self.policy)
        self._idle.reconfigured(now)
        self._refuse_obstructed(now)

    # --- deciding --------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        """Begin every switch that can and should begin now."""
        if self.ledger.stop is not None:
            self._stopping.go_on(now)
            return
        if self._health.probing:
            return
        if self.ledger.outgoing or self.ledger.crowded:
            self._reconfigure.carry_on(now)
        if self.ledger.commanded:
            self._commands.obey(now)
        if self.ledger.closed or self.ledger.yields:
            self._yielding.carry_on(now)
        if self._preload.left:
            self._preload.carry_on(now)
        waiting = self.planner.waiting()
        if waiting and any(m.state is ModelState.LOST for m in self.ledger.holding.values()):
            self._refuse_obstructed(now)  # those, too, whose own switch has only now come to its end
            waiting = self.planner.waiting()
        for _ in range(len(self.ledger.models) + 1):  # every switch takes one model out of `waiting()`
            if not waiting or self.planner.occupied():  # the cheap one first: at every end of a request
                return
            plan = self._counsel.ask(now)
            if plan is None:
                return
            self.planner.worth.charge([self.ledger.models[name] for name in plan.victims], now)
            self._switching.begin(plan, now)
            waiting = self.planner.waiting()


__all__ = ["Core"]
