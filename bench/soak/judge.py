"""Strict: which trouble could have caused what a client got, and what none could have. Pure.

A trouble explains something only for the model that it befell, or, where it is about memory, for models that share a
device with that one; and only from when it began until llmux itself wrote in its event log that it was over, and
`MARGIN` seconds more. A fault that strikes one request explains one request. A hook that failed explains what llmux
then refused only if its failure has a cause itself: trouble that this very run took, as the hook wrote down, or a
server that was killed under it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .diary import Diary, Run
from .plan import HARMLESS
from .shadow import Note

MARGIN = 1.0
"""Seconds that a client may hear of something later than llmux wrote it down: both share few processors."""

#: Which fault of a backend can end a request how: the code of llmux's error, or `broken` for a connection that was.
FAULT_ENDS = {
    "status": {"as scripted"},
    "die": {"backend_error", "broken"},
    "die in the middle": {"backend_error", "broken"},
    "malformed": {"backend_error", "broken"},
    "malformed in the middle": {"backend_error", "broken"},
    "hang": {"backend_timeout", "request_aborted", "broken"},
    "hang in the middle": {"backend_timeout", "request_aborted", "broken"},
}


@dataclass(frozen=True, slots=True)
class End:
    """How a request ended for its client, between two moments of the monotonic clock. `code` is that of llmux's error;
    `broken` for a connection that ended early, `connect` for one that was not made."""

    model: str
    what: str
    began: float
    ended: float
    kind: str
    status: int = 0
    code: str = ""


@dataclass(slots=True)
class Deed:
    """Trouble that was made. `ended` is when it was taken back, or when llmux listened again; infinite until then."""

    kind: str
    model: str
    detail: str
    began: float
    ended: float = math.inf


@dataclass(slots=True)
class Span:
    """A time in which trouble explains these codes for these models, `left` times at most."""

    cause: str
    models: frozenset[str]
    codes: frozenset[str]
    began: float
    ended: float
    left: float = math.inf

    def covers(self, end: End, margin: float) -> bool:
        return (
            end.model in self.models and end.code in self.codes and self.began <= end.ended <= self.ended + margin
            and self.left > 0
        )  # fmt: skip


@dataclass
class Verdict:
    """Refusals and cuts by what they were and why; and all that has no cause."""

    table: Counter[tuple[str, str]] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)


class Judge:
    """Goes through a run once it is over. `devices` are those on which each model may be; `waits` is the longest time
    that a request may wait, in seconds; `offset` is Unix time less the monotonic clock; `margin` stands in
    for `MARGIN`."""

    def __init__(
        self,
        diary: Diary,
        notes: Iterable[Note],
        deeds: Iterable[Deed],
        devices: Mapping[str, frozenset[str]],
        *,
        waits: float,
        offset: float,
        margin: float = MARGIN,
    ) -> None:
        self.margin = margin
        self.diary = diary
        self.deeds = list(deeds)
        self.devices = devices
        self.waits = waits
        self.verdict = Verdict()
        self.taken: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
        for note in notes:
            if note.what == "trouble" and note.detail not in HARMLESS:
                self.taken[note.model, note.hook].append((note.at - offset, note.detail))
        self.failed = {id(run): cause for run in diary.runs if (cause := self._why_failed(run))}
        self.held: list[Span] = []
        self.spans = [*self._of_deeds(), *self._of_hooks(), *self._of_moments()]

    def sharing(self, model: str) -> frozenset[str]:
        """All models that may need the memory of this one, itself too."""
        return frozenset(other for other, devices in self.devices.items() if devices & self.devices[model])

    def judge(self, ends: Iterable[End]) -> Verdict:
        """The verdict on all that was refused or cut."""
        for end in sorted(ends, key=lambda one: one.ended):
            said = f"{end.status or 'cut'} {end.code}"
            cause = self._why(end)
            self.verdict.table[said, cause or "unexplained"] += 1
            if cause is None:
                times = f"{end.began:.2f} to {end.ended:.2f}"
                self.verdict.unexplained.append(f"{said}, {end.what}, {times}")
        return self.verdict

    def _why(self, end: End) -> str | None:
        found = [span for span in self.spans if span.covers(end, self.margin)]
        if found:  # what cannot be used up goes first
            span = max(found, key=lambda one: (one.left, -one.began))
            span.left -= 1
            return span.cause
        if end.code == "queue_timeout":  # it takes trouble for most of the time that it waited
            here = [span for span in self.held if end.model in span.models]
            if _covered(here, end.began, end.ended) >= self.waits / 2:
                return "its devices were held up for most of its wait"
        return None

    # --- what failed, and why --------------------------------------------------------------------------------------

    def _why_failed(self, run: Run) -> str:
        """The cause of a hook's failure; empty if it did not fail. An alive hook may always say no."""
        if run.outcome in ("ok", "") or run.hook == "alive":
            return ""
        for at, trouble in self.taken[run.model, run.hook]:
            if run.began - self.margin <= at <= run.ended:
                return f"{run.hook} hook: {trouble}"
        if run.hook == "wake":
            for deed in self.deeds:
                killed = deed.kind == "kill" and deed.model == run.model
                if killed and run.began - self.margin <= deed.began <= run.ended:
                    return "backend killed while it woke"
            for other in self.diary.runs:
                if other.life == run.life - 1 and other.model == run.model and other.ended == math.inf:
                    return f"llmux killed amid its {other.hook}"
        self.verdict.hooks.append(f"{run.hook} of {run.model}: {run.outcome} {run.detail!r}, at {run.ended:.2f}")
        return "a hook that failed for no reason"

    def _of_hooks(self) -> Iterable[Span]:
        for run in self.diary.runs:
            cause = self.failed.get(id(run))
            if cause is None:
                continue
            own, share = frozenset({run.model}), self.sharing(run.model)
            self.held.append(Span(cause, share, frozenset(), run.began, run.ended))
            if cause.startswith("a hook"):
                continue  # explains nothing
            if run.hook == "wake":
                yield Span(cause, own, frozenset({"hook_failed"}), run.ended, run.ended)
                over = min(self.diary.next_run(run.model, "wake", run.ended), self.diary.next_life(run.ended))
                yield Span(f"{cause}, pause", own, frozenset({"model_backoff"}), run.ended, over)

    def _of_moments(self) -> Iterable[Span]:
        for moment in self.diary.moments:
            own, share = frozenset({moment.model}), self.sharing(moment.model)
            if moment.what == "died":
                yield from self._of_death(moment.at, moment.model, moment.detail)
            elif moment.what == "aborted":
                hang = [d for d in self.deeds if d.kind == "fault" and d.model == moment.model and "hang" in d.detail]
                if any(deed.began <= moment.at for deed in hang):
                    codes = frozenset({"request_aborted", "broken"})
                    yield Span("backend hung until its drain was over", own, codes, moment.at, moment.at, len(hang))
            else:
                failed = [r for r in self.diary.runs if r.model == moment.model and r.hook == "sleep" and
                          moment.at - 60 <= r.ended <= moment.at and id(r) in self.failed]  # fmt: skip
                if not failed or self.failed[id(failed[-1])].startswith("a hook"):
                    continue
                cause = f"{self.failed[id(failed[-1])]}, {moment.what}"
                yield Span(cause, share, frozenset({"hook_failed"}), moment.at, moment.at)
                if moment.what == "lost":
                    found = min(self.diary.after(moment.model, moment.at + 1e-6, old=("lost",)),
                                self.diary.next_life(moment.at))  # fmt: skip
                    yield Span(cause, share, frozenset({"device_lost"}), moment.at, found)
                    self.held.append(Span(cause, share, frozenset(), moment.at, found))

    def _of_death(self, at: float, model: str, detail: str) -> Iterable[Span]:
        woke = max((step.at for step in self.diary.steps[model] if step.at < at and step.new == "awake"), default=0.0)
        margin = self.margin
        struck = [d for d in self.deeds if d.kind == "kill" and d.model == model and woke - margin <= d.began <= at]
        alive = [taken for when, taken in self.taken[model, "alive"] if max(woke, at - 20) - margin <= when <= at]
        if not struck and not alive:
            self.verdict.deaths.append(f"{model}: {detail}, at {at:.2f}")
            return
        cause = "backend killed" if struck else f"alive hook: {alive[-1]}"
        own = frozenset({model})
        over = self.diary.after(model, at + 1e-6, new=("awake", "asleep"))
        yield Span(f"{cause}, found dead", own, frozenset({"backend_error", "broken", "request_aborted"}), at, over)
        pause = min(self.diary.next_run(model, "wake", at), self.diary.next_life(at))
        yield Span(f"{cause}, pause", own, frozenset({"model_backoff"}), at, pause)

    # --- what was done ---------------------------------------------------------------------------------------------

    def _of_deeds(self) -> Iterable[Span]:
        everybody = frozenset(self.devices)
        for deed in self.deeds:
            own = frozenset({deed.model})
            match deed.kind:
                case "kill":
                    yield Span("backend killed", own, frozenset({"backend_error", "broken"}), deed.began,
                               self._gone(deed.model, deed.began))  # fmt: skip
                case "fault" if deed.detail in FAULT_ENDS:
                    yield Span(f"backend: {deed.detail}", own, frozenset(FAULT_ENDS[deed.detail]), deed.began,
                               self.diary.after(deed.model, deed.began, new=("asleep",)), 1)  # fmt: skip
                case "cancel":
                    yield Span("operator cancelled it", own, frozenset({"request_cancelled", "broken"}), deed.began,
                               deed.ended, 1)  # fmt: skip
                case "release":
                    self.held.append(Span("released", everybody, frozenset(), deed.began, deed.ended))
                    if deed.detail == "refuse":
                        yield Span("operator released, to refuse", everybody, frozenset({"released"}), deed.began,
                                   deed.ended)  # fmt: skip
                case "drain":
                    self.held.append(Span("drained", own, frozenset(), deed.began, deed.ended))
                case "pin":
                    share = self.sharing(deed.model)
                    self.held.append(Span("pinned", share, frozenset(), deed.began, deed.ended))
                case "kill llmux":
                    codes = frozenset({"connect", "broken"})
                    yield Span("llmux killed", everybody, codes, deed.began, deed.ended)

    def _gone(self, model: str, killed: float) -> float:
        """When a backend that was killed was no longer relied on: the model was put to sleep, or woken anew."""
        wake = self.diary.next_run(model, "wake", killed)
        return min(self.diary.after(model, killed, new=("asleep",)), self.diary.after(model, wake, new=("awake",)))


def _covered(spans: Iterable[Span], began: float, ended: float) -> float:
    """How many of these seconds at least one of the spans covers."""
    covered, at = 0.0, began
    for span in sorted(spans, key=lambda one: one.began):
        first, last = max(span.began, at), min(span.ended, ended)
        if last > first:
            covered += last - first
            at = last
    return covered
