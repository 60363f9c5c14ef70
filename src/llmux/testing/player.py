"""Plays a decision core in virtual time: the world around it is a heap of appointments and a few numbers.

Knows the core only by `handle(event, now) -> effects` and the words of `llmux.messages`, so a policy's core, a toy or
a recorded log are all the same to it. Pure: no I/O, no real clock, no randomness.

    player = CorePlayer(core, hooks={("b", Hook.WAKE): 4.0}, service=2.0)
    player.send(Start())
    player.arrive("a")
    player.arrive("b", at=1.0)
    player.run(60.0)
    assert [grant.model for _, grant in player.said(Grant)] == ["a", "b"]
    print(player)  # the whole story, a line for each event and effect
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar, cast

from llmux.messages import (
    AbortRequests,
    Arrived,
    Effect,
    Event,
    Finished,
    Grant,
    Hook,
    Left,
    Message,
    Reject,
    RunHook,
)
from llmux.virtual import HookPlan, Timer, VirtualClock, World

M = TypeVar("M", bound=Message)

NEVER = math.inf
"""A duration that does not end: of a hook that hangs, of a stream that goes on."""


class Core(Protocol):
    """What is played."""

    def handle(self, event: Event, now: float, /) -> Sequence[Effect]:
        """Take an event in at time `now` (seconds) and say what must be done."""


class Entry(NamedTuple):
    """One line of the story: an event that was told to the core, or an effect that it asked for."""

    at: float
    message: Message
    is_event: bool

    def __str__(self) -> str:
        return f"{self.at:10.3f} {'>>' if self.is_event else '  <<'} {self.message}"


HookTable = Mapping[tuple[str, Hook], "HookPlan | float"]
HookChooser = Callable[[RunHook], "HookPlan | float"]
ServiceChooser = Callable[[Grant], float]


class CorePlayer:
    """A core, and the world it decides about.

    Args:
        core: the object under play.
        hooks: how hook runs go: a table by (model, hook), or a callable that is asked for each run. A bare number is
            the duration of a run that exits 0. What the table leaves out takes `hook_secs` and tells the truth: wake
            and sleep succeed, alive exits 0 if the model's backend is up.
        hook_secs: duration of hook runs that `hooks` does not speak of; alive hooks take a tenth of it.
        service: how long a granted request runs: seconds for all, seconds by model, or a callable. Infinite: until it
            is aborted.
        clock: share one to add happenings of your own.
        check: called after every event and its effects, for invariants; it should raise.

    Attributes:
        up: models whose backend is up, by the hooks that succeeded. Add or discard to start warm or to kill one.
        running: the hook runs that have not ended.
        waiting, in_flight: request id to model, of requests not yet granted, and granted but not finished.
        entries: the story so far.
    """

    def __init__(
        self,
        core: Core,
        *,
        hooks: HookTable | HookChooser | None = None,
        hook_secs: float = 1.0,
        service: float | Mapping[str, float] | ServiceChooser = 1.0,
        clock: VirtualClock | None = None,
        check: Callable[[CorePlayer], object] | None = None,
    ) -> None:
        self.core = core
        self.clock = clock if clock is not None else VirtualClock()
        self._world = World(
            self.clock,
            deliver=self._deliver,
            plan=self._plan,
            others={Grant: self._grant, Reject: self._reject, AbortRequests: self._abort},
        )
        self.up = self._world.up
        self.running = self._world.running
        self.waiting: dict[int, str] = {}
        self.in_flight: dict[int, str] = {}
        self.entries: list[Entry] = []
        self._hooks = hooks if hooks is not None else {}
        self._hook_secs = hook_secs
        self._service = service
        self._check = check
        self._finishes: dict[int, Timer] = {}
        self._last_request = 0
        self._inside = False

    # --- what a test tells it ------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.clock.now

    def send(self, event: Event, *, at: float | None = None) -> None:
        """Tell the core of `event`, now or at time `at`."""
        if at is None:
            self._deliver(event)
        else:
            self.clock.call_at(at, self._deliver, event)

    def arrive(self, model: str, *, at: float | None = None) -> int:
        """A request for `model` arrives, now or at time `at`; returns its id."""
        self._last_request += 1
        self.send(Arrived(self._last_request, model), at=at)
        return self._last_request

    def leave(self, request_id: int, *, at: float | None = None) -> None:
        """The request's client goes away, now or at time `at`: `Left` while it waits, `Finished` once it is granted,
        and nothing if it is over."""
        if at is None:
            self._leave(request_id)
        else:
            self.clock.call_at(at, self._leave, request_id)

    def kill(self, model: str, *, at: float | None = None) -> None:
        """The model's backend dies, now or at time `at`. Nobody is told: that is for the alive hook to find out, or
        for a `BackendFailed` that the test sends."""
        if at is None:
            self.up.discard(model)
        else:
            self.clock.call_at(at, self.up.discard, model)

    def run(self, until: float) -> None:
        """Play up to and including the time `until`."""
        self.clock.advance_to(until)

    def run_until(self, condition: Callable[[], bool], *, limit: float = 86_400.0) -> None:
        """Play until `condition()` holds, looking after every happening.

        Raises:
            AssertionError: if nothing more is to happen, or `limit` more seconds have passed.
        """
        deadline = self.now + limit
        while not condition():
            coming = self.clock.next_at()
            if coming is None or coming > deadline:
                raise AssertionError(f"the condition does not hold by {self.now} s; the story so far:\n{self}")
            self.clock.step()

    def run_until_idle(self, *, max_steps: int = 100_000) -> None:
        """Play until nothing more is to happen (RuntimeError if that never comes: see `VirtualClock`)."""
        self.clock.run_until_idle(max_steps=max_steps)

    # --- what it tells a test ------------------------------------------------------------------------------------

    def said(self, kind: type[M]) -> list[tuple[float, M]]:
        """Every message of a kind, events and effects alike, with its time."""
        return [(entry.at, entry.message) for entry in self.entries if isinstance(entry.message, kind)]

    def events(self) -> list[tuple[float, Event]]:
        """What the core was told, for `replay`."""
        return [(entry.at, cast(Event, entry.message)) for entry in self.entries if entry.is_event]

    def story(self, *words: str) -> list[str]:
        """The lines that mention every one of `words` (a model's name, ``request_id=3``, ``RunHook``)."""
        return [line for line in map(str, self.entries) if all(word in line for word in words)]

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries))

    # --- the world -----------------------------------------------------------------------------------------------

    def _deliver(self, event: Event) -> None:
        if self._inside:
            raise RuntimeError("the core was told of an event while it was handling another")
        if isinstance(event, Arrived):
            self.waiting[event.request_id] = event.model
        elif isinstance(event, Left):
            self.waiting.pop(event.request_id, None)
        elif isinstance(event, Finished):
            self.in_flight.pop(event.request_id, None)
            self._finishes.pop(event.request_id, None)
        self.entries.append(Entry(self.now, event, is_event=True))
        self._inside = True
        try:
            effects = self.core.handle(event, self.now)
        finally:
            self._inside = False
        for effect in effects:
            self.entries.append(Entry(self.now, effect, is_event=False))
        self._world.carry_out(effects)
        if self._check is not None:
            self._check(self)

    def _grant(self, grant: Grant) -> None:
        if self.waiting.pop(grant.request_id, None) is None:
            raise AssertionError(f"granted, though it was not waiting: {grant}\n{self}")
        self.in_flight[grant.request_id] = grant.model
        if callable(self._service):
            seconds = self._service(grant)
        elif isinstance(self._service, Mapping):
            seconds = self._service[grant.model]
        else:
            seconds = self._service
        self._finish(grant.request_id, self.now + seconds)

    def _reject(self, reject: Reject) -> None:
        self.waiting.pop(reject.request_id, None)

    def _abort(self, effect: AbortRequests) -> None:
        for request_id in effect.request_ids:
            self._finish(request_id, self.now)

    def _finish(self, request_id: int, when: float) -> None:
        if (timer := self._finishes.pop(request_id, None)) is not None:
            timer.cancel()
        if request_id in self.in_flight:
            self._finishes[request_id] = self.clock.call_at(when, self._deliver, Finished(request_id))

    def _leave(self, request_id: int) -> None:
        if request_id in self.waiting:
            self._deliver(Left(request_id))
        else:
            self._finish(request_id, self.now)

    def _plan(self, run: RunHook) -> HookPlan:
        chosen: HookPlan | float | None
        chosen = self._hooks(run) if callable(self._hooks) else self._hooks.get((run.model, run.hook))
        if isinstance(chosen, HookPlan):
            return chosen
        if run.hook is Hook.ALIVE:
            return self._world.alive(run.model, self._hook_secs / 10 if chosen is None else chosen)
        return HookPlan(self._hook_secs if chosen is None else chosen)


def replay(core: Core, events: Iterable[tuple[float, Event]]) -> list[Entry]:
    """Tell `core` exactly these events at these times and return the story. A deterministic core tells the same one
    that the events were taken from (`CorePlayer.events`, or a recorded log)."""
    entries: list[Entry] = []
    for at, event in events:
        entries.append(Entry(at, event, is_event=True))
        entries.extend(Entry(at, effect, is_event=False) for effect in core.handle(event, at))
    return entries
