"""What a hook's start needs of the system, and what becomes of one for which there was not enough.

That a hook could not be started says nothing about its model: it is tried again until it can be. A few descriptors are
kept for hooks, and given up for as long as it takes to start one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from typing import Final

RETRY_SECONDS: Final = 0.5
"""How long a hook rests that could not be started for want of descriptors, processes or memory."""

SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})

KEPT: Final = 5
"""A hook takes four pipe ends as it starts, and one more to hear of its end."""


def scarce(error: Exception) -> bool:
    """Whether it is a want that may pass."""
    return isinstance(error, OSError) and error.errno in SCARCE


class Reserve:
    """Descriptors that are kept for hooks; closed with it at the latest."""

    def __init__(self) -> None:
        self._kept: list[int] = []
        weakref.finalize(self, _close, self._kept)
        self.fill()

    def fill(self) -> None:
        """Have all of them again, as far as there are any."""
        with contextlib.suppress(OSError):
            while len(self._kept) < KEPT:
                self._kept.append(os.dup(self._kept[0]) if self._kept else os.open(os.devnull, os.O_RDONLY))

    def give(self) -> bool:
        """Close them, for a hook to be started; returns whether there were any."""
        given = bool(self._kept)
        _close(self._kept)
        return given


def _close(kept: list[int]) -> None:
    while kept:
        os.close(kept.pop())
