"""The event log: every event of the core and every effect, a JSON line each, to be read, replayed and learned from.

`format` has the lines, `reading` reads them, `replay` runs them through a core again, `story` tells them, `trace` makes
them into input for the simulator: all pure. `recorder` writes them, and `files` opens them: those touch the disk.

There are no prompts, answers, keys or addresses in it, as there are none in events and effects; there are the names of
models and devices, times, numbers, and the policy's options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmux.eventlog.files import arrivals, entries, observed
    from llmux.eventlog.format import FORMAT, Gap, Header, PolicyNote, Recorded
    from llmux.eventlog.reading import Entry, UnreadableError, read
    from llmux.eventlog.recorder import Recorder
    from llmux.eventlog.replay import Report, check
    from llmux.eventlog.trace import Observed, observe

_HOMES = {
    "files": ("arrivals", "entries", "observed"),
    "format": ("FORMAT", "Gap", "Header", "PolicyNote", "Recorded"),
    "reading": ("Entry", "UnreadableError", "read"),
    "recorder": ("Recorder",),
    "replay": ("Report", "check"),
    "trace": ("Observed", "observe"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "FORMAT",
    "Entry",
    "Gap",
    "Header",
    "Observed",
    "PolicyNote",
    "Recorded",
    "Recorder",
    "Report",
    "UnreadableError",
    "arrivals",
    "check",
    "entries",
    "observe",
    "observed",
    "read",
]


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562): serving needs the recorder, and no simulator."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'llmux.eventlog' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"llmux.eventlog.{home}"), name)
