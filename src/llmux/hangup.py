"""SIGHUP before there is an event loop that could take it: noted, where by itself it would end llmux.

Imports next to nothing, since it has to be there first.
"""

from __future__ import annotations

import signal
from types import FrameType

_noted = False


def note() -> None:
    """From now on, SIGHUP is only noted."""
    signal.signal(signal.SIGHUP, _note)


def forget() -> None:
    """From now on, SIGHUP ends the process: it does not serve."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def noted() -> bool:
    """Whether there was one."""
    return _noted


def _note(number: int, frame: FrameType | None) -> None:
    global _noted
    _noted = True
