"""What happened in a demo run, gathered from two sides: the client's own stopwatch, and the core's facts.

Pure data; shows nothing (`llmux.demo.show`), asks nothing (`llmux.demo.driver`). Times are seconds on the loop's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llmux.messages import (
    Grant,
    Hook,
    HookEnded,
    Message,
    ModelState,
    Outcome,
    RunHook,
    StateChanged,
    SwitchEnded,
    SwitchStarted,
)

QUEUE, DRAIN, SLEEP, WAKE, FIRST_TOKEN, TOKENS = "queue", "drain", "sleep", "wake", "first token", "tokens"
PHASES = (QUEUE, DRAIN, SLEEP, WAKE, FIRST_TOKEN, TOKENS)
"""What a request goes through, in order; a model that is awake already saves it the middle."""


@dataclass(slots=True)
class Ask:
    """One question, and what became of it."""

    number: int
    model: str
    question: str
    asked_at: float
    phases: list[tuple[str, float]] = field(default_factory=list)
    text: str = ""
    tokens: int = 0
    ended_at: float | None = None
    error: str | None = None

    @property
    def waiting(self) -> bool:
        """Whether it has not been forwarded to its model yet."""
        return self.ended_at is None and self.phases[-1][0] in (QUEUE, DRAIN, SLEEP, WAKE)

    def enter(self, phase: str, now: float) -> None:
        """Go on to `phase`, unless it is in it."""
        if not self.phases or self.phases[-1][0] != phase:
            self.phases.append((phase, now))

    def seconds(self, now: float) -> dict[str, float]:
        """How long each phase took, or has taken until `now`; those that did not happen are left out."""
        ends = [start for _, start in self.phases[1:]] + [self.ended_at if self.ended_at is not None else now]
        spent: dict[str, float] = {}
        for (phase, start), end in zip(self.phases, ends, strict=True):
            spent[phase] = spent.get(phase, 0.0) + end - start
        return spent

    @property
    def tokens_per_second(self) -> float | None:
        """Speed once the first token was there; None for an answer too short to tell."""
        if self.ended_at is None or self.tokens < 2 or self.phases[-1][0] != TOKENS:
            return None
        return (self.tokens - 1) / max(self.ended_at - self.phases[-1][1], 1e-9)


@dataclass(frozen=True, slots=True)
class HookRun:
    """A hook that has run: how long, in seconds, and how it ended."""

    model: str
    hook: Hook
    duration: float
    outcome: Outcome


def ignore(kind: str, subject: object) -> None:
    """For a story that nobody follows."""


class Story:
    """All questions, model states, hook runs and switches of one run.

    Attributes:
        on_event: called with one of ``ask``, ``token``, ``answer``, ``switch``, ``hook`` and its subject, after the
            story has taken it in.
    """

    def __init__(self, models: list[str]) -> None:
        self.asks: list[Ask] = []
        self.states = dict.fromkeys(models, ModelState.ASLEEP)
        self.hooks: list[HookRun] = []
        self.on_event: Callable[[str, object], None] = ignore
        self._running: dict[int, RunHook] = {}

    # --- the client's side ----------------------------------------------------------------------------------------

    def ask(self, model: str, question: str, now: float) -> Ask:
        """A question is being sent."""
        ask = Ask(len(self.asks) + 1, model, question, now)
        ask.enter(QUEUE, now)
        self.asks.append(ask)
        self.on_event("ask", ask)
        return ask

    def received(self, ask: Ask, text: str, tokens: int | None, now: float) -> None:
        """Some of its answer has come."""
        if text:
            ask.enter(TOKENS, now)
            ask.text = (ask.text + text).lstrip()
        if tokens is not None:
            ask.tokens = tokens
        self.on_event("token", ask)

    def ended(self, ask: Ask, now: float, error: str | None = None) -> None:
        """Its answer is complete, or will not come."""
        ask.ended_at = now
        ask.error = error
        self.on_event("answer", ask)

    # --- the core's side ------------------------------------------------------------------------------------------

    def watch(self, now: float, message: Message) -> None:
        """Take in one event or effect of the core: a subscriber of `Switcher.subscribe`."""
        match message:
            case StateChanged():
                self.states[message.model] = message.new
            case SwitchStarted():
                self._enter(message.to_model, DRAIN if message.victims else WAKE, now)
                self.on_event("switch", message)
            case SwitchEnded():
                self.on_event("switch", message)
            case RunHook():
                self._running[message.run_id] = message
                if message.hook is Hook.SLEEP and message.to_model is not None:
                    self._enter(message.to_model, SLEEP, now)
                elif message.hook is Hook.WAKE:
                    self._enter(message.model, WAKE, now)
            case HookEnded():
                if (run := self._running.pop(message.run_id, None)) is not None:
                    ended = HookRun(run.model, run.hook, message.duration, message.outcome)
                    self.hooks.append(ended)
                    self.on_event("hook", ended)
            case Grant():
                # It does not say which connection it is for; of those that wait for a model, all are released at once.
                self._enter(message.model, FIRST_TOKEN, now)

    def _enter(self, model: str, phase: str, now: float) -> None:
        for ask in self.asks:
            if ask.model == model and ask.waiting:
                ask.enter(phase, now)
