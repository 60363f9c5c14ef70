"""Runs recorded events through a core again, and compares what it says with what was recorded. Pure.

A run can be checked from its start only, since a core's books are not in the log: what comes after a gap, and files
whose beginning is gone, cannot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from llmux.core import ConfigChanged, Core
from llmux.costs import SwitchCostTracker
from llmux.eventlog.format import Gap, Header, PolicyNote, Recorded
from llmux.eventlog.reading import Cut, Entry
from llmux.messages import ENCODER
from llmux.policy.base import SwitchPolicy

#: How many events before a difference are shown with it.
CONTEXT = 5

_EFFECTS = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Difference:
    """The first event to which the core says something else than it did.

    Attributes:
        before: the events before it, oldest first.
        index: how many effects are the same; the next one is `recorded` in the file and `replayed` by the core, each as
            JSON, or what stands for an effect that is not there.
    """

    header: Header
    entry: Entry
    before: tuple[Entry, ...]
    index: int
    recorded: str
    replayed: str


@dataclass(slots=True)
class Report:
    """What a check found. `notes` say, each with its place, what could not be checked and what is odd."""

    runs: int = 0
    checked: int = 0
    effects: int = 0
    unchecked: int = 0
    notes: list[str] = field(default_factory=list)
    difference: Difference | None = None


def check(entries: Iterable[Entry], make_policy: Callable[[PolicyNote], SwitchPolicy]) -> Report:
    """Replay until the end, or the first difference.

    Args:
        entries: of one file or several, in the order in which they were written.
        make_policy: a fresh policy object for each run.
    """
    checker = _Checker(make_policy)
    for entry in entries:
        checker.take(entry)
        if checker.report.difference is not None:
            break
    return checker.report


class _Checker:
    def __init__(self, make_policy: Callable[[PolicyNote], SwitchPolicy]) -> None:
        self.report = Report()
        self._make_policy = make_policy
        self._core: Core | None = None  # None: what comes now cannot be checked
        self._header: Header | None = None
        self._before: deque[Entry] = deque(maxlen=CONTEXT)

    def take(self, entry: Entry) -> None:
        match entry.record:
            case Header() as header:
                self._begin(entry, header)
            case Recorded() as record:
                self._compare(entry, record)
            case Gap(gap=events):
                self._note(entry, f"{events} events are missing; what comes after them cannot be checked")
                self._core = None
            case Cut():
                self._note(entry, "the line was cut while it was written; its event is missing")
                self._core = None

    def _note(self, entry: Entry, text: str) -> None:
        self.report.notes.append(f"{entry.place}: {text}")

    def _begin(self, entry: Entry, header: Header) -> None:
        before, self._header = self._header, header
        if header.part == 0:
            self.report.runs += 1
            self._core = Core(
                header.settings,
                self._make_policy(header.policy),
                SwitchCostTracker(learned=header.costs),
                lambda name, options: self._make_policy(PolicyNote(name, dict(options))),
            )
            self._before.clear()
        elif before is None or (before.run, before.part + 1) != (header.run, header.part):
            self._note(entry, "begins in the middle of a run, and without the file before it cannot be checked")
            self._core = None

    def _compare(self, entry: Entry, record: Recorded) -> None:
        if self._core is None or self._header is None:
            self.report.unchecked += 1
            return
        replayed: bytes | None = None
        raised: str | None = None
        if isinstance(record.event, ConfigChanged) and record.event.policy is not None:
            self._make_policy(record.event.policy)  # if it cannot be made, that is no difference but a refusal
        try:
            effects = self._core.handle(record.event, record.at)
        except Exception as error:  # it may have raised when it was recorded, too
            raised = type(error).__name__
        else:
            replayed = ENCODER.encode(effects)
            self.report.effects += len(effects)
        same = replayed == record.effects or _newer(record.effects, replayed)
        if same and raised == record.raised:
            self.report.checked += 1
            self._before.append(entry)
        else:
            self.report.difference = _difference(self._header, entry, tuple(self._before), replayed, raised)


def _newer(recorded: bytes | None, replayed: bytes | None) -> bool:
    """Whether effects are the same but for fields that the llmux which wrote them did not have yet."""
    if recorded is None or replayed is None:
        return False
    try:
        then, now = msgspec.json.decode(recorded), msgspec.json.decode(replayed)
        return len(then) == len(now) and all(
            all(field in new and new[field] == value for field, value in old.items())
            for old, new in zip(then, now, strict=True)
        )
    except (msgspec.DecodeError, TypeError, AttributeError):
        return False


def _difference(
    header: Header, entry: Entry, before: tuple[Entry, ...], replayed: bytes | None, raised: str | None
) -> Difference:
    assert isinstance(entry.record, Recorded)  # noqa: S101  # for the type checker
    then, now = _listed(entry.record.effects, entry.record.raised), _listed(replayed, raised)
    index = 0
    while index < min(len(then), len(now)) and then[index] == now[index]:
        index += 1
    return Difference(header, entry, before, index, _at(then, index), _at(now, index))


def _listed(effects: bytes | None, raised: str | None) -> list[str]:
    if effects is None:
        return [f"raised {raised}"]
    try:
        return [bytes(effect).decode(errors="replace") for effect in _EFFECTS.decode(effects)]
    except msgspec.DecodeError:  # the same as before, written in another way by somebody else, is a difference as well
        return [effects.decode(errors="replace")]


def _at(effects: list[str], index: int) -> str:
    return effects[index] if index < len(effects) else "nothing more"
