"""What ``llmux simulate`` is given, as data for a study: traffic, policies, sweeps, costs. Reads files, runs nothing.

Whatever cannot be used raises `InputError`, with a message for whoever typed it.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from llmux.core import CoreSettings
from llmux.costs import SwitchCostTracker
from llmux.policy import load_policy
from llmux.report import Candidate
from llmux.sim import (
    Arrival,
    BackendModel,
    HookTimes,
    TraceError,
    bursty,
    daily,
    parse_trace,
    poisson,
    zipf_rates,
)

#: Keys of the configuration's `policy` section that are the core's, not the policy's, and what the core calls them.
CORE_KEYS = {
    "min_active_secs": "min_active",
    "request_timeout_secs": "request_timeout",
    "drain_before_switch": "drain_before_switch",
}
GENERATORS = ("poisson", "bursty", "zipf", "daily")

_DAY = 86_400.0


class InputError(ValueError):
    """A file, an option or a combination of them that cannot be used."""


# --- traffic ---------------------------------------------------------------------------------------------------------


def read_trace(path: Path, names: Mapping[str, str] | None) -> list[Arrival]:
    """Read a trace. `names` maps the names and aliases of the configuration to its models; None: any model will do."""
    arrivals = _with_lines(path, parse_trace)
    if not arrivals:
        raise InputError(f"{path}: there are no requests in it")
    if names is None:
        return arrivals
    unknown = {arrival.model for arrival in arrivals} - names.keys()
    if unknown:
        first = min(_lines_of(path, unknown))
        raise InputError(f"{path}: line {first[0]}: model {first[1]!r} is not in the configuration")
    return [_renamed(arrival, names[arrival.model]) for arrival in arrivals]


def _renamed(arrival: Arrival, model: str) -> Arrival:
    return Arrival(arrival.at, model, arrival.prompt_tokens, arrival.output_tokens)


def _lines_of(path: Path, models: set[str]) -> list[tuple[int, str]]:
    """Where in a trace, which can be read, these models come first."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        column = next(reader).index("model")
        found: dict[str, int] = {}
        for row in reader:
            if row and row[column] in models:
                found.setdefault(row[column], reader.line_num)
    return [(line, model) for model, line in found.items()]


