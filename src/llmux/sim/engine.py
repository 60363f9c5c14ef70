"""Drives a core through arrivals in virtual time: `llmux.virtual` has its hooks and timers, `Server` its backends.

Pure and deterministic: what happens at the same moment happens in the order in which it was arranged, and before
arrivals of that moment. Never looks at a real clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmux.core import Core, CoreSettings
from llmux.core.invariants import violations
from llmux.messages import (
    AbortRequests,
    Arrived,
    Effect,
    Event,
    Finished,
    Grant,
    Hook,
    ModelState,
    Reject,
    RunHook,
    Start,
    StateChanged,
    SwitchEnded,
)
from llmux.policy.base import SwitchPolicy
from llmux.sim.backend import BackendModel, Server
from llmux.sim.hooks import HookTimes
from llmux.sim.results import Result, Shares
from llmux.sim.trace import Arrival
from llmux.virtual import HookPlan, Timer, VirtualClock, World

Watcher = Callable[[float, Event, Sequence[Effect]], None]

_SWITCHING, _DRAINING, _SERVING, _IDLE = range(4)
_HOOK_STATES = frozenset({ModelState.WAKING, ModelState.SLEEPING})

#: Once all have arrived and none has got on for that many seconds, nobody ever will: the simulation ends.
_PATIENCE = 100_000.0


class SimulationError(RuntimeError):
    """The simulation cannot go on: an invariant of the core is broken."""


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
        SimulationError: an invariant is broken.
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
        self._next_ends: dict[Server, Timer] = {}
        self._check = check
        self._watch = watch
        self._clock = VirtualClock()
        others: dict[type, Callable[[Any], None]] = {
            Grant: self._grant,
            AbortRequests: self._abort,
            StateChanged: self._state_changed,
            SwitchEnded: self._switch_ended,
            Reject: self._reject,
        }
        self._world = World(self._clock, deliver=self._happened, plan=self._plan, others=others)
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
        clock, arrivals = self._clock, self.arrivals
        end = math.inf if until is None else until
        self._send(Start())
        for index, arrival in enumerate(arrivals):
            if arrival.at > end:
                break
            clock.advance_to(arrival.at)
            self.now = arrival.at
            self._send(Arrived(index, arrival.model))
        while self._left or until is not None:
            at = clock.next_at()
            if at is None or at > end or at > self._progress + _PATIENCE:
                break
            clock.step()
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

    def _happened(self, event: Event) -> None:
        """A hook ended, or a timer fired."""
        self.now = self._clock.now
        self._send(event)

    def _send(self, event: Event) -> None:
        effects = self.core.handle(event, self.now)
        self._world.carry_out(effects)
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
        old = self._next_ends.pop(server, None)
        if old is not None:
            old.cancel()
        at = server.next_end()
        if at is not None:
            self._next_ends[server] = self._clock.call_at(at, self._request_ended, server)

    def _request_ended(self, server: Server) -> None:
        self.now = self._clock.now
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

    # --- hooks -------------------------------------------------------------------------------------------------

    def _plan(self, run: RunHook) -> HookPlan:
        if run.hook is Hook.WAKE:
            return HookPlan(self._hooks.wake(run.model, run.from_model))
        if run.hook is Hook.SLEEP:
            return HookPlan(self._hooks.sleep(run.model, run.to_model))
        if run.hook is Hook.ALIVE:
            return self._world.alive(run.model, 0.0)
        return HookPlan(0.0)  # what verify hooks and canaries take is part of what sleeps and wakes are stated to take

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
