"""``llmux replay``: tells what an event log says, or checks that the core still says the same. Prints, decides nothing.

A file may come from somebody else, so nothing that it names is imported unless the user says so; only policies that are
built in or installed are made without being asked.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

import typer

from llmux.eventlog.files import entries
from llmux.eventlog.format import PolicyNote
from llmux.eventlog.reading import UnreadableError
from llmux.eventlog.replay import Difference, Report, check
from llmux.eventlog.story import Teller
from llmux.policy import SwitchPolicy, load_policy
from llmux.version import version
from llmux.wire.errors import printable

EQUAL, DIFFERENT, UNREADABLE = 0, 1, 2

_WIDTH = 2000


class _UntrustedError(ValueError):
    pass


def tell_story(files: list[Path], *, model: str | None, last: int | None) -> int:
    """Print the story of some event logs; returns the exit status."""
    try:
        teller = Teller(model)
        lines = teller.tell(entries(files))
        kept: deque[str] = deque(maxlen=last)
        for line in lines:
            kept.append(line)
            if last is None and (model is None or model in teller.models):
                _print_all(kept)
    except UnreadableError as error:
        return _refuse(str(error))
    if model is not None and model not in teller.models:
        return _refuse(f"there is no model {model!r} in it; there is {', '.join(teller.models) or 'none'}")
    _print_all(kept)
    return EQUAL


def _print_all(lines: deque[str]) -> None:
    while lines:
        typer.echo(lines.popleft())


def check_files(files: list[Path], *, trust: bool) -> int:
    """Replay some event logs through the core and print what came of it; returns the exit status."""

    def make(note: PolicyNote) -> SwitchPolicy:
        if ":" in note.name and not trust:
            raise _UntrustedError(
                f"the log names the policy {note.name}, which is not built in: with --trust-policy it is imported"
            )
        return load_policy(note.name, note.options)

    try:
        report = check(entries(files), make)
    except (UnreadableError, _UntrustedError) as error:
        return _refuse(str(error))
    except ValueError as error:
        return _refuse(f"the core of the log cannot be made: {error}")
    for note in report.notes:
        typer.echo(printable(note, _WIDTH))
    if report.difference is not None:
        _print_difference(report, report.difference)
        return DIFFERENT
    if not report.checked:
        return _refuse("nothing could be checked")
    typer.echo(f"equal: {_counts(report)}")
    if report.unchecked:
        typer.echo(f"not checked: {report.unchecked} events")
    return EQUAL


def _counts(report: Report) -> str:
    return f"{report.checked} events, {report.effects} effects, {report.runs} run{'s' if report.runs != 1 else ''}"


def _print_difference(report: Report, difference: Difference) -> None:
    header, entry = difference.header, difference.entry
    lines = [
        f"different: at {entry.place}, after {_counts(report)} that are equal",
        f"effect {difference.index + 1} of this event:",
        f"  recorded  {difference.recorded}",
        f"  replayed  {difference.replayed}",
        "the event, and those before it:",
    ]
    teller = Teller()
    lines += [f"  {line}" for line in teller.tell([*difference.before, entry])]
    if header.version != version():
        lines.append(f"recorded by llmux {header.version}, replayed by {version()}: newer ones may decide differently")
    for line in lines:
        typer.echo(printable(line, _WIDTH))


def _refuse(message: str) -> int:
    typer.echo(f"llmux: {printable(message, _WIDTH)}", err=True)
    return UNREADABLE
