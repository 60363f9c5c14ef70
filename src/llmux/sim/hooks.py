"""What hooks take in the simulation: seconds of sleep and wake, stated or measured, with noise if wanted. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HookTimes:
    """How long the hooks of each model run, in seconds.

    A pair's cost in `pairs` goes before `sleeps` and `wakes`; `sleep_share` of it is the sleep hook's.

    Attributes:
        sleeps, wakes: per model; what its verify hook and its canary take is part of them, as in measured costs.
        pairs: cost of a switch, sleep plus wake, per (from, to).
        noise: coefficient of variation of each run's time (log-normal around what is stated); 0 for none.
        seed: of the noise.
    """

    sleeps: Mapping[str, float]
    wakes: Mapping[str, float]
    pairs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    sleep_share: float = 0.2
    noise: float = 0.0
    seed: int = 0

    @classmethod
    def constant(
        cls, models: Iterable[str], cost: float, *, sleep_share: float = 0.2, noise: float = 0.0, seed: int = 0
    ) -> HookTimes:
        """Every switch costs `cost` seconds, of which `sleep_share` is the sleep hook's."""
        names = list(models)
        return cls(
            sleeps=dict.fromkeys(names, cost * sleep_share),
            wakes=dict.fromkeys(names, cost * (1 - sleep_share)),
            sleep_share=sleep_share,
            noise=noise,
            seed=seed,
        )

    def source(self) -> HookClock:
        """A fresh source of hook times, its noise at the beginning."""
        return HookClock(self)


class HookClock:
    """Draws the time of one hook run after the other."""

    def __init__(self, times: HookTimes) -> None:
        self._times = times
        self._rng = random.Random(times.seed)  # noqa: S311  # noise, not secrets
        self._sigma = math.sqrt(math.log(1 + times.noise**2))

    def sleep(self, model: str, to_model: str | None) -> float:
        """Seconds that the sleep hook of `model` takes, when `to_model` is the next."""
        pair = self._times.pairs.get((model, to_model)) if to_model is not None else None
        return self._noisy(self._times.sleeps[model] if pair is None else pair * self._times.sleep_share)

    def wake(self, model: str, from_model: str | None) -> float:
        """Seconds that the wake hook of `model` takes, when `from_model` was awake before."""
        pair = self._times.pairs.get((from_model, model)) if from_model is not None else None
        return self._noisy(self._times.wakes[model] if pair is None else pair * (1 - self._times.sleep_share))

    def _noisy(self, seconds: float) -> float:
        if self._sigma == 0:
            return seconds
        return seconds * self._rng.lognormvariate(-(self._sigma**2) / 2, self._sigma)