def _with_lines(path: Path, parse: Callable[[Iterable[str]], list[Any]]) -> list[Any]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return parse(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text") from error
    except (TraceError, csv.Error) as error:
        raise InputError(f"{path}: {error}") from error


def generate(
    kind: str, models: Sequence[str], rate: float, skew: float, seconds: float, seed: int, tokens: tuple[float, float]
) -> list[Arrival]:
    """Seeded traffic: `rate` requests per second in all, for the k-th model in proportion to 1 / k ** skew."""
    rates = zipf_rates(models, rate, skew)
    prompt, output = tokens
    if kind == "bursty":
        return bursty(rates, seconds, seed, prompt_tokens=prompt, output_tokens=output)
    if kind == "daily":
        day = min(_DAY, seconds)
        return daily(rates, seconds, seed, day=day, prompt_tokens=prompt, output_tokens=output)
    return poisson(rates, seconds, seed, prompt_tokens=prompt, output_tokens=output)


# --- what hooks and backends take ------------------------------------------------------------------------------------


def hook_times(models: Sequence[str], cost: float | None, costs: Path | None, noise: float) -> HookTimes:
    """Hook times from one cost for all switches, from a file of costs, or both, when the file goes first."""
    if costs is None:
        return HookTimes.constant(models, cost if cost is not None else 0.0, noise=noise)
    pairs, cold = _read_costs(costs, models)
    if cost is None:
        missing = [(a, b) for a in models for b in models if a != b and (a, b) not in pairs]
        if missing:
            raise InputError(
                f"{costs}: there is no line for {missing[0][0]} to {missing[0][1]}; with --cost, that is what pairs "
                "without a line cost"
            )
    base = HookTimes.constant(models, cost if cost is not None else 0.0, noise=noise)
    into = {b: [seconds for (_, other), seconds in pairs.items() if other == b] for b in models}
    wake_share = 1 - base.sleep_share
    wakes = {
        model: cold.get(model, min(into[model]) * wake_share if into[model] and cost is None else base.wakes[model])
        for model in models
    }
    return HookTimes(base.sleeps, wakes, pairs, base.sleep_share, noise)


def measured(state_dir: Path | None, models: Sequence[str]) -> HookTimes | None:
    """What a llmux with that folder has measured of these models; None if nothing."""
    if state_dir is None:
        return None
    from llmux.state import read_costs

    learned = read_costs(state_dir)
    if learned is None:
        return None
    known = learned.only(frozenset(models))
    if not known.wakes:
        return None
    tracker = SwitchCostTracker(learned=known)
    return HookTimes(
        {model: tracker.expected_sleep(model) for model in models},
        {model: tracker.expected_wake(model) for model in models},
        {(a, b): seconds for a, b, seconds in known.pairs if a is not None},
    )


def _read_costs(path: Path, models: Sequence[str]) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """CSV of from, to, seconds; an empty `from` is a cold start."""

    def parse(lines: Iterable[str]) -> list[tuple[str, str, float]]:
        reader = csv.reader(lines)
        if next(reader, None) != ["from", "to", "seconds"]:
            raise InputError(f"{path}: line 1: the header must be from,to,seconds")
        rows: dict[tuple[str, str], tuple[str, str, float]] = {}
        for row in reader:
            if not row:
                continue
            where = f"{path}: line {reader.line_num}"
            if len(row) != 3:
                raise InputError(f"{where}: there must be three values")
            source, target = row[0], row[1]
            for name in (source, target):
                if name not in models and (name or name is target):
                    raise InputError(f"{where}: there is no model {name!r}")
            try:
                seconds = float(row[2])
            except ValueError as error:
                raise InputError(f"{where}: {error}") from error
            if not 0 <= seconds < math.inf:
                raise InputError(f"{where}: seconds must be at least 0")
            if (source, target) in rows or source == target:
                raise InputError(f"{where}: {'given twice' if source != target else 'from and to are the same'}")
            rows[source, target] = (source, target, seconds)
        return list(rows.values())

    rows = _with_lines(path, parse)
    return (
        {(source, target): seconds for source, target, seconds in rows if source},
        {target: seconds for source, target, seconds in rows if not source},
    )


def backend_model(text: str) -> BackendModel:
    """``rate=40,batch=16,...``: the fields of `BackendModel` by name."""
    return BackendModel(**_backend_values(text))  # type: ignore[arg-type]  # each was checked


def backend_instead(text: str, fitted: BackendModel) -> BackendModel:
    """A backend that was fitted to a log, with another batch, or another slowdown in a full one, or both: requests of a
    log have times alone, not tokens, so of the rates only their ratio counts."""
    values = _backend_values(text)
    wrong = values.keys() - {"batch", "rate", "batched_rate"}
    if wrong or (("rate" in values) != ("batched_rate" in values)):
        raise InputError(
            "--backend: requests of a log have no tokens: with --from-log it takes batch, and rate with batched_rate, "
            "of which the ratio counts"
        )
    batch = int(values.get("batch", fitted.batch))
    if "rate" in values:
        return replace(fitted, batch=batch, batched_rate=fitted.rate * values["batched_rate"] / values["rate"])
    full = 1.0 if fitted.batched_rate is None else fitted.rate / fitted.batched_rate
    slope = (full - 1) / max(1, fitted.batch - 1)
    return replace(fitted, batch=batch, batched_rate=fitted.rate / (1 + slope * (batch - 1)))


def _backend_values(text: str) -> dict[str, float | int]:
    values: dict[str, float | int] = {}
    for key, value in _assignments(text, "--backend"):
        known = BackendModel.__dataclass_fields__
        if key not in known:
            raise InputError(f"--backend: there is no {key!r}; there are {', '.join(known)}")
        least = 0 if key == "overhead" else 1 if key == "batch" else 1e-9
        right = isinstance(value, int) if key == "batch" else isinstance(value, int | float)
        if not right or isinstance(value, bool) or not least <= value < math.inf:
            raise InputError(f"--backend: {key} cannot be {value!r}")
        values[key] = value
    return values


# --- policies --------------------------------------------------------------------------------------------------------


def candidate(text: str, settings: CoreSettings) -> Candidate:
    """``NAME``, ``NAME:key=value,...``, or with ``package.module:Class`` for a name."""
    parts = text.split(":")
    name, rest = parts[0], parts[1:]
    if rest and "=" not in rest[0]:
        name, rest = f"{name}:{rest[0]}", rest[1:]
    made = Candidate(name, name, {}, settings)
    for key, value in _assignments(":".join(rest), f"--policy {name}") if rest else []:
        made = with_value(made, key, value)
    check(made)
    return Candidate(text, made.policy, made.options, made.settings)


def with_value(made: Candidate, key: str, value: Any) -> Candidate:
    """The same with one key of the configuration's `policy` section changed; `levels.NAME` is a key within a key."""
    label = f"{made.label} {key}={_shown(value)}"
    if key in CORE_KEYS:
        wanted = bool if key == "drain_before_switch" else (int, float)
        number = not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < math.inf
        if not isinstance(value, wanted) or not (number or wanted is bool):
            raise InputError(f"{key} cannot be {_shown(value)}")
        changed = msgspec.structs.replace(made.settings, **{CORE_KEYS[key]: value if wanted is bool else float(value)})
        return Candidate(label, made.policy, made.options, changed)
    outer, dot, inner = key.partition(".")
    new = {**made.options.get(outer, {}), inner: value} if dot else value
    return Candidate(label, made.policy, {**made.options, outer: new}, made.settings)


def check(made: Candidate) -> None:
    """Make the policy once, to see whether it can be made.

    Raises:
        InputError: it cannot.
    """
    try:
        load_policy(made.policy, made.options)
    except ValueError as error:
        raise InputError(str(error)) from error


def sweep(candidates: Sequence[Candidate], texts: Sequence[str]) -> list[Candidate]:
    """Every candidate once for each combination of the values of ``policy.KEY=1,2,3`` or ``NAME.KEY=1,2,3``.

    ``policy`` means all policies that have that option; those without stay as they are.
    """
    axes = [_axis(text) for text in texts]
    used = [False] * len(axes)
    swept: list[Candidate] = []
    for made in candidates:
        mine = []
        for index, (scope, key, values) in enumerate(axes):
            named = made.policy if scope != "policy" else None
            if (scope == made.policy) if named is not None else _takes(made, key):
                used[index] = True
                mine.append([(key, value) for value in values])
        for combination in product(*mine):
            one = made
            for key, value in combination:
                one = with_value(one, key, value)
            check(one)
            swept.append(one)
    for (scope, key, _), hit in zip(axes, used, strict=True):
        if not hit:
            whose = "none of the policies has that option" if scope == "policy" else f"{scope} is not simulated"
            raise InputError(f"--sweep {scope}.{key}: {whose}")
    return swept


def _axis(text: str) -> tuple[str, str, list[Any]]:
    path, equals, values = text.partition("=")
    scope, dot, key = path.rpartition(".") if ".levels." not in path else _before(path, ".levels.")
    if not (equals and dot and scope and key and values):
        raise InputError(f"--sweep must be policy.KEY=VALUE,VALUE or NAME.KEY=VALUE,VALUE, not {text!r}")
    return scope, key, [_value(value) for value in values.split(",")]


def _before(path: str, mark: str) -> tuple[str, str, str]:
    scope, _, rest = path.partition(mark)
    return scope, ".", mark[1:] + rest


def _takes(made: Candidate, key: str) -> bool:
    import inspect

    if key in CORE_KEYS:
        return True
    kind = type(load_policy(made.policy, made.options))
    return key.partition(".")[0] in inspect.signature(kind).parameters


def _assignments(text: str, where: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise InputError(f"{where}: {part!r} is not key=value")
        pairs.append((key, _value(value)))
    return pairs


def _value(text: str) -> Any:
    """A number, true, false or null; anything else is text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float | None) else text


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
