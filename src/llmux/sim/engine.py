"""Drives a core in virtual time: events from a heap, effects carried out on simulated hooks and backends.

Pure and deterministic: what happens at the same moment happens in the order in which it was put into the heap, and
before arrivals of that moment. Never looks at a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

from llmux.core import Core, CoreSettings
from llmux.core.invariants import violations
from llmux.messages import (
    AbortRequests,
    Arrived,
    CancelHook,
    CancelTimer,
    Effect,
    Event,
    Finished,
    Grant,
    Hook,
    HookEnded,
    ModelState,
    Outcome,
    Reject,
    RunHook,
    SetTimer,
    Start,
    StateChanged,
    SwitchEnded,
    TimerFired,
)
from llmux.policy.base import SwitchPolicy
from llmux.sim.backend import BackendModel, Server
from llmux.sim.hooks import HookTimes
from llmux.sim.results import Result, Shares
from llmux.sim.trace import Arrival

Watcher = Callable[[float, Event, Sequence[Effect]], None]

_END, _HOOK, _TIMER = range(3)
_SWITCHING, _DRAINING, _SERVING, _IDLE = range(4)
_HOOK_STATES = frozenset({ModelState.WAKING, ModelState.SLEEPING})

#: Once all have arrived and none has got on for that many seconds, nobody ever will: the simulation ends.
_PATIENCE = 100_000.0

#: A policy that asks to be asked again at once, this many times in one moment, would go on for ever.
_MOST_TIMERS_AT_ONCE = 10_000


class SimulationError(RuntimeError):
    """The simulation cannot go on: a broken invariant, or a policy that never lets time pass."""


def simulate(
    arrivals: Sequence[Arrival],
    settings: CoreSettings,
    policy: SwitchPolicy,
    *,
    hooks: HookTimes,
    backends: BackendModel | Mapping[str, BackendModel] | None = None,
    until: float | None = None,
    check: bool = False,
    watch: Watcher | None = None,
) -> Result:
    """Let `policy` run the core through `arrivals`; everything is asleep when it starts.

    Args:
        arrivals: in the order of time. Requests for models that `settings` does not have are refused.
        settings: as for a live core.
        policy: a fresh one: policies may keep state.
        hooks: what hooks take.
        backends: how fast models serve, all alike or per model.
        until: end after that many seconds; None ends when all requests have, or none gets on any more.
        check: check the core's invariants after every event, which is slow.
        watch: called after every event with the time, the event and its effects.

    Raises:
        SimulationError: an invariant is broken, or the policy never lets time pass.
    """
    return _Simulation(arrivals, settings, policy, hooks, backends, check, watch).run(until)


class _Simulation:
    def __init__(
        self,
        arrivals: Sequence[Arrival],
        settings: CoreSettings,
        policy: SwitchPolicy,
        hooks: HookTimes,
        backends: BackendModel | Mapping[str, BackendModel] | None,
        check: bool,
        watch: Watcher | None,
    ) -> None:
        self.core = Core(settings, policy)
        self.arrivals = arrivals
        self.granted: list[float | None] = [None] * len(arrivals)
        self.started: list[float | None] = [None] * len(arrivals)
        self.finished: list[float | None] = [None] * len(arrivals)
        self.now = 0.0
        self.switches = 0
        self._hooks = hooks.source()
        if backends is None or isinstance(backends, BackendModel):
            kind = backends if backends is not None else BackendModel()
            backends = {spec.name: kind for spec in settings.models}
        self._servers = {name: Server(kind, self.started) for name, kind in backends.items()}
        self._up: set[str] = set()
        self._heap: list[tuple[float, int, int, Any]] = []  # time, order, kind, payload
        self._sequence = 0
        self._timers: dict[str, int] = {}
        self._runs: dict[int, RunHook] = {}
        self._check = check
        self._watch = watch
        self._apply: dict[type, Callable[..., None]] = {
            Grant: self._grant,
            RunHook: self._run_hook,
            CancelHook: self._cancel_hook,
            SetTimer: self._set_timer,
            CancelTimer: self._cancel_timer,
            AbortRequests: self._abort,
            StateChanged: self._state_changed,
            SwitchEnded: self._switch_ended,
            Reject: self._reject,
        }
        self._left = len(arrivals)  # requests that are not over yet
        self._progress = 0.0  # when one was last granted or over
        self._to_end: list[int] = []
        self._ending = False
        self._spent = [0.0] * 4
        self._phase = _IDLE
        self._phase_since = 0.0
        self._in_hooks = 0
        self._draining = 0
        self._in_flight = 0

    # --- the loop ----------------------------------------------------------------------------------------------

    def run(self, until: float | None) -> Result:
        heap, arrivals, total = self._heap, self.arrivals, len(self.arrivals)
        end = float("inf") if until is None else until
        self._send(Start())
        index = timers_at_once = 0
        while self._left or until is not None:
            if heap and (index == total or heap[0][0] <= arrivals[index].at):
                at, sequence, kind, what = heappop(heap)
                if at > end or (index == total and at > self._progress + _PATIENCE):
                    break
                if kind == _END:
                    server, version = what
                    if server.version == version:
                        self.now = at
                        self._request_ended(server)
                elif kind == _HOOK:
                    self.now = at
                    self._hook_ended(what)
                elif self._timers.get(what) == sequence:
                    timers_at_once = timers_at_once + 1 if at == self.now else 0
                    if timers_at_once > _MOST_TIMERS_AT_ONCE:
                        raise SimulationError(f"at {at:g} s, {self.core.policy.name} asks to be asked again for ever")
                    self.now = at
                    self._timers.pop(what)
                    self._send(TimerFired(what))
            elif index < total:
                arrival = arrivals[index]
                if arrival.at > end:
                    break
                self.now = arrival.at
                self._send(Arrived(index, arrival.model))
                index += 1
            else:
                break
        if until is not None:
            self.now = until
        self._enter(self._phase)
        seconds = self.now
        shares = [spent / seconds for spent in self._spent] if seconds > 0 else [0.0, 0.0, 0.0, 1.0]
        return Result(
            models=tuple(spec.name for spec in self.core.settings.models),
            model_of=[arrival.model for arrival in arrivals],
            arrived=[arrival.at for arrival in arrivals],
            granted=self.granted,
            started=self.started,
            finished=self.finished,
            switches=self.switches,
            shares=Shares(*shares),
            seconds=seconds,
        )

    def _send(self, event: Event) -> None:
        effects = self.core.handle(event, self.now)
        for effect in effects:
            apply = self._apply.get(type(effect))
            if apply is not None:
                apply(effect)
        if self._check:
            problems = violations(self.core)
            if problems:
                raise SimulationError(f"at {self.now:g} s, after {event}: {'; '.join(problems)}")
        if self._watch is not None:
            self._watch(self.now, event, effects)
        if self._ending:
            return
        self._ending = True
        while self._to_end:  # requests that this event's effects cut off: in a loop, as thousands can be
            self._over(self._to_end.pop())
        self._ending = False

    def _push(self, at: float, kind: int, what: Any) -> int:
        self._sequence += 1
        heappush(self._heap, (at, self._sequence, kind, what))
        return self._sequence

    # --- requests ----------------------------------------------------------------------------------------------

    def _grant(self, effect: Grant) -> None:
        request = effect.request_id
        arrival = self.arrivals[request]
        server = self._servers[effect.model]
        self.granted[request] = self._progress = self.now
        self._in_flight += 1
        if self._in_flight == 1:
            self._settle_phase()
        version = server.version
        server.add(request, server.model.alone(arrival.prompt_tokens, arrival.output_tokens), self.now)
        if server.version != version:
            self._schedule_end(server)

    def _schedule_end(self, server: Server) -> None:
        at = server.next_end()
        if at is not None:
            self._push(at, _END, (server, server.version))

    def _request_ended(self, server: Server) -> None:
        request = server.end_next(self.now)
        self._schedule_end(server)
        self.finished[request] = self.now
        self._over(request)

    def _reject(self, effect: Reject) -> None:
        self._left -= 1
        self._progress = self.now

    def _over(self, request: int) -> None:
        self._left -= 1
        self._progress = self.now
        self._in_flight -= 1
        if self._in_flight == 0:
            self._settle_phase()
        self._send(Finished(request))

    def _abort(self, effect: AbortRequests) -> None:
        server = self._servers[effect.model]
        version = server.version
        for request in reversed(effect.request_ids):  # the last ones first, which still wait for a place
            server.remove(request, self.now)
        self._to_end += reversed(effect.request_ids)
        if server.version != version:
            self._schedule_end(server)

    # --- hooks and timers --------------------------------------------------------------------------------------

    def _run_hook(self, effect: RunHook) -> None:
        if effect.hook is Hook.WAKE:
            seconds = self._hooks.wake(effect.model, effect.from_model)
        elif effect.hook is Hook.SLEEP:
            seconds = self._hooks.sleep(effect.model, effect.to_model)
        else:
            seconds = 0.0
        timed_out = effect.timeout is not None and seconds > effect.timeout
        if effect.hook is Hook.ALIVE:
            outcome = Outcome.OK if effect.model in self._up else Outcome.FAILED
        else:
            outcome = Outcome.TIMEOUT if timed_out else Outcome.OK
        if timed_out and effect.timeout is not None:
            seconds = effect.timeout
        self._runs[effect.run_id] = effect
        code = {Outcome.OK: 0, Outcome.FAILED: 1}.get(outcome)
        self._push(self.now + seconds, _HOOK, HookEnded(effect.run_id, outcome, seconds, code))

    def _hook_ended(self, event: HookEnded) -> None:
        run = self._runs.pop(event.run_id, None)
        if run is None:  # it was cancelled
            return
        if run.hook is Hook.WAKE and event.outcome is Outcome.OK:
            self._up.add(run.model)
        elif run.hook is Hook.SLEEP and event.outcome is Outcome.OK:
            self._up.discard(run.model)
        self._send(event)

    def _cancel_hook(self, effect: CancelHook) -> None:
        self._push(self.now, _HOOK, HookEnded(effect.run_id, Outcome.CANCELLED, 0.0))

    def _set_timer(self, effect: SetTimer) -> None:
        self._timers[effect.key] = self._push(effect.at, _TIMER, effect.key)

    def _cancel_timer(self, effect: CancelTimer) -> None:
        self._timers.pop(effect.key, None)

    # --- where the time goes -----------------------------------------------------------------------------------

    def _switch_ended(self, effect: SwitchEnded) -> None:
        if effect.result == "success":
            self.switches += 1

    def _state_changed(self, effect: StateChanged) -> None:
        self._in_hooks += (effect.new in _HOOK_STATES) - (effect.old in _HOOK_STATES)
        self._draining += (effect.new is ModelState.DRAINING) - (effect.old is ModelState.DRAINING)
        self._settle_phase()

    def _settle_phase(self) -> None:
        if self._in_hooks:
            phase = _SWITCHING
        elif self._draining:
            phase = _DRAINING
        else:
            phase = _SERVING if self._in_flight else _IDLE
        if phase != self._phase:
            self._enter(phase)

    def _enter(self, phase: int) -> None:
        self._spent[self._phase] += self.now - self._phase_since
        self._phase, self._phase_since = phase, self.now
