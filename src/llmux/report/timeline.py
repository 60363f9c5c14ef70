"""Who was where when, noted while a simulation runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmux.messages import Effect, Event, ModelStarved, ModelState, PolicyFault, StateChanged, SwitchStarted


@dataclass(frozen=True, slots=True)
class Span:
    """`model` was in `state` on `devices` from `start` to `end`, in seconds."""

    model: str
    state: ModelState
    devices: tuple[str, ...]
    start: float
    end: float


class Recorder:
    """Watches one simulation (`llmux.sim.simulate`, argument `watch`): what went wrong with its policy, whom it
    let starve and, if `spans` are wanted, in which states its models were, asleep aside."""

    def __init__(self, *, spans: bool) -> None:
        self.faults: list[str] = []
        self.starved: list[str] = []
        self._wanted = spans
        self._spans: list[Span] = []
        self._devices: dict[str, tuple[str, ...]] = {}
        self._since: dict[str, tuple[ModelState, float]] = {}

    def __call__(self, now: float, event: Event, effects: Sequence[Effect]) -> None:
        for effect in effects:
            kind = type(effect)
            if kind is PolicyFault:
                assert isinstance(effect, PolicyFault)  # noqa: S101  # for the type checker
                self.faults.append(f"at {now:g} s: {effect.detail}")
            elif kind is ModelStarved:
                assert isinstance(effect, ModelStarved)  # noqa: S101  # for the type checker
                self.starved.append(f"at {now:g} s, for {effect.model}, {effect.waited:g} s")
            elif self._wanted:
                if isinstance(effect, SwitchStarted):
                    self._devices[effect.to_model] = effect.devices
                elif isinstance(effect, StateChanged):
                    self._changed(effect, now)

    def spans(self, end: float) -> list[Span]:
        """All spans, those that have not ended cut at `end`."""
        return self._spans + [
            Span(model, state, self._devices.get(model, ()), since, end)
            for model, (state, since) in self._since.items()
        ]

    def _changed(self, change: StateChanged, now: float) -> None:
        old = self._since.pop(change.model, None)
        if old is not None:
            state, since = old
            self._spans.append(Span(change.model, state, self._devices.get(change.model, ()), since, now))
        if change.new is not ModelState.ASLEEP:
            self._since[change.model] = (change.new, now)
