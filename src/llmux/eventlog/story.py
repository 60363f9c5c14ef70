"""Tells recorded events in plain words, a line each. Pure.

Everything that it gives is printable: a file from somebody else cannot drive the reader's terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from llmux.core.settings import ConfigChanged, CoreEvent
from llmux.eventlog.format import Gap, Header, Recorded
from llmux.eventlog.reading import Cut, Entry
from llmux.messages import (
    AbortRequests,
    Arrived,
    BackendFailed,
    CancelHook,
    CancelTimer,
    CloseBackend,
    DrainChanged,
    Effect,
    Finished,
    Grant,
    HookEnded,
    LastSleeps,
    Left,
    ModelDied,
    ModelIdle,
    ModelLeftAwake,
    ModelRemoved,
    ModelStarved,
    OperatorCheck,
    OperatorDrain,
    OperatorFree,
    OperatorPin,
    OperatorRelease,
    OperatorReply,
    OperatorResume,
    OperatorSleep,
    OperatorSwitch,
    OperatorUndrain,
    OperatorUnpin,
    PinChanged,
    PolicyFault,
    PreloadSkipped,
    ProbesEnded,
    Reject,
    Released,
    Resumed,
    RunHook,
    SetTimer,
    SleepFailed,
    Start,
    StateChanged,
    Stop,
    Stopped,
    SwitchDrained,
    SwitchEnded,
    SwitchStarted,
    TimerFired,
)
from llmux.wire.errors import printable

_WANTED: Mapping[type[CoreEvent], str] = {
    OperatorSwitch: "awake",
    OperatorSleep: "asleep",
    OperatorFree: "taken for asleep",
    OperatorCheck: "looked at",
    OperatorDrain: "drained",
    OperatorUndrain: "undrained",
    OperatorPin: "pinned",
    OperatorUnpin: "unpinned",
}

#: The longest line, in characters.
WIDTH = 500


class Teller:
    """Remembers what the numbers of requests, hooks and commands stand for, as long as they matter.

    Args:
        model: tell only what concerns this model; None tells everything.

    Attributes:
        models: those that were configured in what has been told so far, in the order of their coming.
    """

    def __init__(self, model: str | None = None) -> None:
        self.models: dict[str, None] = {}
        self._only = model
        self._epoch = 0.0
        self._requests: dict[int, str] = {}
        self._hooks: dict[int, tuple[str, str]] = {}  # by run: which hook, of which model

    def tell(self, entries: Iterable[Entry]) -> Iterator[str]:
        """The story, line by line."""
        for entry in entries:
            line = self._line(entry)
            if line is not None:
                yield printable(line, WIDTH)

    def _line(self, entry: Entry) -> str | None:
        match entry.record:
            case Header() as header:
                return self._begin(header)
            case Recorded() as record:
                return self._event(record)
            case Gap(at=at, gap=events):
                return f"{self._time(at)}  -- {events} events are missing --"
            case Cut():
                return "-- a line was cut while it was written --"

    def _begin(self, header: Header) -> str:
        self._epoch = header.epoch
        if header.part == 0:
            self._requests.clear()
            self._hooks.clear()
        began = "begins" if header.part == 0 else f"goes on (part {header.part})"
        names = [spec.name for spec in header.settings.models]
        self.models.update(dict.fromkeys(names))
        about = f"llmux {header.version}, policy {header.policy.name}, models {', '.join(names)}"
        return f"== run {header.run} {began}: {about} =="

    def _time(self, at: float) -> str:
        try:
            return datetime.fromtimestamp(self._epoch + at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        except (ValueError, OverflowError, OSError):  # no date that there is
            return f"{at:.3f}"

    def _event(self, record: Recorded) -> str | None:
        models: set[str] = set()
        told = self._told(record.event, models)
        if record.effects is None:
            done = [f"the core raised {record.raised}"]
        else:
            done = list(self._effects(record.decoded(), models))
        if self._only is not None and self._only not in models:
            return None
        return f"{self._time(record.at)}  {told}" + (f" → {'; '.join(done)}" if done else "")

    def _told(self, event: CoreEvent, models: set[str]) -> str:
        """`event` in words; adds the models that it concerns to `models`."""
        match event:
            case Start(past=past):
                left = ", ".join(f"{name} was {state}" for name, state in past.items())
                return f"llmux starts ({left} when it last ended)" if left else "llmux starts"
            case Stop(grace=grace, on_exit=on_exit):
                return f"llmux stops (grace {grace:g} s, models: {on_exit})"
            case ConfigChanged(settings=settings, policy=policy):
                names = [spec.name for spec in settings.models]
                models.update(names)
                self.models.update(dict.fromkeys(names))
                anew = f", policy {policy.name}" if policy is not None else ""
                return f"the configuration changes: models {', '.join(names) or 'none'}{anew}"
            case Arrived(request_id=number, model=model):
                self._requests[number] = model
                models.add(model)
                return f"request {number} for {model} arrives"
            case Left(request_id=number) | Finished(request_id=number):
                model = self._requests.pop(number, "?")
                models.add(model)
                return f"request {number} for {model} {'leaves' if isinstance(event, Left) else 'ends'}"
            case HookEnded():
                hook, model = self._hooks.pop(event.run_id, ("hook", "?"))
                models.add(model)
                why = f" ({event.detail})" if event.detail else ""
                return f"{hook} of {model} ends: {event.outcome} after {event.duration:.3f} s{why}"
            case TimerFired(key=key):
                models.add(key.partition(":")[2])
                return f"timer {key} fires"
            case BackendFailed(model=model, failure=failure, in_a_row=in_a_row):
                models.add(model)
                times = f", {in_a_row} in a row" if in_a_row > 1 else ""
                return f"backend of {model} fails a request ({failure}{times})"
            case OperatorRelease(refuse=refuse):
                return f"operator wants everything asleep, and requests {'refused' if refuse else 'held'}"
            case OperatorResume():
                return "operator gives the devices back"
            case (
                OperatorSwitch()
                | OperatorSleep()
                | OperatorFree()
                | OperatorCheck()
                | OperatorDrain()
                | OperatorUndrain()
                | OperatorPin()
                | OperatorUnpin()
            ):
                models.add(event.model)
                return f"operator wants {event.model} {_WANTED[type(event)]}"

    def _effects(self, effects: Iterable[Effect], models: set[str]) -> Iterator[str]:
        granted: list[Grant] = []
        for effect in effects:
            models.update(_concerned(effect))
            if isinstance(effect, RunHook):
                self._hooks[effect.run_id] = (effect.hook.value, effect.model)
            if isinstance(effect, Grant):
                granted.append(effect)
                continue
            if granted:
                yield _grants(granted)
                granted = []
            if isinstance(effect, Reject):
                self._requests.pop(effect.request_id, None)
            words = _words(effect)
            if words:
                yield words
        if granted:
            yield _grants(granted)


def _concerned(effect: Effect) -> Iterator[str]:
    for name in ("model", "from_model", "to_model"):
        value = getattr(effect, name, None)
        if value is not None:
            yield value
    if isinstance(effect, SwitchStarted):
        yield from effect.victims


def _grants(grants: list[Grant]) -> str:
    numbers = ", ".join(str(grant.request_id) for grant in grants[:5]) + (", …" if len(grants) > 5 else "")
    waited = max(grant.waited for grant in grants)
    many = f"{len(grants)} requests ({numbers})" if len(grants) > 1 else f"request {numbers}"
    return f"grant {many}" + (f" after {waited:.3f} s" if waited else "")


def _words(effect: Effect) -> str:
    """`effect` in words; nothing for what is only housekeeping."""
    match effect:
        case Reject():
            return f"refuse request {effect.request_id}: {effect.reason}, {effect.detail}"
        case RunHook():
            return f"run {effect.hook} of {effect.model}"
        case CancelHook():
            return f"cancel hook {effect.run_id}"
        case AbortRequests():
            return f"abort {len(effect.request_ids)} requests of {effect.model}: {effect.reason}"
        case OperatorReply():
            about = f" about {effect.model}" if effect.model else ""
            return f"command{about}: {effect.reason or 'done'} {effect.detail}".rstrip()
        case Stopped():
            return "all stopped"
        case StateChanged():
            return f"{effect.model} is {effect.new} ({effect.cause})"
        case SwitchStarted():
            return f"switch {effect.switch_id} from {_from(effect.from_model)} to {effect.to_model} begins"
        case SwitchDrained():
            cut = f", {effect.aborted} cut off" if effect.aborted else ""
            return f"{effect.from_model} drained in {effect.duration:.3f} s{cut}"
        case SwitchEnded():
            took = f"{effect.result} after {effect.duration:.3f} s"
            return f"switch {effect.switch_id} to {effect.to_model}: {took} {effect.detail}".rstrip()
        case SleepFailed():
            return f"sleep of {effect.model} failed: {effect.detail}"
        case ModelIdle():
            return f"{effect.model} has been idle for {effect.duration:.3f} s: it is put to sleep"
        case PreloadSkipped():
            return f"{effect.model} is not woken at the start: {effect.detail}"
        case ModelDied():
            return f"{effect.model} died: {effect.detail}"
        case ProbesEnded():
            return f"found awake: {', '.join(effect.found) or 'nobody'}"
        case ModelRemoved():
            return f"{effect.model} is gone"
        case Released():
            return f"released; requests are {'refused' if effect.refuse else 'held'}"
        case Resumed():
            return "resumed"
        case DrainChanged():
            return f"{effect.model} is {'' if effect.drained else 'not '}to be drained"
        case PinChanged():
            return f"{effect.model} is {'' if effect.pinned else 'un'}pinned"
        case LastSleeps(models=names, within=within):
            return f"{', '.join(names)} are put to sleep before llmux ends, within {within:g} s"
        case PolicyFault():
            return f"policy {effect.policy} failed: {effect.detail}"
        case ModelStarved():
            return f"policy {effect.policy} keeps {effect.model} waiting, for {effect.waited:.3f} s now"
        case Grant() | SetTimer() | CancelTimer() | CloseBackend() | ModelLeftAwake():
            return ""


def _from(model: str | None) -> str:
    return "idle" if model is None else model
