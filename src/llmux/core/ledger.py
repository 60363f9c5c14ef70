"""The core's books: models, requests, hook runs, timers, and the only ways to change them.

Pure. `Switching` and `Health` decide what to do; they do it through the primitives here, so that every change of state
goes through the table of `lifecycle` and every effect ends up in `out`, in order.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from llmux.core.demand import ArrivalRate
from llmux.core.lifecycle import Step, after
from llmux.core.settings import CoreSettings, ModelSpec, Placement
from llmux.core.waiting import Waiters
from llmux.costs import SwitchCostTracker
from llmux.messages import (
    AbortRequests,
    CancelHook,
    CancelTimer,
    Effect,
    Grant,
    Hook,
    ModelLeftAwake,
    ModelState,
    OperatorReply,
    Refusal,
    Reject,
    RunHook,
    SetTimer,
    StateChanged,
    Stop,
)


class Purpose(enum.StrEnum):
    """Why a hook runs, beyond which hook it is."""

    PROBE = "probe"  # alive: who is awake when llmux starts?
    CHECK = "check"  # alive: is this awake model well?
    VOUCH = "vouch"  # alive: its sleep failed; is it still serving?
    RECHECK = "recheck"  # alive: has a lost model come back?
    WAKE = "wake"
    SLEEP = "sleep"
    VERIFY = "verify"  # verify: its sleep hook has succeeded; is the memory free?
    SETTLE = "settle"  # verify: it may have held memory when an earlier llmux ended; is that free?
    REVERIFY = "reverify"  # verify: is the memory of a lost model free by now?
    CANARY = "canary"  # canary: its wake hook has succeeded; does it serve?
    PROVE = "prove"  # canary: its backend fails requests; is it the backend's fault?


@dataclass(slots=True)
class Run:
    """A hook that is running, since `began`."""

    run_id: int
    model: Model
    hook: Hook
    purpose: Purpose
    began: float
    stale: bool = False  # a check: the model was woken anew since it began
    then: Purpose | None = None  # its answer is too old: run the same hook again, for this


class Request:
    """A request that waits or is in flight. `granted_at` is None while it waits.

    No dataclass: one is made per request, and mypyc leaves the methods that dataclasses make to the interpreter.
    """

    __slots__ = ("arrived", "deadline", "granted_at", "level", "model", "request_id")

    def __init__(
        self,
        request_id: int,
        model: Model,
        arrived: float,
        deadline: float | None,
        granted_at: float | None = None,
        level: int = 0,
    ) -> None:
        self.request_id = request_id
        self.model = model
        self.arrived = arrived
        self.deadline = deadline
        self.granted_at = granted_at
        self.level = level


@dataclass(slots=True, eq=False)
class Switch:
    """A switch under way. `target` is None when an operator, or the end, only wants victims asleep."""

    switch_id: int
    target: Model | None
    victims: tuple[Model, ...]
    from_model: str | None
    placement: Placement
    began: float
    by_operator: bool = False
    drained: float | None = None  # when the drain ended
    aborted: int = 0  # requests that the drain's deadline cut
    sleep_seconds: float = 0.0
    wake_seconds: float = 0.0
    failed: str = ""  # why, once a victim could not be put to sleep
    unproven: str = ""  # how the canary failed, once it has; the model gets one more chance
    void: str = ""  # why, once its target is not to be woken after all, though somebody may still want it
    reconfiguring: bool = False  # the configuration, and nobody else, wants its victims asleep
    yielding: bool = False  # an operator's release or drain, and nobody else, wants its victims asleep
    wake_run: int = 0  # the id of its wake hook's run, once that has begun

    @property
    def draining(self) -> bool:
        return self.drained is None


#: Weight of the newest observation in a model's average service time.
_SERVICE_ALPHA = 0.05


@dataclass(slots=True, eq=False)
class Model:
    """One model's books. Also what a policy sees of it (`llmux.policy.ModelView`)."""

    spec: ModelSpec
    order: int
    name: str = field(init=False)  # the spec's; asked for so often that looking it up there is felt
    state: ModelState = ModelState.UNCONFIRMED
    placement: Placement | None = None  # what it claims; None claims nothing
    placed: bool = True  # False: it was found alive, and which of its placements it has is not known
    adrift: frozenset[str] | None = None  # it holds memory of a device that is gone: what may be that one, renamed
    found: bool = False  # it answered its alive hook when llmux started and was not woken by llmux since
    switch: Switch | None = None  # the switch it is victim or target of
    waiters: Waiters = field(default_factory=Waiters)
    granted: dict[int, Request] = field(default_factory=dict)
    operators: list[int] = field(default_factory=list)  # commands that wait for it to be awake
    sleep_operators: list[int] = field(default_factory=list)  # commands that wait for it to be asleep
    awake_since: float | None = None
    last_used: float = float("-inf")
    service_time: float | None = None  # seconds from grant to end, a moving average; None until one has ended
    arrivals: ArrivalRate = field(default_factory=ArrivalRate)
    arrived_sum: float = 0.0  # of the arrival times of those that wait
    wake_failures: int = 0  # in a row
    crashes: int = 0  # deaths in a row that came soon after a wake
    wake_not_before: float = float("-inf")
    wake_error: str = ""
    sleep_attempt: int = 0
    sleep_failures: int = 0
    sleep_not_before: float = float("-inf")
    sleep_error: str = ""
    kept_if_alive: bool = False  # it was serving before its sleep hook ran, so it may be put back to work
    check: Run | None = None
    check_urgent: bool = False
    check_failures: int = 0
    doubt: str = ""  # why its backend is in doubt, although its connection is not
    sleep_seconds: float = 0.0  # what its sleep hook took, while its memory is being verified
    verify_began: float = 0.0
    verify_asked: int = 0  # times since then
    lost_checks: int = 0
    lost_since: float | None = None
    check_operators: list[int] = field(default_factory=list)  # commands that want to know whether it is still lost
    asked: bool = False  # its alive hook was asked once, so what it may hold is known as well as it can be
    past: ModelState | None = None  # what an earlier llmux has left it as, until more is known; None: asleep
    half_woken: bool = False  # a wake of it has begun, and neither was it awake nor asleep since
    leaving: bool = False  # it is not in the configuration any more, but may still hold its memory
    preloading: bool = False  # it is being woken, though nobody may have asked for it
    idle_since: float = float("-inf")  # kept where idle models are put to sleep
    must_go: bool = False  # it is put to sleep as soon as that is possible: the configuration has no room for it
    pinned: bool = field(init=False)  # once awake, it is nobody's victim; the spec says how it begins
    drained: bool = False  # by an operator's order
    closed: bool = False  # drained, or llmux is released: it gets no requests and is not woken
    closed_after: int = 0  # the id that was the last when it was closed

    def __post_init__(self) -> None:
        self.name = self.spec.name
        self.pinned = self.spec.pinned

    @property
    def waiting(self) -> int:
        return len(self.waiters)

    @property
    def oldest_arrival(self) -> float | None:
        for request in self.waiters.values():
            return request.arrived
        return None

    @property
    def priority(self) -> float:
        return self.spec.priority

    @property
    def urgency(self) -> int:
        return self.waiters.highest

    @property
    def in_flight(self) -> int:
        return len(self.granted)

    @property
    def full(self) -> bool:
        """It serves as many requests as it may: one more must wait, though the model be awake."""
        most = self.spec.max_in_flight
        return most is not None and len(self.granted) >= most

    @property
    def claims(self) -> Placement:
        return self.placement if self.placement is not None else {}

    def accumulated_wait(self, now: float) -> float:
        return len(self.waiters) * now - self.arrived_sum

    def arrival_rate(self, now: float) -> float:
        return self.arrivals.per_second(now)

    def served(self, seconds: float) -> None:
        """A request ended, `seconds` after its grant."""
        old = self.service_time
        self.service_time = seconds if old is None else old + _SERVICE_ALPHA * (seconds - old)

    @property
    def wanted(self) -> bool:
        """Somebody waits for it to be awake."""
        return bool(self.waiters or self.operators or self.preloading)


