"""Seeded traffic: arrivals that a trace could have had. Pure; the same arguments give the same arrivals.

Token counts are log-normal around the means that are asked for, as those of production traces roughly are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

from llmux.sim.trace import Arrival

_SPREAD = 0.8  # sigma of the log-normal token counts


def zipf_rates(models: Sequence[str], total: float, exponent: float = 1.0) -> dict[str, float]:
    """Divide `total` requests per second among `models` as 1, 1/2^e, 1/3^e, ... in their order."""
    weights = [1.0 / rank**exponent for rank in range(1, len(models) + 1)]
    scale = total / sum(weights)
    return {model: weight * scale for model, weight in zip(models, weights, strict=True)}


def poisson(
    rates: Mapping[str, float], seconds: float, seed: int, *, prompt_tokens: float = 800, output_tokens: float = 200
) -> list[Arrival]:
    """Independent Poisson streams: `rates` in requests per second, per model."""
    return _merge(
        rates, seconds, seed, prompt_tokens, output_tokens, lambda rng, rate: _renewal(rng, seconds, rate, 1.0)
    )


def bursty(
    rates: Mapping[str, float],
    seconds: float,
    seed: int,
    *,
    cv: float = 3.0,
    prompt_tokens: float = 800,
    output_tokens: float = 200,
) -> list[Arrival]:
    """Streams with gamma-distributed gaps; `cv` is their coefficient of variation, and 1 would be Poisson."""
    shape = 1.0 / (cv * cv)
    return _merge(
        rates, seconds, seed, prompt_tokens, output_tokens, lambda rng, rate: _renewal(rng, seconds, rate, shape)
    )


def daily(
    rates: Mapping[str, float],
    seconds: float,
    seed: int,
    *,
    day: float = 86_400.0,
    swing: float = 0.8,
    prompt_tokens: float = 800,
    output_tokens: float = 200,
) -> list[Arrival]:
    """Poisson streams whose rates swing as a sine with the period `day`, by `swing` (0 to 1) of their mean; the models
    peak one after the other, spread over the day."""
    peaks = iter([index / len(rates) for index in range(len(rates))])

    def times(rng: random.Random, rate: float) -> list[float]:
        # Thinning: candidates at the peak rate, each kept with the rate of its moment (Lewis and Shedler 1979).
        offset = next(peaks)
        kept = []
        for at in _renewal(rng, seconds, rate * (1 + swing), 1.0):
            if rng.random() * (1 + swing) < 1 + swing * math.sin(2 * math.pi * (at / day + offset)):
                kept.append(at)
        return kept

    return _merge(rates, seconds, seed, prompt_tokens, output_tokens, times)


def _merge(
    rates: Mapping[str, float],
    seconds: float,
    seed: int,
    prompt_tokens: float,
    output_tokens: float,
    times: Callable[[random.Random, float], list[float]],
) -> list[Arrival]:
    arrivals: list[Arrival] = []
    for index, (model, rate) in enumerate(rates.items()):
        rng = random.Random(f"{seed}/{index}")  # noqa: S311  # traffic, not secrets
        arrivals += _dress(rng, model, times(rng, rate), prompt_tokens, output_tokens)
    arrivals.sort(key=lambda arrival: arrival.at)
    return arrivals


def _renewal(rng: random.Random, seconds: float, rate: float, shape: float) -> list[float]:
    if rate <= 0:
        return []
    scale = 1.0 / (rate * shape)
    times: list[float] = []
    at = rng.gammavariate(shape, scale)
    while at < seconds:
        times.append(at)
        at += rng.gammavariate(shape, scale)
    return times


def _dress(rng: random.Random, model: str, times: list[float], prompt: float, output: float) -> list[Arrival]:
    return [Arrival(at, model, _tokens(rng, prompt), _tokens(rng, output)) for at in times]


def _tokens(rng: random.Random, mean: float) -> int:
    if mean <= 0:
        return 0
    return max(1, round(rng.lognormvariate(math.log(mean) - _SPREAD**2 / 2, _SPREAD)))
