"""What the event log's tests share: a log made from a played core, and a world in which a recorder writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from llmux.core import CoreEvent, CoreSettings
from llmux.eventlog.files import entries
from llmux.eventlog.format import Header, PolicyNote, Recorded, event_line, header_line
from llmux.eventlog.reading import Entry
from llmux.messages import Effect
from tests.core.harness import Play, two

DEADLINE = 60.0


def header(settings: CoreSettings | None = None, *, part: int = 0, run: str = "r", policy: str = "fifo") -> Header:
    return Header(
        version="1.2.3",
        run=run,
        part=part,
        started=1000.0,
        epoch=1_700_000_000.0,
        settings=settings if settings is not None else two(),
        policy=PolicyNote(policy),
    )


class Log:
    """The lines of a log in memory."""

    def __init__(self, first: Header) -> None:
        self.lines = [header_line(first)]

    def __call__(self, now: float, event: CoreEvent, effects: Iterable[Effect]) -> None:
        self.lines.append(event_line(now, event, list(effects)))

    def write(self, path: Path) -> Path:
        path.write_bytes(b"\n".join(self.lines) + b"\n")
        return path


def played(play: Play, log: Log) -> Play:
    """Have everything that `play` is told from now on written to `log`."""
    handle = play.core.handle

    def recorded(event: CoreEvent, now: float) -> list[Effect]:
        effects = handle(event, now)
        log(now, event, effects)
        return effects

    play.core.handle = recorded  # type: ignore[method-assign]  # in place of a driver
    return play


def turns() -> Log:
    """Two models take turns, a, b and a again; one request leaves, and the last is in flight at the end."""
    log = Log(header())
    play = played(Play(two(), started=False), log)
    play.start()
    first, second = play.arrive("a"), play.arrive("a")
    play.wake("a", after=4.0)
    play.advance(1.0)
    play.finish(first)
    other, gone = play.arrive("b"), play.arrive("b")
    play.leave(gone)
    play.advance(2.0)
    play.finish(second)
    play.sleep("a", after=1.0)
    play.wake("b", after=6.0)
    play.advance(0.5)
    play.finish(other)
    play.arrive("a")
    play.sleep("b", after=3.0)
    play.wake("a", after=5.0)
    return log


def records(*paths: Path) -> list[Entry]:
    return list(entries(list(paths)))


def events(found: Iterable[Entry]) -> list[CoreEvent]:
    return [entry.record.event for entry in found if isinstance(entry.record, Recorded)]


def wait_until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not met():
        assert time.monotonic() < end
        time.sleep(0.01)
