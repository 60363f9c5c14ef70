"""The live driver: the core's one owner, on the event loop.

Events go in one at a time, in the order in which they happened, and every effect is carried out before the next event
is looked at; so there are no locks. An event that an effect causes (a grant that fails at once, say) waits its turn.
Touches the clock, requests only through `llmux.ports`, and everything else outside the core by `llmux.world`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Protocol

from llmux import logs
from llmux.core import ConfigChanged, Core, CoreEvent, CoreSettings, PolicyNote
from llmux.core.report import orders, owners, snapshot, standing
from llmux.errors import (
    LlmuxError,
    RequestAbortedError,
    RequestCancelledError,
    RequestNotFoundError,
    SwitchError,
)
from llmux.hooks import HookResult, HookSpec
from llmux.messages import (
    AbortRequests,
    Arrived,
    BackendFailed,
    CancelHook,
    CancelTimer,
    CloseBackend,
    Effect,
    Failure,
    Finished,
    Grant,
    Hook,
    HookEnded,
    Left,
    ModelRemoved,
    ModelState,
    OnExit,
    OperatorCheck,
    OperatorDrain,
    OperatorFree,
    OperatorPin,
    OperatorRelease,
    OperatorReply,
    OperatorResume,
    OperatorSleep,
    OperatorSwitch,
    OperatorUndrain,
    OperatorUnpin,
    Prospects,
    Refusal,
    Reject,
    RunHook,
    SetTimer,
    Start,
    StateChanged,
    Stop,
    Stopped,
)
from llmux.ports import Backends, Origin, Requester, Streaming, Traceable
from llmux.refusals import refusal_error
from llmux.snapshot import Snapshot, Standing
from llmux.world import Hooks, World

log = logs.get_logger("llmux.driver")

#: Telemetry is told this much later, in seconds, and this much after the last hook was started: writing a log takes as
#: long as starting a hook does, and on the same processor as the hook that was just started. Measured, a switch of two
#: hooks is 1.3 to 2.3 ms shorter by it, and by another 0.5 ms since it waits for quick hooks to end, too.
_TELL_LATER = 0.01

#: But it is told after this many seconds however many hooks are started.
_TELL_BY = 0.1

#: So many facts are told at once, then everybody else has a turn: a failed wake may have refused thousands.
_TOLD_AT_ONCE = 200

Watcher = Callable[[float, CoreEvent | Effect], None]


class FactSink(Protocol):
    """What the driver tells telemetry."""

    def fact(self, now: float, effect: Effect) -> None: ...

    def hook_ended(self, model: str, hook: Hook, result: HookResult) -> None: ...


class Recorder(Protocol):
    """Takes down what the core is told and says; `effects` is None where it raised an exception of the type `raised`.
    Called for every event, so it must be quick, and it must not raise."""

    def __call__(self, at: float, event: CoreEvent, effects: Sequence[Effect] | None, raised: str = "") -> None: ...


class Driver:
    """Runs a core: implements `llmux.ports.Scheduler` for the gateway, and an operator's commands.

    Args:
        core: the decision core; nobody else may call it.
        hooks: runs the scripts.
        scripts: the scripts of every model: three, or four with its verify hook.
        ports: the TCP port of every model's backend, where it has one.
        aliases: other names of models.
        sink: telemetry.
        recorder: the event log, if there is one.
        owners_changed: called when a model's state has changed, so that `owners` may give something else.
        clock: what time it is, in seconds, never going back; the loop's own may be coarser (uvloop: a millisecond).
    """

    def __init__(
        self,
        core: Core,
        *,
        hooks: Hooks,
        scripts: Mapping[tuple[str, Hook], HookSpec],
        ports: Mapping[str, int],
        aliases: Mapping[str, str],
        sink: FactSink,
        recorder: Recorder | None = None,
        clock: Callable[[], float] = monotonic,
        owners_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.core = core
        self._names = {name: name for name in core.ledger.models} | dict(aliases)
        self._sink = sink
        self._record = recorder
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._world = world = World(
            hooks, scripts, ports, clock=clock, on_timer=self.dispatch, on_hook_end=self._hook_ended
        )
        self._events: deque[CoreEvent] = deque()
        self._busy = False
        self._untold: deque[Callable[[], None]] = deque()
        self._telling: asyncio.TimerHandle | None = None
        self._tell_by = 0.0
        self._hook_started = float("-inf")
        self._started = False
        self._past: Mapping[str, ModelState] = {}
        self._next_request = 0
        self._next_command = 0
        self._requesters: dict[int, Requester] = {}
        self._commands: dict[int, asyncio.Future[None]] = {}
        self._refused_for: tuple[tuple[Refusal, str, str, float | None], SwitchError] | None = None  # the last one
        self._stopped = self._loop.create_future()
        self._watchers: list[Watcher] = []
        self._apply: dict[type, Callable[[Any], None]] = {
            Reject: self._reject,
            RunHook: world.run_hook,
            CancelHook: world.cancel_hook,
            CloseBackend: world.close_backend,
            AbortRequests: self._abort_requests,
            SetTimer: world.set_timer,
            CancelTimer: world.cancel_timer,
            OperatorReply: self._operator_reply,
            ModelRemoved: world.model_removed,
            StateChanged: lambda effect: owners_changed(),
            Stopped: self._all_stopped,
        }

    def connect(self, backends: Backends) -> None:
        """Ask this of the gateway, which can only be made after the driver; until then, canaries fail."""
        self._world.backends = backends

    # --- the one loop ----------------------------------------------------------------------------------------

    def dispatch(self, event: CoreEvent) -> None:
        """Have the core handle an event, and carry out what it says. Must be called on the loop."""
        if self._busy:
            self._events.append(event)
            return
        self._busy = True
        try:
            self._handle(event)
            while self._events:
                self._handle(self._events.popleft())
            if self._untold and self._telling is None:
                self._tell_by = self._clock() + _TELL_BY
                self._telling = self._loop.call_later(_TELL_LATER, self._tell_some)
        finally:
            self._busy = False

    def _handle(self, event: CoreEvent) -> None:
        now = self._clock()
        try:
            effects = self.core.handle(event, now)
        except Exception as error:
            # A bug in the core. The event is lost, the books may be off, but whoever asked must not hang for it.
            log.exception("internal_error", at=type(event).__name__)
            if self._record is not None:
                self._record(now, event, None, type(error).__name__)
            if isinstance(event, Arrived):
                requester = self._requesters.pop(event.request_id, None)
                if requester is not None:
                    requester.refused(LlmuxError("internal error in the scheduler"))
            return
        if self._record is not None:
            self._record(now, event, effects)
        if self._watchers:
            self._tell(now, event, effects)
        for effect in effects:
            try:
                if type(effect) is Grant:  # as for nearly every request: no table, and nothing to tell
                    self._grant(effect)
                    continue
                self._untold.append(partial(self._sink.fact, now, effect))
                if type(effect) is RunHook:
                    self._hook_started = now
                apply = self._apply.get(type(effect))
                if apply is not None:
                    apply(effect)
            except Exception:
                log.exception("internal_error", at=type(effect).__name__)

    def _tell_some(self) -> None:
        quiet_for = self._clock() - self._hook_started
        if quiet_for < _TELL_LATER and self._clock() < self._tell_by:
            self._telling = self._loop.call_later(_TELL_LATER, self._tell_some)
            return
        self._tell_sink(_TOLD_AT_ONCE)
        if self._untold:
            self._telling = self._loop.call_later(0, self._tell_some)

    def _tell_sink(self, most: int | None = None) -> None:
        """Tell telemetry what happened: all of it, or the oldest `most` things."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        for _ in range(len(self._untold) if most is None else min(most, len(self._untold))):
            tell = self._untold.popleft()
            try:
                tell()
            except Exception:
                log.exception("internal_error", at="telemetry")

    def _tell(self, now: float, event: CoreEvent, effects: list[Effect]) -> None:
        for watcher in list(self._watchers):
            try:
                watcher(now, event)
                for effect in effects:
                    watcher(now, effect)
            except Exception:
                log.exception("watcher_failed")
                self._watchers.remove(watcher)

    def subscribe(self, watcher: Watcher) -> Callable[[], None]:
        """Have `watcher(now, message)` called for every event and effect, until the returned function is called."""
        self._watchers.append(watcher)

        def unsubscribe() -> None:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

        return unsubscribe

    # --- llmux.ports.Scheduler -------------------------------------------------------------------------------

    def resolve(self, name: str) -> str | None:
        return self._names.get(name)

    def arrived(self, model: str, requester: Requester, level: int = 0) -> int:
        self._next_request = request_id = self._next_request + 1
        self._requesters[request_id] = requester
        self.dispatch(Arrived(request_id, model, level))
        return request_id

    def left(self, request_id: int) -> None:
        if self._requesters.pop(request_id, None) is not None:
            self.dispatch(Left(request_id))

    def finished(self, request_id: int) -> None:
        if self._requesters.pop(request_id, None) is not None:
            self.dispatch(Finished(request_id))

    def prospects(self, model: str) -> Prospects:
        return self.core.prospects(model, self._clock())

    def backend_failed(self, model: str, failure: Failure, in_a_row: int) -> None:
        self.dispatch(BackendFailed(model, failure, in_a_row))

    def backend_moved(self, model: str) -> None:
        self._world.take_port(model)

    # --- another configuration ---------------------------------------------------------------------------------

    def reconfigure(
        self,
        settings: CoreSettings,
        policy: PolicyNote | None,
        *,
        scripts: Mapping[tuple[str, Hook], HookSpec],
        ports: Mapping[str, int],
        aliases: Mapping[str, str],
    ) -> None:
        """Go on with these instead. Scripts count from a hook's next run; the port of a model that there was before,
        like its address at the gateway, from its next wake. `policy` is None to keep the one there is."""
        names = [spec.name for spec in settings.models]
        self._world.reconfigure(scripts, ports, known=self.core.ledger.models.keys() & set(names))
        self._names = {name: name for name in names} | dict(aliases)
        self.dispatch(ConfigChanged(settings, policy))

    # --- effects -----------------------------------------------------------------------------------------------

    def _grant(self, effect: Grant) -> None:
        requester = self._requesters.get(effect.request_id)
        if requester is not None:  # else it left in the meantime, and its Left is among the events to come
            requester.granted(effect.waited, effect.switched)

    def _reject(self, effect: Reject) -> None:
        requester = self._requesters.pop(effect.request_id, None)
        if requester is None:
            return
        why = effect.reason, effect.model, effect.detail, effect.retry_after
        if self._refused_for is None or self._refused_for[0] != why:  # thousands may be refused for the same reason
            self._refused_for = why, refusal_error(*why)
        requester.refused(self._refused_for[1], effect.switched)

    def _hook_ended(self, run: RunHook, result: HookResult) -> None:
        self._untold.append(partial(self._sink.hook_ended, run.model, run.hook, result))
        # What the hook printed is for the log, not for clients, so it is no part of the detail.
        self.dispatch(HookEnded(run.run_id, result.outcome, result.duration, result.exit_code, result.detail))

    def _abort_requests(self, effect: AbortRequests) -> None:
        error = RequestAbortedError(effect.reason)
        for request_id in effect.request_ids:
            requester = self._requesters.get(request_id)
            if requester is not None:
                requester.aborted(error)

    def _operator_reply(self, effect: OperatorReply) -> None:
        future = self._commands.pop(effect.operator_id, None)
        if future is None or future.done():
            return
        if effect.reason is None:
            future.set_result(None)
        else:
            future.set_exception(refusal_error(effect.reason, effect.model, effect.detail, effect.retry_after))

    def _all_stopped(self, effect: Stopped) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    # --- operators, start and stop -----------------------------------------------------------------------------

    def start(self) -> None:
        """Ask who is awake; from now on models may be woken. Calling it again does nothing."""
        if not self._started:
            self._started = True
            self.dispatch(Start(dict(self._past)))

    def restore(self, standing: Standing) -> None:
        """Have the orders stand that stood when llmux last ran. To be called before `start`, and before requests
        come."""
        for order in orders(self.core, standing):
            self.dispatch(order)

    def recall(self, past: Mapping[str, ModelState]) -> None:
        """What `owners` gave when llmux last ran. To be called before `start`."""
        self._past = past

    def owners(self) -> dict[str, ModelState]:
        """The models that may hold memory, and what is known of them."""
        return owners(self.core)

    def standing(self) -> Standing:
        """The orders of operators that stand until they are taken back."""
        return standing(self.core)

    async def switch(self, model: str) -> None:
        """Make `model` awake; raises a `SwitchError` if that fails."""
        await self._command(lambda number: OperatorSwitch(number, model))

    async def sleep(self, model: str) -> None:
        """Put `model` to sleep; raises a `SwitchError` if that fails."""
        await self._command(lambda number: OperatorSleep(number, model))

    async def free(self, model: str) -> None:
        """Take the operator's word that `model`, lost or unconfirmed, holds no memory."""
        await self._command(lambda number: OperatorFree(number, model))

    async def look(self, model: str) -> None:
        """Look at `model` now, if it is lost; raises a `DeviceLostError` if it still is after that."""
        await self._command(lambda number: OperatorCheck(number, model))

    async def release(self, *, refuse: bool) -> None:
        """Put everything to sleep, and wake nothing until `resume`; requests wait meanwhile, or are refused. Returns
        once everything sleeps; raises a `SwitchError` if something could not be put to sleep. Nothing is woken even
        then."""
        await self._command(lambda number: OperatorRelease(number, refuse))

    async def resume(self) -> None:
        """Wake models again for those who ask for them."""
        await self._command(OperatorResume)

    async def drain(self, model: str) -> None:
        """Let `model` finish what it has in flight, put it to sleep, and hold its requests until `undrain`; raises a
        `SwitchError` if it could not be put to sleep. It is given no requests even then."""
        await self._command(lambda number: OperatorDrain(number, model))

    async def undrain(self, model: str) -> None:
        """Give `model` requests again, and wake it for them."""
        await self._command(lambda number: OperatorUndrain(number, model))

    async def pin(self, model: str) -> None:
        """Once it is awake, never put `model` to sleep for another."""
        await self._command(lambda number: OperatorPin(number, model))

    async def unpin(self, model: str) -> None:
        """Let `model` be put to sleep for others again."""
        await self._command(lambda number: OperatorUnpin(number, model))

    def cancel(self, request_id: int) -> None:
        """End a request: one that waits is refused, one that is served is cut off.

        Raises:
            RequestNotFoundError: it neither waits nor is served.
        """
        request = self.core.ledger.requests.get(request_id)
        requester = self._requesters.get(request_id)
        if request is None or requester is None:
            raise RequestNotFoundError(request_id)
        if request.granted_at is None:
            switched = self.core.ledger.has_switched(request)
            self.left(request_id)
            requester.refused(RequestCancelledError(), switched)
        else:
            requester.aborted(RequestCancelledError())

    async def _command(self, make: Callable[[int], CoreEvent]) -> None:
        self.start()
        self._next_command = number = self._next_command + 1
        future: asyncio.Future[None] = self._loop.create_future()
        self._commands[number] = future
        try:
            self.dispatch(make(number))
            await future
        finally:
            self._commands.pop(number, None)

    async def stop(self, grace: float, on_exit: OnExit, sleep_within: float | None = None) -> None:
        """Refuse what waits, let what is in flight end within `grace` seconds, and return once no hook runs. Sleep
        hooks that are to run after that have `sleep_within` seconds together; None: their own deadlines."""
        self.dispatch(Stop(grace, on_exit, sleep_within))
        ledger = self.core.ledger
        if (ledger.requests or ledger.runs) and "exit" not in ledger.timers:  # else telemetry tells of the last sleeps
            hooks = ", ".join(f"{run.hook} of {run.model.name}" for run in ledger.runs.values())
            log.info("stop_waits", requests=len(ledger.requests), hooks=hooks, at_most_secs=grace)
        await asyncio.shield(self._stopped)
        self._tell_sink()  # of the last hooks, before anybody says that all is over

    def events_of(self, request_id: int) -> int:
        """How many server-sent events the answer to a request has had so far."""
        requester: object = self._requesters.get(request_id)
        return requester.events if isinstance(requester, Streaming) else 0

    def origin_of(self, request_id: int, most: int) -> Origin:
        """Where a request came from, and what it asks for; at most `most` bytes of its body are read for that."""
        requester: object = self._requesters.get(request_id)
        return requester.origin(most) if isinstance(requester, Traceable) else Origin()

    def now(self) -> float:
        """Seconds on the clock that the core is told."""
        return self._clock()

    def snapshot(self) -> Snapshot:
        self._tell_sink()  # whoever looks at the books looks at the metrics next
        return snapshot(self.core, self._clock())

    def close(self) -> None:
        """Cancel every timer; the driver handles nothing any more."""
        self._tell_sink()
        self._world.close()
