"""Event logs as files on a disk, for reading. Blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llmux.eventlog.format import Header
from llmux.eventlog.reading import Entry, UnreadableError, read
from llmux.eventlog.trace import Observed, observe
from llmux.sim.trace import Arrival

#: The longest line that is read, in bytes. One that grants 10,000 requests at once takes a megabyte.
MAX_LINE = 64 * 2**20


def entries(paths: Sequence[Path]) -> Iterator[Entry]:
    """All records of some files, whichever way round these are given: in the order in which they were written.

    Raises:
        UnreadableError: at once or while iterating: a file cannot be opened or is no sound event log.
    """
    return _in_turn(sorted(paths, key=_began))


def arrivals(*paths: Path) -> list[Arrival]:
    """The requests of some event logs, as a trace for `llmux.sim`; see `Observed` for what their tokens mean.

    Raises:
        UnreadableError: as `entries`.
    """
    return observed(*paths).arrivals


def observed(*paths: Path) -> Observed:
    """All that some event logs tell the simulator.

    Raises:
        UnreadableError: as `entries`.
    """
    return observe(entries(paths))


def _in_turn(paths: Sequence[Path]) -> Iterator[Entry]:
    for path in paths:
        yield from read(_lines(path), str(path))


def _began(path: Path) -> tuple[float, str, int]:
    for entry in read(_lines(path), str(path)):
        if isinstance(entry.record, Header):
            return entry.record.started, entry.record.run, entry.record.part
    raise UnreadableError(f"{path}: there is no header in it")


def _lines(path: Path) -> Iterator[bytes]:
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    raise UnreadableError(f"{path}:{number}: not an event log: the line is too long")
                yield line
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
