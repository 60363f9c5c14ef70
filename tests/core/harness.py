"""Plays a core by hand: keeps what it asked for, and checks the invariants after every event."""

from __future__ import annotations

from collections import Counter

from llmux.core import ConfigChanged, Core, CoreEvent, CoreSettings, ModelSpec, PolicyNote
from llmux.core.invariants import violations
from llmux.core.lifecycle import Step
from llmux.core.report import owners
from llmux.messages import (
    NOT_EXECUTED,
    AbortRequests,
    Arrived,
    BackendFailed,
    CancelHook,
    CancelTimer,
    Effect,
    Failure,
    Finished,
    Grant,
    Hook,
    HookEnded,
    Left,
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
    Outcome,
    Refusal,
    Reject,
    RunHook,
    SetTimer,
    Start,
    StateChanged,
    Stop,
    Stopped,
    TimerFired,
)
from llmux.policy import FifoPolicy, SwitchPolicy
from tests.core.memory import Memory

GIB = 1 << 30

Command = type[
    OperatorSwitch
    | OperatorSleep
    | OperatorFree
    | OperatorCheck
    | OperatorDrain
    | OperatorUndrain
    | OperatorPin
    | OperatorUnpin
]


class Play:
    """One core in virtual time. Everything it does is checked: a request ends once, a grant needs an awake model."""

    def __init__(self, settings: CoreSettings, policy: SwitchPolicy | None = None, *, started: bool = True) -> None:
        self.core = Core(settings, policy if policy is not None else FifoPolicy())
        self.now = 0.0
        self.hooks: dict[int, RunHook] = {}
        self.timers: dict[str, float] = {}
        self.waiting: dict[int, str] = {}
        self.in_flight: dict[int, str] = {}
        self.rejected: dict[int, Reject] = {}
        self.replies: dict[int, OperatorReply] = {}
        self.commands = 0
        self.to_abort: set[int] = set()
        self.cancelled: set[int] = set()
        self.effects: list[Effect] = []
        self.log: list[tuple[float, CoreEvent]] = []
        self.made_from = settings
        self.memory = Memory(settings)
        self.ends: Counter[int] = Counter()
        self.stopped = False
        self.past: dict[str, ModelState] = {}  # what an earlier play has left
        self.orphans: set[str] = set()
        self._requests = 0
        self._ended: tuple[Hook, Outcome] | None = None  # the hook whose end the core is being told
        if started:
            self.start()

    # --- events ------------------------------------------------------------------------------------------------

    def send(self, event: CoreEvent) -> list[Effect]:
        self.log.append((self.now, event))
        if isinstance(event, ConfigChanged) and self.core.ledger.stop is None:
            self.memory.configured(event.settings)
        effects = self.core.handle(event, self.now)
        for effect in effects:
            self._take(effect)
        self.effects += effects
        problems = violations(self.core)
        assert not problems, f"{problems} after {event}"
        assert set(self.waiting) | set(self.in_flight) == set(self.core.ledger.requests)
        return effects

    def start(self, awake: tuple[str, ...] = (), past: dict[str, ModelState] | None = None) -> None:
        """Start, and answer the alive hooks: no, but for the models in `awake`."""
        self.send(Start(past or {}))
        while running := [run for run in self.hooks.values() if run.hook is Hook.ALIVE]:
            for run in running:
                self.end(run, Outcome.OK if run.model in awake else Outcome.FAILED)

    def arrive(self, model: str, level: int = 0) -> int:
        self._requests += 1
        self.waiting[self._requests] = model
        self.send(Arrived(self._requests, model, level))
        return self._requests

    def leave(self, request: int) -> None:
        if self.waiting.pop(request, None) is not None:
            self.ends[request] += 1
        self.send(Left(request))

    def finish(self, request: int) -> None:
        del self.in_flight[request]
        self.ends[request] += 1
        self.to_abort.discard(request)
        self.send(Finished(request))

    def end(self, run: RunHook, outcome: Outcome = Outcome.OK, *, after: float = 0.0, code: int | None = None) -> None:
        self.advance(after)
        del self.hooks[run.run_id]
        if code is None:
            code = {Outcome.OK: 0, Outcome.FAILED: 1}.get(outcome)
        self._ended = run.hook, outcome
        self._did(run, outcome, code)
        self.send(HookEnded(run.run_id, outcome, after, code, "" if outcome is Outcome.OK else "because"))
        self._ended = None

    def advance(self, seconds: float) -> None:
        """Let time pass, firing the timers on the way."""
        end = self.now + seconds
        while self.timers:
            key, at = min(self.timers.items(), key=lambda item: (item[1], item[0]))
            if at > end:
                break
            del self.timers[key]
            self.now = max(self.now, at)
            self.send(TimerFired(key))
        self.now = end

    def fail_backend(self, model: str, failure: Failure = Failure.LOST, in_a_row: int = 1) -> None:
        self.send(BackendFailed(model, failure, in_a_row))

    def command(self, kind: Command, model: str) -> int:
        self.commands += 1
        self.send(kind(self.commands, model))
        return self.commands

    def release(self, *, refuse: bool = False) -> int:
        self.commands += 1
        self.send(OperatorRelease(self.commands, refuse))
        return self.commands

    def resume(self) -> int:
        self.commands += 1
        self.send(OperatorResume(self.commands))
        return self.commands

    def reopen(self) -> None:
        """Take back what keeps requests waiting for as long as an operator likes."""
        self.resume()
        for model in list(self.core.ledger.models.values()):
            if model.drained and not model.leaving:
                self.command(OperatorUndrain, model.name)
            if model.pinned and not model.leaving:
                self.command(OperatorUnpin, model.name)

    def stop(self, grace: float = 30.0, on_exit: OnExit = OnExit.LEAVE, sleep_within: float | None = None) -> None:
        self.send(Stop(grace, on_exit, sleep_within))

    def killed(self) -> Play:
        """The play of the llmux that is started when this one was killed, with all its hooks. It knows what was saved;
        the memory is as it was."""
        play = Play(self.core.settings, started=False)
        play.now = self.now
        play.memory = self.memory
        play.past = owners(self.core)
        play.orphans = {run.model for run in self.hooks.values() if run.hook in (Hook.WAKE, Hook.SLEEP)}
        for name in set(play.memory.held) - set(play.core.ledger.models):
            play.memory.freed(name)  # an operator has seen to it
        return play

    def reconfigure(self, settings: CoreSettings, policy: PolicyNote | None = None) -> list[Effect]:
        return self.send(ConfigChanged(settings, policy))

    # --- what came of it ---------------------------------------------------------------------------------------

    def state(self, model: str) -> ModelState:
        return self.core.ledger.models[model].state

    def states(self) -> dict[str, str]:
        return {name: model.state.value for name, model in self.core.ledger.models.items()}

    def running(self) -> list[str]:
        return [f"{run.hook.value} {run.model}" for run in self.hooks.values()]

    def run(self, hook: Hook, model: str) -> RunHook:
        """The running hook of that kind."""
        found = [run for run in self.hooks.values() if run.hook is hook and run.model == model]
        assert len(found) == 1, f"{hook} of {model}: {self.running()}"
        return found[0]

    def wake(self, model: str, *, after: float = 0.0) -> None:
        self.end(self.run(Hook.WAKE, model), after=after)

    def sleep(self, model: str, *, after: float = 0.0) -> None:
        self.end(self.run(Hook.SLEEP, model), after=after)

    def facts(self, kind: type[Effect]) -> list[Effect]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def settle(self) -> None:
        """Let everything come to its end: requests finish, hooks succeed, pauses pass. Whoever waited has an answer."""
        for _ in range(10_000):
            if self.hooks:
                self.end(next(iter(self.hooks.values())))
            elif self.in_flight:
                self.finish(next(iter(self.in_flight)))
            elif (
                self.waiting
                or len(self.replies) < self.commands
                or (self.core.ledger.stop is not None and not self.stopped)
            ):
                assert self.timers, f"stuck: {self.waiting} {self.states()}"
                self.advance(max(0.0, min(self.timers.values()) - self.now))
            else:
                return
        raise AssertionError("it does not settle")

    def _take(self, effect: Effect) -> None:
        match effect:
            case Grant():
                assert self.waiting.pop(effect.request_id) == effect.model
                assert not self.core.ledger.models[effect.model].closed
                assert self.state(effect.model) is ModelState.AWAKE or any(
                    # granted first, then taken for the next switch, all within one event
                    change.old is ModelState.AWAKE
                    for change in self._changes(effect.model)
                )
                self.in_flight[effect.request_id] = effect.model
                most = self.core.ledger.models[effect.model].spec.max_in_flight
                assert most is None or len(self.core.ledger.models[effect.model].granted) <= most
            case Reject():
                assert effect.request_id in self.waiting
                del self.waiting[effect.request_id]
                self.ends[effect.request_id] += 1
                self.rejected[effect.request_id] = effect
                if effect.reason is not Refusal.MODEL_NOT_FOUND:
                    assert effect.retry_after is not None
                    assert effect.detail
            case RunHook():
                assert effect.run_id not in self.hooks
                assert not any(r.model == effect.model and r.hook is effect.hook for r in self.hooks.values())
                self.hooks[effect.run_id] = effect
                self.memory.begins(effect)
            case StateChanged(model=name, old=ModelState.WAKING, new=ModelState.AWAKE):
                model, stopping = self.core.ledger.models[name], self.core.ledger.stop is not None
                proof = Hook.CANARY if model.spec.canary and not stopping else None
                assert self._ended in [(proof or Hook.WAKE, Outcome.OK), (Hook.CANARY, Outcome.OK)]
            case StateChanged(model=name, new=ModelState.ASLEEP, cause=cause):
                if cause == Step.FREED:
                    self.memory.freed(name)
                known = self.core.ledger.models.get(name)  # none where it left the configuration, and is forgotten
                verify = known is not None and known.spec.verify
                if known is not None and cause not in (Step.FREED, Step.FOUND_ASLEEP):
                    # Its verify hook may still be asked where a reload has taken it out of the configuration since.
                    assert self._ended in [
                        (Hook.VERIFY if verify else Hook.SLEEP, Outcome.OK),
                        (Hook.VERIFY, Outcome.OK),
                    ]
            case CancelHook():
                self.cancelled.add(effect.run_id)
            case AbortRequests():
                assert set(effect.request_ids) <= set(self.in_flight)
                self.to_abort |= set(effect.request_ids)
            case SetTimer():
                assert effect.at >= self.now
                self.timers[effect.key] = effect.at
            case CancelTimer():
                del self.timers[effect.key]
            case OperatorReply():
                assert effect.operator_id not in self.replies
                self.replies[effect.operator_id] = effect
            case Stopped():
                assert not self.stopped
                assert not self.hooks
                assert not self.in_flight
                self.stopped = True

    def _did(self, run: RunHook, outcome: Outcome, code: int | None) -> None:
        """What a hook has done to memory, before the core hears of its end."""
        known = self.core.ledger.models.get(run.model)
        state = ModelState.ASLEEP if known is None else known.state
        if run.hook is Hook.ALIVE and state is not ModelState.UNCONFIRMED:
            return  # of one that is known
        says_no = outcome is Outcome.FAILED and code not in NOT_EXECUTED
        asleep = state in (ModelState.SLEEPING, ModelState.LOST, ModelState.UNCONFIRMED)
        self.memory.ended(run, outcome, says_no=says_no, asleep=asleep)

    def _changes(self, model: str) -> list[StateChanged]:
        return [effect for effect in self.core.ledger.out if isinstance(effect, StateChanged) and effect.model == model]


def two(**overrides: object) -> CoreSettings:
    """Models a and b, one at a time."""
    return CoreSettings(models=(ModelSpec("a"), ModelSpec("b")), **overrides)  # type: ignore[arg-type]  # test sugar


def three_on_two_gpus(**overrides: object) -> CoreSettings:
    """Two GPUs of 24 GiB: big takes both, left needs gpu0, right gpu1, small any one of them."""
    return CoreSettings(
        models=(
            ModelSpec("big", ({"gpu0": 20 * GIB, "gpu1": 20 * GIB},)),
            ModelSpec("left", ({"gpu0": 16 * GIB},)),
            ModelSpec("right", ({"gpu1": 16 * GIB},)),
            ModelSpec("small", ({"gpu0": 8 * GIB}, {"gpu1": 8 * GIB})),
        ),
        devices={"gpu0": 24 * GIB, "gpu1": 24 * GIB},
        **overrides,  # type: ignore[arg-type]  # test sugar
    )
