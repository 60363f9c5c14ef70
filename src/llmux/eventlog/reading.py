"""From lines to what they say, with the place of each. Pure: takes lines, opens nothing.

A line that was cut, because llmux was killed or the machine lost power while it was being written, is no fault where
that can have happened: at the end of a file, or before the header of the next run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from llmux.eventlog.format import Gap, Header, Recorded, parse


class UnreadableError(ValueError):
    """A file that is no event log, or is damaged; the message begins with its name and line."""


class Cut(msgspec.Struct, frozen=True):
    """A line whose end was never written; its event is missing."""


class Entry(NamedTuple):
    """A record, and where it stands."""

    file: str
    line: int
    record: Header | Recorded | Gap | Cut

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def read(lines: Iterable[bytes], file: str) -> Iterator[Entry]:
    """The records of one file, of which `file` is the name for messages.

    Raises:
        UnreadableError: while iterating, at the first line that cannot be what llmux wrote.
    """
    fault: tuple[int, ValueError] | None = None
    empty = True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record: Header | Recorded | Gap | None = None
        try:
            record = parse(line)
        except ValueError as error:
            if empty and not line.startswith(b'{"llmux_event_log":'):
                raise UnreadableError(f"{file}:{number}: not an event log: {error}") from None
            if fault is None and _is_cut(error):
                fault = (number, error)
                continue
            raise _unreadable(file, *(fault or (number, error))) from None
        if empty and not isinstance(record, Header):
            raise UnreadableError(f"{file}:{number}: not an event log: it does not begin with a header")
        if fault is not None:
            if not isinstance(record, Header):
                raise _unreadable(file, *fault)
            yield Entry(file, fault[0], Cut())
            fault = None
        empty = False
        yield Entry(file, number, record)
    if empty:
        raise UnreadableError(f"{file}: the file has no event log in it yet")
    if fault is not None:
        yield Entry(file, fault[0], Cut())


def _is_cut(error: ValueError) -> bool:
    """Whether a line was refused because it is no JSON, rather than for what it says."""
    return isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError)


def _unreadable(file: str, line: int, error: ValueError) -> UnreadableError:
    return UnreadableError(f"{file}:{line}: {error}")
