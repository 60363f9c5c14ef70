"""Many simulations at once: every candidate on every scenario, each in a process of its own where there are cores.

The processes are started afresh rather than forked, so that threads of the caller do no harm.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import msgspec

from llmux.core import CoreSettings
from llmux.policy import load_policy
from llmux.report.timeline import Recorder, Span
from llmux.sim import Arrival, BackendModel, HookTimes, Result, simulate
from llmux.sim.bounds import lower_bound

#: Below this many requests in all, starting processes takes longer than the simulations.
_WORTH_PROCESSES = 20_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run llmux: a policy with its options, and the core's settings."""

    label: str
    policy: str
    options: Mapping[str, Any]
    settings: CoreSettings


@dataclass(frozen=True, slots=True)
class Scenario:
    """One course of events that all candidates meet."""

    seed: int
    arrivals: Sequence[Arrival]
    hooks: HookTimes


@dataclass(frozen=True, slots=True)
class Study:
    """What is to be simulated. `spans` asks for the timelines of the first scenario, `bound` for lower bounds."""

    candidates: Sequence[Candidate]
    scenarios: Sequence[Scenario]
    backends: BackendModel | Mapping[str, BackendModel] = field(default_factory=BackendModel)
    spans: bool = False
    bound: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one candidate on one scenario. `faults` are the policy's own errors, where fifo decided instead;
    `starved` says if it kept somebody waiting for far too long."""

    result: Result
    faults: Sequence[str]
    starved: Sequence[str]
    spans: Sequence[Span]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a study: runs by candidate and scenario, lower bounds on the mean wait (seconds) by scenario."""

    runs: Sequence[Sequence[Run]]
    bounds: Sequence[float | None]


_Job = tuple[int | None, int]
"""A candidate (None: the lower bound) and a scenario."""


def run_study(
    study: Study, *, processes: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Outcome:
    """Simulate all of `study`. The outcome does not depend on the number of processes.

    Args:
        study: see `Study`.
        processes: how many at most; None for one per core. For little traffic none is started.
        progress: called with the number of jobs that are done, and of all.

    Raises:
        llmux.sim.SimulationError: see `llmux.sim.simulate`.
        ValueError: a candidate's policy cannot be made.
    """
    scenarios = range(len(study.scenarios))
    jobs: list[_Job] = []
    for scenario in scenarios:  # of each the bound, which takes longest, first; so that progress is even
        jobs += [(None, scenario)] if study.bound else []
        jobs += [(candidate, scenario) for candidate in range(len(study.candidates))]
    limit = processes if processes is not None else os.cpu_count() or 1
    size = sum(len(study.scenarios[scenario].arrivals) for _, scenario in jobs)
    workers = min(limit, len(jobs)) if size >= _WORTH_PROCESSES else 1
    done: dict[_Job, Run | float | None] = {}
    tell = progress if progress is not None else lambda finished, of: None
    tell(0, len(jobs))
    if workers == 1:
        for job in jobs:
            done[job] = _run(study, job)
            tell(len(done), len(jobs))
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_receive, initargs=(study,)) as pool:
            futures: dict[Future[Run | float | None], _Job] = {pool.submit(_run_received, job): job for job in jobs}
            try:
                for future in as_completed(futures):
                    done[futures[future]] = future.result()
                    tell(len(done), len(jobs))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    runs: list[list[Run]] = []
    for candidate in range(len(study.candidates)):
        row = [done[(candidate, scenario)] for scenario in scenarios]
        runs.append([run for run in row if isinstance(run, Run)])
    bounds = [done.get((None, scenario)) for scenario in scenarios]
    return Outcome(runs, [bound if isinstance(bound, float) else None for bound in bounds])


_received: Study | None = None


def _receive(study: Study) -> None:
    global _received
    _received = study
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, without a traceback from each


def _run_received(job: _Job) -> Run | float | None:
    if _received is None:
        raise RuntimeError("this process has not been given the study")
    return _run(_received, job)


def _run(study: Study, job: _Job) -> Run | float | None:
    index, scenario_index = job
    scenario = study.scenarios[scenario_index]
    if index is None:
        return lower_bound(scenario.arrivals, _weakest(study.candidates), scenario.hooks, study.backends)
    candidate = study.candidates[index]
    recorder = Recorder(spans=study.spans and scenario_index == 0)
    result = simulate(
        scenario.arrivals,
        candidate.settings,
        load_policy(candidate.policy, candidate.options),
        hooks=scenario.hooks,
        backends=study.backends,
        watch=recorder,
    )
    spans = recorder.spans(result.seconds) if study.spans and scenario_index == 0 else []
    return Run(result, recorder.faults, recorder.starved, spans)


def _weakest(candidates: Sequence[Candidate]) -> CoreSettings:
    """Settings whose lower bound holds for all candidates: they differ in their policies, and in what only makes
    waits longer, draining aside."""
    drain = all(candidate.settings.drain_before_switch for candidate in candidates)
    return msgspec.structs.replace(candidates[0].settings, drain_before_switch=drain)
