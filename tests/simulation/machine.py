"""What really is the case: who holds which memory, whose backend serves, and how hooks go.

llmux never sees this; it only hears how its hooks end. A hook may get wrong what real ones do: fail, hang, be
impossible to start, leave memory held when it fails, or say no though its model is well. What it may not do is what no
llmux could survive: a sleep hook that says yes while the memory is held, or an alive hook that says no at the start of
llmux while the model is up.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llmux.addresses import BackendAddress
from llmux.core import IMPLICIT_DEVICE, CoreSettings, ModelSpec
from llmux.hooks import HookResult, HookSpec
from llmux.hooks.runner import OnEnd
from llmux.messages import Hook, Outcome

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Nature:
    """What a model is like: seconds that its hooks take when all goes well, and whether its alive hook knows nothing
    and always says yes (``alive: true``)."""

    wake: float
    sleep: float
    always_alive: bool


@dataclass(slots=True)
class Run:
    """A hook that runs. `deed` is what it will have done to the machine if it gets to its end."""

    run_id: int
    model: str
    hook: Hook
    on_end: OnEnd
    began: float
    handle: asyncio.TimerHandle
    cancelled: bool = False


@dataclass(slots=True)
class Machine:
    """Memory, backends and hooks; takes the place of `llmux.hooks.HookRunner`.

    `trouble` is the probability that a hook's run goes wrong; `broken` takes note of what must never happen, `note` of
    what does. `on_sleep` and `on_crash` are called with the model's name when its sleep hook starts and when its
    backend dies.
    """

    loop: asyncio.AbstractEventLoop
    random: random.Random
    settings: CoreSettings
    natures: Mapping[str, Nature]
    trouble: float
    note: Callable[[str], None]
    broken: Callable[[str], None]
    on_sleep: Callable[[str], None] = lambda model: None
    on_crash: Callable[[str], None] = lambda model: None
    held: dict[str, dict[str, int]] = field(default_factory=dict)
    up: set[str] = field(default_factory=set)
    crashed: set[str] = field(default_factory=set)
    """Models that are down for another reason than a sleep hook's success."""
    woken: set[str] = field(default_factory=set)
    """Models whose wake hook was ever run, so that llmux knows that they may hold memory."""
    runs: dict[int, Run] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    specs: dict[str, ModelSpec] = field(default_factory=dict)
    killed: bool = False

    def spec(self, model: str) -> ModelSpec:
        """Also of models that have left the configuration: they may still be put to sleep."""
        self.specs.update((spec.name, spec) for spec in self.settings.models)
        return self.specs[model]

    def _free_late(self, model: str) -> None:
        if model not in self.up and not any(run.model == model and run.hook is Hook.WAKE for run in self.runs.values()):
            self.held.pop(model, None)

    # --- memory and backends -------------------------------------------------------------------------------------

    def begin_with(self, model: str, placement: dict[str, int]) -> None:
        """`model` was up before llmux started."""
        self.held[model] = dict(placement)
        self.up.add(model)

    def renamed(self, old: str, new: str) -> None:
        """A device is called something else now, and is what it was."""
        for held in self.held.values():
            if old in held:
                held[new] = held.pop(old)

    def fits(self, placement: Mapping[str, int]) -> bool:
        return all(self._used(device) + amount <= self.settings.devices[device] for device, amount in placement.items())

    def _used(self, device: str) -> int:
        return sum(placement.get(device, 0) for placement in self.held.values())

    def _take(self, model: str, devices: str) -> None:
        placement = next(
            one
            for one in self.spec(model).placements
            if ",".join(name for name in one if name != IMPLICIT_DEVICE) == devices
        )
        before = self.held.get(model, {})
        if not {device for device, amount in before.items() if amount} <= placement.keys():
            self.broken(f"{model} is woken on {placement} while it holds {before}")
        # Where its needs have changed since it took what it holds, it takes more at most.
        self.held[model] = {device: max(amount, before.get(device, 0)) for device, amount in placement.items()}
        for device, amount in placement.items():
            if amount > before.get(device, 0) and self._used(device) > self.settings.devices[device]:
                self.broken(f"out of memory on {device}: {model} is woken while it is held by {sorted(self.held)}")

    def crash(self, model: str) -> None:
        """The backend of `model` dies, in one case of three without its memory being freed."""
        if model in self.up and not any(run.model == model for run in self.runs.values()):
            leak = self.random.random() < 1 / 3
            self._fault("crash" + (" that keeps the memory" if leak else ""), model)
            self.up.discard(model)
            self.crashed.add(model)
            if not leak:
                del self.held[model]
            self.on_crash(model)

    def _fault(self, what: str, model: str) -> None:
        self.faults[what] += 1
        self.note(f"{model}: {what}")

    # --- hooks: what `HookRunner` offers -----------------------------------------------------------------------

    def start(
        self,
        run_id: int,
        model: str,
        hook: Hook,
        spec: HookSpec,
        *,
        timeout: float | None,
        variables: Mapping[str, str],
        on_end: OnEnd,
    ) -> None:
        if any(run.model == model and run.hook is hook for run in self.runs.values()):
            self.broken(f"two {hook} hooks of {model} run at a time")
        now = self.loop.time()
        goes_wrong = self.random.random() < self.trouble
        if self.killed:
            duration, outcome = 0.0, Outcome.CANCELLED
        elif hook is Hook.WAKE:
            duration, outcome = self._wake(model, variables["LLMUX_DEVICES"], goes_wrong)
        elif hook is Hook.SLEEP:
            duration, outcome = self._sleep(model, goes_wrong)
        elif hook is Hook.VERIFY:
            duration, outcome = self._verify(model, goes_wrong)
        else:
            duration, outcome = self._alive(model, goes_wrong)
        code = {Outcome.OK: 0, Outcome.FAILED: 1}.get(outcome)
        if timeout is not None and duration > timeout:
            duration, outcome, code = timeout + self.random.uniform(0.0, 5.0), Outcome.TIMEOUT, None
        if hook in (Hook.ALIVE, Hook.VERIFY) and outcome is Outcome.ERROR:
            outcome, code = Outcome.FAILED, 127
        if duration == NEVER:  # it has no deadline, and it hangs
            duration = 3600.0
        handle = self.loop.call_later(duration, self._end, run_id, outcome, code)
        self.runs[run_id] = Run(run_id, model, hook, on_end, now, handle)

    def cancel(self, run_id: int) -> None:
        run = self.runs.get(run_id)
        if run is not None and not run.cancelled:
            run.cancelled = True
            run.handle.cancel()
            run.handle = self.loop.call_later(self.random.uniform(0.0, 5.0), self._end, run_id, Outcome.CANCELLED, None)

    def kill_all(self) -> None:
        self.killed = True
        for run_id in list(self.runs):
            self.cancel(run_id)

    # --- how they go ---------------------------------------------------------------------------------------------

    def _wake(self, model: str, devices: str, goes_wrong: bool) -> tuple[float, Outcome]:
        if goes_wrong and self.random.random() < 0.2:
            self._fault("wake hook cannot be started", model)
            return 0.0, Outcome.ERROR
        self.woken.add(model)
        self._take(model, devices)
        if model in self.up:
            return self.random.uniform(0.01, 0.1), Outcome.OK
        duration = self.natures[model].wake * self.random.uniform(0.7, 1.5)
        if not goes_wrong:
            return duration, Outcome.OK
        if self.random.random() < 0.3:
            self._fault("wake hook hangs", model)
            return NEVER, Outcome.OK
        self._fault("wake hook fails", model)
        return duration * self.random.random(), Outcome.FAILED

    def _sleep(self, model: str, goes_wrong: bool) -> tuple[float, Outcome]:
        self.on_sleep(model)
        duration = self.natures[model].sleep * self.random.uniform(0.7, 1.5)
        if not goes_wrong:
            return duration, Outcome.OK
        kind = self.random.random()
        if kind < 0.2:
            self._fault("sleep hook cannot be started", model)
            return 0.0, Outcome.ERROR
        if kind < 0.5:
            self._fault("sleep hook hangs", model)
            return NEVER, Outcome.OK
        if kind < 0.7 and model in self.up:
            self._fault("sleep hook ends the backend, but fails", model)
            self.up.discard(model)
            self.crashed.add(model)
            self.on_crash(model)
        else:
            self._fault("sleep hook fails", model)
        return duration, Outcome.FAILED

    def _alive(self, model: str, goes_wrong: bool) -> tuple[float, Outcome]:
        truth = Outcome.OK if model in self.up or self.natures[model].always_alive else Outcome.FAILED
        duration = self.random.uniform(0.01, 0.5)
        if not goes_wrong:
            return duration, truth
        kind = self.random.random()
        if kind < 0.4:
            self._fault("alive hook hangs", model)
            return NEVER, truth
        if kind < 0.6:
            self._fault("alive hook is not found", model)
            return 0.0, Outcome.ERROR
        if truth is Outcome.OK and model in self.woken:
            self._fault("alive hook says no though all is well", model)
            return duration, Outcome.FAILED
        return duration, truth

    def _verify(self, model: str, goes_wrong: bool) -> tuple[float, Outcome]:
        if goes_wrong and self.random.random() < 0.3:
            self._fault("verify hook hangs", model)
            return NEVER, Outcome.OK
        return self.random.uniform(0.01, 0.2), Outcome.FAILED if model in self.held else Outcome.OK

    # --- what `llmux.ports.Backends` offers ----------------------------------------------------------------------

    def close_backend(self, model: str) -> None:
        """There are no connections here."""

    def waking(self, model: str) -> None:
        """Nor addresses."""

    def reported(self, model: str, address: BackendAddress) -> None:
        """No hook says where anything is."""

    def removed(self, model: str) -> None:
        """Nor pools."""

    def send_canary(
        self, model: str, timeout: float | None, ended: Callable[[Outcome, float, str], None]
    ) -> Callable[[], None]:
        """Answered if the backend is up; now and then, it is up and answers nothing well."""
        duration = self.random.uniform(0.05, 1.0)
        outcome = Outcome.OK if model in self.up else Outcome.FAILED
        if outcome is Outcome.OK and self.random.random() < self.trouble / 2:
            self._fault("canary dies", model)
            outcome = Outcome.FAILED
        handle = self.loop.call_later(duration, ended, outcome, duration, f"canary {outcome}")

        def cancel() -> None:
            if not handle.cancelled() and handle.when() > self.loop.time():
                handle.cancel()
                self.loop.call_soon(ended, Outcome.CANCELLED, 0.0, "cancelled")

        return cancel

    def _end(self, run_id: int, outcome: Outcome, code: int | None) -> None:
        run = self.runs.pop(run_id)
        model = run.model
        if run.hook is Hook.WAKE:
            if outcome is Outcome.OK:
                self.up.add(model)
                self.crashed.discard(model)
            elif outcome is not Outcome.ERROR and model not in self.up and self.random.random() < 0.5:
                self.held.pop(model, None)  # the other half leaves its memory to be cleaned up
        elif run.hook is Hook.SLEEP and outcome is Outcome.OK:
            self.up.discard(model)
            self.crashed.discard(model)
            if self.spec(model).verify and self.random.random() < self.trouble:  # else a sleep hook's word counts
                self._fault("memory comes free late", model)
                self.loop.call_later(self.random.uniform(0.0, 90.0), self._free_late, model)
            else:
                self.held.pop(model, None)
        duration = self.loop.time() - run.began
        run.on_end(run_id, HookResult(outcome, duration, code, detail=f"{run.hook} {outcome}"))
