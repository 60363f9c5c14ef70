"""What llmux itself says happened, read from its event log: when trouble was over, and which hooks failed.

Times are those of the monotonic clock, in seconds, which is one for all processes of a machine. Reads files; judges
nothing.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Run:
    """A run of a hook, in the `life`-th process of llmux. `ended` is infinite if that was killed before."""

    life: int
    model: str
    hook: str
    began: float
    ended: float = math.inf
    outcome: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A model went from one state to another."""

    at: float
    model: str
    old: str
    new: str
    cause: str


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that befell a model: it died (`died`), could not be put to sleep (`kept`, or `lost`, if nobody knows
    who holds its memory), or had requests cut off (`aborted`)."""

    at: float
    model: str
    what: str
    detail: str


@dataclass
class Diary:
    """All lives of llmux, one after the other."""

    runs: list[Run] = field(default_factory=list)
    steps: dict[str, list[Step]] = field(default_factory=lambda: defaultdict(list))
    moments: list[Moment] = field(default_factory=list)
    rejects: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    raised: list[str] = field(default_factory=list)
    """Events in which the scheduler failed: always a bug."""
    lives: list[float] = field(default_factory=list)
    """When each began."""

    def after(self, model: str, at: float, *, new: tuple[str, ...] = (), old: tuple[str, ...] = ()) -> float:
        """When `model` next went to one of the states `new`, or left one of `old`, from `at` on; infinite if never."""
        for step in self.steps[model]:
            if step.at >= at and (step.new in new or step.old in old):
                return step.at
        return math.inf

    def next_run(self, model: str, hook: str, after: float) -> float:
        """When `hook` of `model` was next begun after that moment; infinite if never."""
        return min((run.began for run in self.runs if (run.model, run.hook) == (model, hook) and run.began > after),
                   default=math.inf)  # fmt: skip

    def next_life(self, at: float) -> float:
        """When the first life after that moment began; infinite if none."""
        return min((began for began in self.lives if began > at), default=math.inf)


def parts(log: Path) -> list[Path]:
    """The files of an event log, the oldest first."""
    old = sorted(log.parent.glob(f"{log.name}.*"), key=lambda path: -int(path.suffix[1:]))
    return [*old, *([log] if log.exists() else [])]


def read_diary(log: Path) -> Diary:
    """All that is in an event log, however often it was put aside or broken off."""
    diary = Diary()
    run_name, open_runs = "", dict[int, Run]()
    for entry in _entries(log):
        if "llmux_event_log" in entry:
            if entry["run"] != run_name:
                run_name, open_runs = entry["run"], {}
                diary.lives.append(entry["started"] - entry["epoch"])
        elif "event" in entry:
            _take(diary, entry, open_runs)
    return diary


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    for part in parts(log):
        with part.open() as lines:
            for line in lines:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # cut by a kill


def _take(diary: Diary, entry: dict[str, Any], open_runs: dict[int, Run]) -> None:
    at, event = float(entry["at"]), entry["event"]
    if "raised" in entry:
        diary.raised.append(str(entry["raised"])[-300:])
    if event["type"] == "HookEnded" and event["run_id"] in open_runs:
        run = open_runs.pop(event["run_id"])
        run.ended, run.outcome, run.detail = at, event["outcome"], event.get("detail", "")
    for effect in entry.get("effects", ()):
        model = effect.get("model", "")
        match effect["type"]:
            case "RunHook":
                run = Run(len(diary.lives), model, effect["hook"], at)
                open_runs[effect["run_id"]] = run
                diary.runs.append(run)
            case "StateChanged":
                diary.steps[model].append(Step(at, model, effect["old"], effect["new"], effect["cause"]))
            case "ModelDied":
                diary.moments.append(Moment(at, model, "died", effect["detail"]))
            case "SleepFailed":
                diary.moments.append(Moment(at, model, "lost" if effect["lost"] else "kept", effect["detail"]))
            case "AbortRequests":
                diary.moments.append(Moment(at, model, "aborted", effect["reason"]))
            case "Reject":
                diary.rejects[effect["reason"]] += 1
