"""What happened lately, kept for an operator's eye: switches with their causes, hook runs with their output, and which
model was in what state when. And the same as it happens, for whoever listens.

Touches nothing but its own, bounded memory. Never waits, never raises into those who tell it things; nothing here is
called for a request. Times are Unix time in seconds, durations are in seconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from llmux.hooks import HookResult
from llmux.messages import (
    Effect,
    Hook,
    ModelState,
    Outcome,
    RunHook,
    StateChanged,
    SwitchDrained,
    SwitchEnded,
    SwitchStarted,
)

SWITCHES = 500
"""How many switches are kept."""

HOOK_RUNS = 20
"""How many runs of each hook of each model are kept."""

CHANGES = 5000
"""How many changes of each model's state are kept: hours of them where models are switched all the time."""

OUTPUT_CHARS = 8000
"""How much of the end of a hook's output is kept, in characters."""

LINES = 1000
"""How many lines that a listener has not taken yet are kept for it; the oldest go first."""


class SwitchRecord(msgspec.Struct, rename={"from_model": "from", "to_model": "to"}):
    """A switch: `result` is None while it is under way, then ``success``, ``failure`` or ``cancelled``. `cause` is who
    wanted it: ``demand`` or ``operator``."""

    id: int
    from_model: str | None
    to_model: str
    victims: tuple[str, ...]
    devices: tuple[str, ...]
    cause: str
    began: float
    result: str | None = None
    duration_secs: float | None = None
    drain_secs: float = 0.0
    sleep_secs: float = 0.0
    wake_secs: float = 0.0
    aborted_requests: int = 0
    detail: str = ""


class HookStarted(msgspec.Struct, frozen=True):
    """A hook run that began `at`, and is not over."""

    model: str
    hook: Hook
    at: float


class HookRecord(msgspec.Struct, frozen=True):
    """A hook run that is over. `output` is the end of what it printed, on both streams."""

    model: str
    hook: Hook
    ended: float
    duration_secs: float
    outcome: Outcome
    exit_code: int | None
    detail: str
    output: str


class StateRecord(msgspec.Struct, frozen=True):
    """From `at` on the model was in `state`. `devices` are those that it holds memory on."""

    model: str
    at: float
    state: ModelState
    cause: str
    devices: tuple[str, ...] = ()


class HookLine(msgspec.Struct, frozen=True):
    """A line that a hook, or a daemon that it left behind, printed."""

    model: str
    hook: Hook
    at: float
    line: str


Record = SwitchRecord | HookStarted | HookRecord | StateRecord | HookLine

KINDS: Mapping[type, str] = {
    SwitchRecord: "switch",
    HookStarted: "hook_started",
    HookRecord: "hook",
    StateRecord: "state",
    HookLine: "hook_output",
}
"""The names under which records are sent to listeners."""


