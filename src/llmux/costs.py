"""What switching costs, learned from what it cost.

Pure. A switch's cost is the time its sleep hook took plus the time its wake hook took; drains, back-off and waiting
for ``min_active_secs`` are not part of it, since they depend on the traffic and not on the pair of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Generic, TypeVar

import msgspec

#: The cost of a switch, in seconds, before anything at all has been measured.
PRIOR = 10.0


_Key = TypeVar("_Key", str, tuple[str | None, str])


class _Ema(Generic[_Key]):
    """An exponential moving average per key; the first observation is taken as it is."""

    __slots__ = ("alpha", "values")

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.values: dict[_Key, float] = {}

    def record(self, key: _Key, seconds: float) -> float:
        old = self.values.get(key)
        new = seconds if old is None else self.alpha * seconds + (1 - self.alpha) * old
        self.values[key] = new
        return new

    def mean(self) -> float | None:
        return sum(self.values.values()) / len(self.values) if self.values else None


class Learned(msgspec.Struct, frozen=True):
    """What a tracker has learned, as plain data: averages in seconds. `pairs` are (from, to, seconds), where from is
    None for a cold start."""

    pairs: list[tuple[str | None, str, float]] = []
    sleeps: dict[str, float] = {}
    wakes: dict[str, float] = {}
    drains: dict[str, float] = {}

    def only(self, models: frozenset[str]) -> Learned:
        """What of it concerns these models and no others, and is a time that something can have taken."""

        def known(averages: Mapping[str, float]) -> dict[str, float]:
            return {model: seconds for model, seconds in averages.items() if model in models and _sound(seconds)}

        return Learned(
            [(a, b, seconds) for a, b, seconds in self.pairs if {a, b} <= {*models, None} and _sound(seconds)],
            known(self.sleeps),
            known(self.wakes),
            known(self.drains),
        )


def _sound(seconds: float) -> bool:
    return isfinite(seconds) and seconds >= 0


class SwitchCostTracker:
    """Moving averages of switch costs, in seconds, per ordered pair of models.

    A pair's first element is None for a cold start (nothing had to be put to sleep). The sleep and the wake part are
    also kept per model, so that `expected` can say something about a pair that was never seen.

    Args:
        alpha: weight of the newest observation, above 0 and at most 1.
        learned: what an earlier tracker had learned, to go on from.
    """

    def __init__(self, alpha: float = 0.3, learned: Learned | None = None) -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be above 0 and at most 1, not {alpha}")
        self._pairs: _Ema[tuple[str | None, str]] = _Ema(alpha)
        self._sleeps: _Ema[str] = _Ema(alpha)
        self._wakes: _Ema[str] = _Ema(alpha)
        self._drains: _Ema[str] = _Ema(alpha)
        if learned is not None:
            self._pairs.values.update(((a, b), seconds) for a, b, seconds in learned.pairs)
            self._sleeps.values.update(learned.sleeps)
            self._wakes.values.update(learned.wakes)
            self._drains.values.update(learned.drains)

    def record(self, from_model: str | None, to_model: str, seconds: float) -> float:
        """Take in the cost of one switch; returns the new average for that pair."""
        return self._pairs.record((from_model, to_model), seconds)

    def record_sleep(self, model: str, seconds: float) -> None:
        """Take in how long a sleep hook of `model` took."""
        self._sleeps.record(model, seconds)

    def record_wake(self, model: str, seconds: float) -> None:
        """Take in how long a wake hook of `model` took."""
        self._wakes.record(model, seconds)

    def record_drain(self, model: str, seconds: float) -> None:
        """Take in how long draining `model` took."""
        self._drains.record(model, seconds)

    def learned(self) -> Learned:
        """All that was learned so far."""
        return Learned(
            [(a, b, seconds) for (a, b), seconds in self._pairs.values.items()],
            dict(self._sleeps.values),
            dict(self._wakes.values),
            dict(self._drains.values),
        )

    def forget(self, model: str) -> None:
        """`model` is no more: drop all that is known of it."""
        for pair in [pair for pair in self._pairs.values if model in pair]:
            del self._pairs.values[pair]
        for averages in (self._sleeps, self._wakes, self._drains):
            averages.values.pop(model, None)

    def estimate(self, from_model: str | None, to_model: str) -> float | None:
        """The average cost of this ordered pair, in seconds; None until that very pair has been observed."""
        return self._pairs.values.get((from_model, to_model))

    def estimates_from(self, from_model: str | None) -> Mapping[str, float]:
        """The averages of all observed pairs that begin with `from_model`, by target."""
        return {pair[1]: seconds for pair, seconds in self._pairs.values.items() if pair[0] == from_model}

    def sleep(self, model: str) -> float | None:
        """The average time to put `model` to sleep, None until seen."""
        return self._sleeps.values.get(model)

    def wake(self, model: str) -> float | None:
        """The average time to wake `model`, None until seen."""
        return self._wakes.values.get(model)

    def drain(self, model: str) -> float | None:
        """The average time to drain `model`, None until seen."""
        return self._drains.values.get(model)

    def expected_wake(self, model: str) -> float:
        """The best guess at what waking `model` takes, in seconds: its average, else the mean of all, else `PRIOR`."""
        wake = self.wake(model)
        if wake is None:
            wake = self._wakes.mean()
        return PRIOR if wake is None else wake

    def expected_sleep(self, model: str) -> float:
        """The best guess at what putting `model` to sleep takes, in seconds; 0 before anything was measured."""
        sleep = self.sleep(model)
        if sleep is None:
            sleep = self._sleeps.mean()
        return 0.0 if sleep is None else sleep

    def expected(self, from_model: str | None, to_model: str) -> float:
        """The best guess at a pair's cost, in seconds, for a policy to work with; there is always one.

        The pair's own average; else the sleep of the one plus the wake of the other, as seen in other pairs, with the
        mean of what was seen standing in for a part that was not; else the mean over all pairs; else `PRIOR`.
        """
        seen = self._pairs.values.get((from_model, to_model))
        if seen is not None:
            return seen
        wake = self.wake(to_model)
        sleep = 0.0 if from_model is None else self.sleep(from_model)
        if wake is None and sleep is None:
            mean = self._pairs.mean()
            return PRIOR if mean is None else mean
        if wake is None:
            wake = self._wakes.mean()
        if sleep is None:
            sleep = self._sleeps.mean()
        if wake is None:
            return PRIOR
        return wake + (sleep or 0.0)