@dataclass(slots=True)
class Release:
    """The devices are an operator's, since `since`; `refuse` says whether requests are refused, or held."""

    refuse: bool
    since: float


@dataclass(slots=True)
class Yield:
    """A command that waits for models to be asleep: a release (`model` is empty) or a drain. `left` are those that it
    still waits for, `failed` says why others could not be put to sleep."""

    operator_id: int
    model: str
    left: set[str]
    failed: dict[str, str] = field(default_factory=dict)


class Ledger:
    """The books themselves. Every method is O(1) unless it says otherwise."""

    def __init__(self, settings: CoreSettings, costs: SwitchCostTracker) -> None:
        self.settings = settings
        self.costs = costs
        self.models: dict[str, Model] = {
            spec.name: Model(spec=spec, order=order) for order, spec in enumerate(settings.models)
        }
        self.holding: dict[str, Model] = dict(self.models)  # those that may hold memory
        self.requests: dict[int, Request] = {}
        self.waiting_models: dict[str, Model] = {}  # those with waiters, in the order they got their first
        self.commanded: dict[str, Model] = {}  # those that an operator's command waits for
        self.outgoing: dict[str, Model] = {}  # those that must go
        self.crowded = False  # since the configuration changed, there may be more awake than there is room for
        self.configured = 0  # the id that was the last when the configuration last changed
        self.released: Release | None = None
        self.closed: dict[str, Model] = {}  # those that get no requests and are not woken
        self.yields: list[Yield] = []
        self.queued = 0
        self.runs: dict[int, Run] = {}
        self.timers: dict[str, float] = {}
        self.switches: dict[int, Switch] = {}
        self.stop: Stop | None = None
        self.last_event = float("-inf")
        self.out: list[Effect] = []
        self._ids = 0

    def next_id(self) -> int:
        self._ids += 1
        return self._ids

    @property
    def last_id(self) -> int:
        return self._ids

    # --- models ---------------------------------------------------------------------------------------------

    def step(self, model: Model, step: Step, now: float) -> None:
        """Take one step of the life cycle; keeps `awake_since` and tells telemetry."""
        old = model.state
        new = after(old, step)
        model.state = new
        if new is ModelState.AWAKE:
            if model.awake_since is None:
                model.awake_since = now
        elif new is not ModelState.DRAINING and model.awake_since is not None:
            self.out.append(ModelLeftAwake(model=model.name, duration=now - model.awake_since))
            model.awake_since = None
        if new is ModelState.LOST:
            model.lost_since = now if model.lost_since is None else model.lost_since
        elif new is not ModelState.SLEEPING:  # a look at a lost model may be a run of its sleep hook
            model.lost_since = None
        if new in (ModelState.WAKING, ModelState.AWAKE, ModelState.ASLEEP):
            model.half_woken = new is ModelState.WAKING
        if new is ModelState.ASLEEP:
            model.past = None
            model.placement = None
            model.placed = True
            model.adrift = None
            model.found = False
            del self.holding[model.name]
        elif old is ModelState.ASLEEP:
            self.holding[model.name] = model
        if new is ModelState.UNCONFIRMED and model.placement not in model.spec.placements:
            model.placed = False  # the configuration has changed: it cannot be woken where it is
        self.out.append(StateChanged(model=model.name, old=old, new=new, cause=step.value))

    def set_closed(self, model: Model) -> None:
        """Have `closed` follow from what operators have ordered."""
        closed = model.drained or self.released is not None
        if closed and not model.closed:
            self.closed[model.name] = model
            model.closed_after = self._ids
        elif model.closed and not closed:
            del self.closed[model.name]
        model.closed = closed

    # --- hooks ----------------------------------------------------------------------------------------------

    def run_hook(self, model: Model, hook: Hook, purpose: Purpose, timeout: float | None = None) -> Run:
        """Run a hook, for `timeout` seconds if that is less than what it has anyway.

        A hook never runs twice at a time: where it does run already, for something that mattered before, it is run
        again when that is over, since an old answer is no answer to a new question. O(running hooks).
        """
        for run in self.runs.values():
            if run.model is model and run.hook is hook:
                run.then = purpose
                return run
        run = Run(run_id=self.next_id(), model=model, hook=hook, purpose=purpose, began=self.last_event)
        self.runs[run.run_id] = run
        switch = model.switch
        devices = tuple(model.placement) if model.placement is not None and model.placed else ()
        self.out.append(
            RunHook(
                run_id=run.run_id,
                model=model.name,
                hook=hook,
                timeout=model.spec.timeout(hook) if timeout is None else timeout,
                devices=devices,
                from_model=switch.from_model if switch is not None else None,
                to_model=switch.target.name if switch is not None and switch.target is not None else None,
            )
        )
        return run

    def cancel_runs(self, wanted: Callable[[Run], bool]) -> None:
        """Cancel the running hooks that `wanted` picks. O(running hooks)."""
        for run in self.runs.values():
            if wanted(run):
                self.out.append(CancelHook(run_id=run.run_id))

    # --- timers ---------------------------------------------------------------------------------------------

    def set_timer(self, key: str, at: float) -> None:
        if self.timers.get(key) != at:
            self.timers[key] = at
            self.out.append(SetTimer(key=key, at=at))

    def backoff(self, failures: int) -> float:
        """Seconds to pause after that many failures in a row: none after none, then doubling up to the cap."""
        if failures <= 0:
            return 0.0
        return min(self.settings.backoff_base * 2.0 ** min(failures - 1, 30), self.settings.backoff_cap)

    def cancel_timer(self, key: str) -> None:
        if self.timers.pop(key, None) is not None:
            self.out.append(CancelTimer(key=key))

    # --- requests -------------------------------------------------------------------------------------------

    def enqueue(self, request: Request) -> None:
        model = request.model
        self.requests[request.request_id] = request
        model.waiters.add(request)
        model.arrived_sum += request.arrived
        self.queued += 1
        if model.name not in self.waiting_models:
            self.waiting_models[model.name] = model

    def dequeue(self, request: Request) -> None:
        """Take a waiter out of its queue, and out of the books."""
        model = request.model
        del self.requests[request.request_id]
        model.waiters.remove(request)
        model.arrived_sum -= request.arrived
        self.queued -= 1
        if not model.waiters:
            model.arrived_sum = 0.0  # so that rounding errors do not add up
            del self.waiting_models[model.name]

    def abort_all(self, model: Model, reason: str) -> None:
        """Cut off what `model` still serves. A backend that is put to sleep under requests may die of it; those of a
        model that was taken for dead, and is not, are the only ones that a sleep hook without a drain can meet."""
        if model.granted:
            self.out.append(AbortRequests(model.name, tuple(model.granted), reason))

    def release(self, model: Model, now: float) -> None:
        """Grant what waits for `model`, which is awake, in the order of turns: all of it, or as much as there is room
        for; nothing while it is closed. O(granted)."""
        if not model.waiters or model.closed:
            return
        most = model.spec.max_in_flight
        if most is not None and len(model.waiters) > most - len(model.granted):
            while not model.full:
                self._admit(model.waiters.first(self.settings.level_seconds), now)
            return
        self.queued -= len(model.waiters)
        del self.waiting_models[model.name]
        waiters, model.waiters = model.waiters, Waiters()
        model.arrived_sum = 0.0
        model.last_used = now
        for request in waiters.in_order(self.settings.level_seconds):
            self._grant(request, now)

    def _admit(self, request: Request, now: float) -> None:
        """Grant one of several waiters."""
        self.dequeue(request)
        self.requests[request.request_id] = request
        request.model.last_used = now
        self._grant(request, now)

    def _grant(self, request: Request, now: float) -> None:
        model = request.model
        request.granted_at = now
        model.granted[request.request_id] = request
        # Whoever came while its model was awake has only waited for a place in it.
        switched = model.awake_since is None or request.arrived <= model.awake_since
        self.out.append(Grant(request.request_id, model.name, now - request.arrived, switched))

    def reject(self, request: Request, reason: Refusal, detail: str, now: float, retry_after: float | None) -> None:
        """Tell somebody who was taken out of the queue that he waits no more."""
        waited, name = now - request.arrived, request.model.name
        self.out.append(
            Reject(request.request_id, name, reason, detail, waited, retry_after, self.has_switched(request))
        )

    def has_switched(self, request: Request) -> bool:
        """Whether `request`, which was not granted, has waited for a switch to its model."""
        model = request.model
        if model.awake_since is not None:
            return request.arrived <= model.awake_since
        return model.switch is not None and model.switch.target is model

    def refuse_all(
        self, model: Model, reason: Refusal, detail: str, now: float, retry_after: float | None = None
    ) -> None:
        """Reject all that wait for `model`, requests and operators alike. O(waiters)."""
        if model.waiters:
            self.queued -= len(model.waiters)
            del self.waiting_models[model.name]
            waiters, model.waiters = model.waiters, Waiters()
            model.arrived_sum = 0.0
            for request in waiters.values():
                del self.requests[request.request_id]
                self.reject(request, reason, detail, now, retry_after)
        operators, model.operators = model.operators, []
        for operator_id in operators:
            self.reply(operator_id, model.name, reason, detail, retry_after)

    def reply(
        self,
        operator_id: int,
        model: str,
        reason: Refusal | None = None,
        detail: str = "",
        retry_after: float | None = None,
    ) -> None:
        self.out.append(OperatorReply(operator_id, model, reason, detail, retry_after))