class Listener:
    """What happened since it was last asked. A slow one misses the oldest."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._records: deque[Record] = deque(maxlen=LINES)
        self._wake = wake
        self.missed = 0

    def put(self, record: Record) -> None:
        """Something happened."""
        if len(self._records) == self._records.maxlen:
            self.missed += 1
        self._records.append(record)
        self._wake()

    def take(self) -> list[Record]:
        """All that was not taken yet, the oldest first."""
        taken = list(self._records)
        self._records.clear()
        return taken


class History:
    """The recent past of one application. `devices` tells where a model holds memory now, `clock` Unix time in
    seconds."""

    def __init__(
        self,
        models: Iterable[str],
        *,
        devices: Callable[[str], tuple[str, ...]] = lambda model: (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._devices = devices
        self._clock = clock
        self._switches: deque[SwitchRecord] = deque(maxlen=SWITCHES)
        self._open: dict[int, SwitchRecord] = {}
        self._hooks: dict[tuple[str, Hook], deque[HookRecord]] = {}
        self._running: dict[tuple[str, Hook], HookStarted] = {}  # a hook of a model runs once at a time
        self._states: dict[str, deque[StateRecord]] = {}
        self._listeners: list[Listener] = []
        self._facts: dict[type, Callable[[Any], None]] = {
            StateChanged: self._state_changed,
            SwitchStarted: self._switch_started,
            SwitchDrained: self._switch_drained,
            SwitchEnded: self._switch_ended,
            RunHook: self._hook_started,
        }
        began = clock()
        for model in models:
            self._states[model] = deque(
                [StateRecord(model, began, ModelState.UNCONFIRMED, "llmux started")], maxlen=CHANGES
            )

    # --- what is told ----------------------------------------------------------------------------------------------

    def fact(self, now: float, effect: Effect) -> None:
        """Something happened in the core, at about this moment."""
        tell = self._facts.get(type(effect))
        if tell is not None:
            tell(effect)

    def hook_ended(self, model: str, hook: Hook, result: HookResult) -> None:
        """A hook's run is over."""
        self._running.pop((model, hook), None)
        output = (result.output or result.stderr)[-OUTPUT_CHARS:]
        record = HookRecord(
            model, hook, self._clock(), result.duration, result.outcome, result.exit_code, result.detail, output
        )
        runs = self._hooks.get((model, hook))
        if runs is None:
            runs = self._hooks[model, hook] = deque(maxlen=HOOK_RUNS)
        runs.append(record)
        self._publish(record)

    def hook_output(self, model: str, hook: Hook, line: str) -> None:
        """A hook, or a daemon that it left behind, wrote a line."""
        if self._listeners:
            self._publish(HookLine(model, hook, self._clock(), line))

    # --- what is asked ---------------------------------------------------------------------------------------------

    def switches(self, limit: int = SWITCHES) -> list[SwitchRecord]:
        """The last `limit` switches, the newest first."""
        return list(reversed(self._switches))[:limit]

    def running(self) -> list[HookStarted]:
        """The hooks that run, the oldest first."""
        return list(self._running.values())

    def hook_runs(self, model: str | None = None, limit: int | None = None) -> list[HookRecord]:
        """The last runs of each hook, of one model or of all, the newest first; at most `limit` in all."""
        runs = [run for (name, _), kept in self._hooks.items() if model in (None, name) for run in kept]
        return sorted(runs, key=lambda run: run.ended, reverse=True)[:limit]

    def states(self, since: float = 0.0) -> list[StateRecord]:
        """Every change of a model's state since the Unix time `since`, and for each model the state that it was in
        then; in the order in which they happened."""
        found: list[StateRecord] = []
        for changes in self._states.values():
            later = [change for change in changes if change.at > since]
            before = [change for change in changes if change.at <= since]
            found += [*before[-1:], *later]
        return sorted(found, key=lambda change: change.at)

    def listen(self, wake: Callable[[], None]) -> Listener:
        """Keep what happens from now on for somebody; `wake` is called when there is something to take. On the loop."""
        listener = Listener(wake)
        self._listeners.append(listener)
        return listener

    def forget(self, listener: Listener) -> None:
        """It does not listen any more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    # --- facts -----------------------------------------------------------------------------------------------------

    def _publish(self, record: Record) -> None:
        if self._listeners and isinstance(record, SwitchRecord):
            record = msgspec.structs.replace(record)  # as it is now; the original goes on to change
        for listener in self._listeners:
            listener.put(record)

    def _state_changed(self, effect: StateChanged) -> None:
        changes = self._states.get(effect.model)
        if changes is None:
            changes = self._states[effect.model] = deque(maxlen=CHANGES)
        devices: tuple[str, ...] = ()
        if effect.new is not ModelState.ASLEEP:
            # Facts are told a little late: by now it may have given up what it held then.
            devices = self._devices(effect.model) or (changes[-1].devices if changes else ())
        record = StateRecord(effect.model, self._clock(), effect.new, effect.cause, devices)
        changes.append(record)
        self._publish(record)

    def _hook_started(self, effect: RunHook) -> None:
        record = HookStarted(effect.model, effect.hook, self._clock())
        self._running[effect.model, effect.hook] = record
        self._publish(record)

    def _switch_started(self, effect: SwitchStarted) -> None:
        record = SwitchRecord(
            effect.switch_id,
            effect.from_model,
            effect.to_model,
            effect.victims,
            effect.devices,
            effect.cause,
            self._clock(),
        )
        self._switches.append(record)
        self._open[effect.switch_id] = record
        self._publish(record)

    def _switch_drained(self, effect: SwitchDrained) -> None:
        record = self._open.get(effect.switch_id)
        if record is not None:
            record.drain_secs, record.aborted_requests = effect.duration, effect.aborted
            self._publish(record)

    def _switch_ended(self, effect: SwitchEnded) -> None:
        record = self._open.pop(effect.switch_id, None)
        if record is not None:
            record.result, record.duration_secs = effect.result, effect.duration
            record.sleep_secs, record.wake_secs, record.detail = effect.sleep, effect.wake, effect.detail
            self._publish(record)
