"""What an event log tells the simulator: who came when, how long serving took, what hooks take. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

import msgspec

from llmux.core.settings import ConfigChanged, CoreSettings
from llmux.eventlog.fitting import Fit, Stay, alone, fit, pooled
from llmux.eventlog.format import Gap, Header, PolicyNote, Recorded
from llmux.eventlog.reading import Cut, Entry
from llmux.messages import AbortRequests, Arrived, Finished, Grant, Hook, HookEnded, Left, Outcome, Reject, RunHook
from llmux.sim.backend import BackendModel
from llmux.sim.hooks import HookTimes
from llmux.sim.trace import Arrival

#: What hooks are taken to need where not one was seen to succeed, in seconds.
SLEEP_PRIOR = 2.0
WAKE_PRIOR = 8.0

_TOKENS_PER_SECOND = 1000


@dataclass(frozen=True, slots=True)
class Observed:
    """A day as it was, ready to be simulated.

    The core does not know how many tokens a request has. It knows how long it took from grant to end, and how many
    others there were, which says how long it would have taken alone: each of `arrivals` has no prompt and one output
    token per millisecond of that, and `backends` make a thousand tokens per second of each that runs alone, and less of
    several, as `llmux.eventlog.fitting` has found. Where that finds nothing, a backend serves any number as fast as
    one: so every request takes as long as it did. Requests without an end (refused, given up, still running) are given
    the median of their model, else of all.

    Attributes:
        settings, policy: of the last run, at its end.
        arrivals: `at` is in seconds since the first one; in the order of time.
        service: seconds from grant to end for each of `arrivals`; None where there is no such thing.
        hooks: means per model over the runs that succeeded, the mean of the other models where there is none, and
            their scatter as noise.
        backends, fits: per model; no fit where the log says too little for one.
        missing: how many events are not in the log because llmux had no room for them, or was killed.
    """

    settings: CoreSettings
    policy: PolicyNote
    arrivals: list[Arrival]
    service: list[float | None]
    hooks: HookTimes
    backends: dict[str, BackendModel]
    fits: dict[str, Fit]
    missing: int


def observe(entries: Iterable[Entry]) -> Observed:
    """Read the records of one or more files, in the order in which they were written.

    Raises:
        UnreadableError: where `entries` does.
        ValueError: there are none.
    """
    watch = _Watch()
    for entry in entries:
        watch.take(entry)
    return watch.result()


@dataclass(slots=True)
class _Request:
    model: str
    came: float  # seconds since 1970
    granted: float | None = None  # seconds since 1970
    service: float | None = None
    alone: float | None = None  # what of `service` it would have taken alone
    whole: bool = False  # it was served to its end
    last_seen: float = 0.0  # at its backend, where its end is not known; seconds since 1970


@dataclass(slots=True)
class _Watch:
    header: Header | None = None
    missing: int = 0
    requests: list[_Request] = field(default_factory=list)
    open: dict[int, _Request] = field(default_factory=dict)
    aborted: set[int] = field(default_factory=set)
    runs: dict[int, RunHook] = field(default_factory=dict)
    took: dict[tuple[Hook, str], list[float]] = field(default_factory=dict)
    last: float = 0.0  # when something last happened; seconds since 1970
    slept: dict[str, float] = field(default_factory=dict)  # when a model's sleep hook has last succeeded

    def take(self, entry: Entry) -> None:
        match entry.record:
            case Header() as header:
                if self.header is None or self.header.run != header.run:
                    self._cut()
                    self.runs.clear()
                self.header = header
            case Recorded() as record if self.header is not None:
                self.last = self.header.epoch + record.at
                self._event(record, self.header.epoch)
            case Gap(gap=events):
                self.missing += events
            case Cut():
                self.missing += 1

    def _event(self, record: Recorded, epoch: float) -> None:
        match record.event:
            case Arrived(request_id=number, model=model):
                request = _Request(model, epoch + record.at)
                self.requests.append(request)
                self.open[number] = request
            case Finished(request_id=number) | Left(request_id=number):
                ended = self.open.pop(number, None)
                if ended is not None and ended.granted is not None:
                    ended.service = self.last - ended.granted
                    ended.whole = isinstance(record.event, Finished) and number not in self.aborted
                self.aborted.discard(number)
            case ConfigChanged(settings=settings, policy=policy) if self.header is not None:
                self.header = msgspec.structs.replace(
                    self.header, settings=settings, policy=self.header.policy if policy is None else policy
                )
            case HookEnded() as event:
                run = self.runs.pop(event.run_id, None)
                if run is not None and event.outcome is Outcome.OK:
                    self._ended(run, event.duration, record.at)
        for effect in record.decoded():
            match effect:
                case Grant(request_id=number) if number in self.open:
                    self.open[number].granted = self.last
                case AbortRequests(request_ids=numbers):
                    self.aborted.update(numbers)
                case Reject(request_id=number):
                    self.open.pop(number, None)
                case RunHook(run_id=number):
                    self.runs[number] = effect

    def _ended(self, run: RunHook, seconds: float, at: float) -> None:
        """A sleep takes until the memory was verified to be free, a wake until the canary was answered."""
        sleeps = self.took.setdefault((Hook.SLEEP, run.model), [])
        wakes = self.took.setdefault((Hook.WAKE, run.model), [])
        match run.hook:
            case Hook.SLEEP:
                sleeps.append(seconds)
                self.slept[run.model] = at
            case Hook.VERIFY if run.model in self.slept:
                sleeps[-1] += at - self.slept.pop(run.model)
            case Hook.WAKE:
                wakes.append(seconds)
            case Hook.CANARY if wakes:
                wakes[-1] += seconds
            case _:
                pass

    def _cut(self) -> None:
        """A run is over: what is still open has no end."""
        for request in self.open.values():
            request.last_seen = self.last
        self.open.clear()
        self.aborted.clear()

    def result(self) -> Observed:
        if self.header is None:
            raise ValueError("there is no event log")
        self._cut()
        fits = self._fits()
        self.requests.sort(key=lambda request: request.came)
        typical = self._typical()
        first = self.requests[0].came if self.requests else 0.0
        arrivals = []
        for request in self.requests:
            seconds = typical.get(request.model, typical[None]) if request.alone is None else request.alone
            arrivals.append(Arrival(request.came - first, request.model, 0, round(seconds * _TOKENS_PER_SECOND)))
        return Observed(
            settings=self.header.settings,
            policy=self.header.policy,
            arrivals=arrivals,
            service=[request.service for request in self.requests],
            hooks=self._hook_times(self.header.settings),
            backends={
                spec.name: _backend(fits.get(spec.name), max(1, len(arrivals))) for spec in self.header.settings.models
            },
            fits=fits,
            missing=self.missing,
        )

    def _fits(self) -> dict[str, Fit]:
        """A fit per model, if there is one; gives every request that was served the time that it takes alone."""
        stays: dict[str, list[tuple[_Request, Stay]]] = {}
        for request in self.requests:
            if request.granted is not None:
                request.alone = request.service
                end = request.last_seen if request.service is None else request.granted + request.service
                stay = Stay(request.granted, end, request.whole)
                stays.setdefault(request.model, []).append((request, stay))
        for mine in stays.values():
            mine.sort(key=lambda one: one[1].begin)  # stable: of those granted together, the first that came is first
        found = {model: fit([stay for _, stay in mine]) for model, mine in stays.items()}
        fits = pooled({model: one for model, one in found.items() if one is not None})
        for model, fitted in fits.items():
            works = alone([stay for _, stay in stays[model]], fitted)
            for (request, _), seconds in zip(stays[model], works, strict=True):
                if request.service is not None:
                    request.alone = seconds
        return fits

    def _typical(self) -> dict[str | None, float]:
        """The median time alone by model; under None that of all."""
        by_model: dict[str | None, list[float]] = {None: []}
        for request in self.requests:
            if request.alone is not None:
                by_model[None].append(request.alone)
                by_model.setdefault(request.model, []).append(request.alone)
        return {model: median(seconds) if seconds else 0.0 for model, seconds in by_model.items()}

    def _hook_times(self, settings: CoreSettings) -> HookTimes:
        names = [spec.name for spec in settings.models]
        return HookTimes(
            sleeps=_means(names, self._of(Hook.SLEEP), SLEEP_PRIOR),
            wakes=_means(names, self._of(Hook.WAKE), WAKE_PRIOR),
            noise=_scatter([*self._of(Hook.SLEEP).values(), *self._of(Hook.WAKE).values()]),
        )

    def _of(self, hook: Hook) -> dict[str, list[float]]:
        return {model: seconds for (kind, model), seconds in self.took.items() if kind is hook and seconds}


def _backend(fitted: Fit | None, any_number: int) -> BackendModel:
    rate = float(_TOKENS_PER_SECOND)
    if fitted is None:
        return BackendModel(rate=rate, batch=any_number, overhead=0.0)
    batch = any_number if fitted.batch is None else fitted.batch
    batched = rate / fitted.slowdown(batch) if fitted.slope > 0 and batch > 1 else None
    return BackendModel(rate=rate, batched_rate=batched, batch=batch, overhead=0.0)


def _means(names: Sequence[str], took: Mapping[str, Sequence[float]], prior: float) -> dict[str, float]:
    known = {name: fmean(took[name]) for name in names if name in took}
    other = fmean(known.values()) if known else prior
    return {name: known.get(name, other) for name in names}


def _scatter(groups: Iterable[Sequence[float]]) -> float:
    """The coefficient of variation within groups, pooled; 0 where no group has two."""
    squares, freedom = 0.0, 0
    for seconds in groups:
        mean = fmean(seconds)
        if len(seconds) > 1 and mean > 0:
            squares += sum((one / mean - 1) ** 2 for one in seconds)
            freedom += len(seconds) - 1
    return math.sqrt(squares / freedom) if freedom else 0.0
