"""Where the requests of ``llmux simulate`` come from, and which policies meet them. Reads files, runs nothing.

Whatever cannot be used raises `llmux.cli.inputs.InputError`, or an error of the configuration.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from llmux.cli import inputs
from llmux.cli.inputs import InputError
from llmux.config.policy import DEFAULT_POLICY
from llmux.core import CoreSettings, ModelSpec
from llmux.eventlog import Observed, UnreadableError, observed
from llmux.eventlog.fitting import Fit
from llmux.policy.registry import BUILT_IN
from llmux.report import Candidate, Scenario
from llmux.sim import Arrival, BackendModel, HookTimes

_DEFAULT_COST = 10.0
_DEFAULT_MODELS = 3


@dataclass(frozen=True, slots=True)
class Traffic:
    """Where the requests come from, and what is known with them."""

    settings: CoreSettings
    arrivals: Callable[[int], list[Arrival]]  # by seed
    hooks: HookTimes
    backends: BackendModel | Mapping[str, BackendModel]
    own: tuple[str, dict[str, Any]] | None  # the policy in use, and its options
    described: str
    notes: tuple[str, ...] = ()  # what was found out, and how well
    fits: Mapping[str, Fit] = field(default_factory=dict)


def requests(
    trace: Path | None,
    generate: str | None,
    rate: float,
    seconds: float,
    tokens: tuple[float, float],
    config_file: Path | None,
    models: int | None,
    costs: tuple[float | None, Path | None, float],
    backend: str | None,
) -> Traffic:
    """Traffic from a file or a generator, for the models of a configuration, of the trace, or made-up ones."""
    own, aliases, learned = None, None, None
    settings: CoreSettings | None = None
    if config_file is not None:
        from llmux.config import Config
        from llmux.settings import core_settings

        config = Config.from_file(config_file)
        # Simulated backends do not die, and looking after them would only take time.
        settings = msgspec.structs.replace(core_settings(config), alive_interval=0.0)
        own, aliases = (config.policy.name, config.policy.arguments()), config.names()
        learned = inputs.measured(config.state_path, [spec.name for spec in settings.models])
    fixed = inputs.read_trace(trace, aliases) if trace is not None else None
    if settings is None:
        if fixed is not None:
            names = list(dict.fromkeys(arrival.model for arrival in fixed))
            if models is not None and models != len(names):
                raise InputError(f"--models {models}: {trace} has {len(names)}: {', '.join(names)}")
        else:
            names = [f"m{number}" for number in range(1, (models or _DEFAULT_MODELS) + 1)]
        settings = CoreSettings(models=tuple(ModelSpec(name) for name in names), alive_interval=0.0)
    names = [spec.name for spec in settings.models]
    cost, file, noise = costs
    measured = cost is None and file is None and learned is not None
    stated = [f"switches of {cost:g} s"] if cost is not None else []
    stated += [f"switch costs of {file.name}"] if file is not None else []
    if learned is not None and measured:
        stated = ["switch costs as measured by llmux"]
        hooks = replace(learned, noise=noise)
    else:
        if cost is None and file is None:
            cost = _DEFAULT_COST
            stated = [f"switches of {cost:g} s"]
        hooks = inputs.hook_times(names, cost, file, noise)
    skew = 1.0 if generate == "zipf" else 0.0

    def arrivals(seed: int) -> list[Arrival]:
        if fixed is not None:
            return fixed
        return inputs.generate(generate or "", names, rate, skew, seconds, seed, tokens)

    return Traffic(
        settings,
        arrivals,
        hooks,
        inputs.backend_model(backend) if backend is not None else BackendModel(),
        own,
        f"{trace.name if trace is not None else f'{generate} traffic'}, {' and '.join(stated)}",
    )


def logged(
    files: list[Path], cost: float | None, costs: Path | None, noise: float | None, backend: str | None
) -> Traffic:
    """A day from an event log: its requests, its configuration, and what hooks took then unless it is stated."""

    try:
        seen = observed(*files)
    except UnreadableError as error:
        raise InputError(str(error)) from error
    if not seen.arrivals:
        raise InputError(f"{files[0]}: there are no requests in it")
    names = [spec.name for spec in seen.settings.models]
    hooks = seen.hooks
    if cost is not None or costs is not None:
        hooks = inputs.hook_times(names, cost, costs, 0.0)
    hooks = replace(hooks, noise=noise if noise is not None else hooks.noise)
    backends = seen.backends
    if backend is not None:
        backends = {name: inputs.backend_instead(backend, one) for name, one in backends.items()}
    # A class that somebody else's file names is not imported unless the user names it, too.
    own = None if ":" in seen.policy.name else (seen.policy.name, dict(seen.policy.options))
    return Traffic(
        msgspec.structs.replace(seen.settings, alive_interval=0.0),
        lambda seed: seen.arrivals,
        hooks,
        backends,
        own,
        f"{files[0].name}{f' and {len(files) - 1} more' if len(files) > 1 else ''}, "
        f"switch costs as {'measured' if cost is None and costs is None else 'stated'}",
        _fitted(seen),
        seen.fits,
    )


def _fitted(seen: Observed) -> tuple[str, ...]:
    """What was found out about the backends of a log, a line for all that are alike."""
    busy = {arrival.model for arrival in seen.arrivals}
    alike: dict[tuple[float, float | None, int | None] | None, list[str]] = {}
    for name in (spec.name for spec in seen.settings.models if spec.name in busy):
        fit = seen.fits.get(name)
        alike.setdefault(None if fit is None else (fit.slope, fit.error, fit.batch), []).append(name)
    lines = []
    for found, names in alike.items():
        fits = [seen.fits[name] for name in names if found is not None]
        lines.append(f"{', '.join(names)}: {_fit_in_words(fits)}")
    return tuple(lines)


def _fit_in_words(fits: Sequence[Fit]) -> str:
    """Of models that are alike."""
    if not fits:
        return "requests take as long as they did, as the log does not tell how much slower a larger batch makes them."
    one = fits[0]
    limit = "no limit of the batch seen" if one.batch is None else f"{one.batch} run together at most"
    if one.error is None:
        return f"{limit}; requests take as long as they did, as the log does not tell how the batch slows them down."
    low, high = (max(0.0, one.slope + sign * 1.96 * one.error) for sign in (-1, 1))
    requests, most = sum(fit.requests for fit in fits), max(fit.most for fit in fits)
    return (
        f"fitted to {requests:,} requests of the log, up to {most} at a time: each that runs beside another takes it "
        f"{one.slope:.1%} of its time alone (95% interval: {low:.1%} to {high:.1%}); {limit}."
    )


def candidates(traffic: Traffic, policies: Sequence[str], sweeps: Sequence[str]) -> tuple[list[Candidate], int | None]:
    """What is to be compared, and which of it is in use: the configuration's policy, else the default."""

    own = None
    if traffic.own is not None:
        name, options = traffic.own
        shown = ",".join(f"{key}={json.dumps(value)}" for key, value in options.items())
        own = Candidate(f"{name}:{shown}" if options else name, name, options, traffic.settings)
        inputs.check(own)
    if policies:
        chosen = [inputs.candidate(text, traffic.settings) for text in policies]
    else:
        names = sorted(BUILT_IN, key=lambda name: name != DEFAULT_POLICY)
        chosen = [own] if own is not None else []
        chosen += [Candidate(name, name, {}, traffic.settings) for name in names if own is None or name != own.policy]
    in_use = own if own is not None else Candidate(DEFAULT_POLICY, DEFAULT_POLICY, {}, traffic.settings)
    swept = inputs.sweep(chosen, sweeps) if sweeps else chosen
    labels = [one.label for one in swept]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} would be simulated twice")
    same = [
        index
        for index, one in enumerate(swept)
        if (one.policy, one.options, one.settings) == (in_use.policy, in_use.options, in_use.settings)
    ]
    return swept, same[0] if same else None


def scenarios(traffic: Traffic, seeds: Sequence[int]) -> list[Scenario]:

    scenarios = [Scenario(seed, traffic.arrivals(seed), replace(traffic.hooks, seed=seed)) for seed in seeds]
    if not all(scenario.arrivals for scenario in scenarios):
        raise InputError("no requests would come: raise --rate or --seconds")
    return scenarios
