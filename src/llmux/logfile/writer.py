"""Lines into a file, by a thread of their own: a disk that is slow, full or gone holds up nobody.

Four times a second the thread writes what is queued. It never gives up: what could not be written is tried again, and
whoever puts the lines drops them, and counts them, while there is no room. A process that is killed loses the last
quarter of a second.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from llmux.logfile.file import LogFile

QUEUE_BYTES: Final = 8 * 2**20
"""How much may wait to be written; what comes when there is more is dropped."""

FLUSH_SECS: Final = 0.25
"""How often the thread looks, in seconds."""

CLOSE_SECS: Final = 2.0
"""How long `LineWriter.close` waits for the disk, in seconds."""

_BATCH: Final = 64 * 1024  # the thread holds up the loop while it puts a batch together, but not while it writes


class LineWriter:
    """Writes lines to a file. `queued`, `put` and `drop` must always be called from the same thread.

    Args:
        path: the file; older ones are beside it, see `LogFile`.
        max_bytes: a file that would get larger is put aside. A single line that is larger is written all the same.
        keep: how many files that were put aside are kept.
        thread: what the thread is called.
        on_failing: told, on the thread, why nothing can be written; once, until it goes on.
        on_going_on: told, on the thread, that it goes on, or that the disk was too slow: how many lines were dropped
            since it was told last.
        header: makes, on the thread, the line with which what is written begins, in this file and in every one that is
            begun after it; None for none.
        follow: whether the file is begun anew when somebody else has moved it.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        keep: int,
        thread: str,
        on_failing: Callable[[str], None],
        on_going_on: Callable[[int], None],
        header: Callable[[], bytes] | None = None,
        follow: bool = False,
    ) -> None:
        self._file = LogFile(path, keep)
        self._max_bytes = max_bytes
        self._header = header
        self._follow = follow
        self._on_failing = on_failing
        self._on_going_on = on_going_on
        self._lines: deque[bytes] = deque()
        # Each of these has one writer, so neither needs a lock: the first two the thread that puts, the others the one
        # that writes.
        self.given = 0
        """How many bytes were put, so far."""
        self.dropped = 0
        """How many lines were dropped, so far."""
        self.taken = 0
        """How many of the bytes do not wait any more."""
        self._pending = b""  # what is left of a batch
        self._header_due = header  # None: it is written
        self._bare = 0  # how long the file is while it has no line of ours but the header, in bytes
        self._failing = False
        self._told = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name=thread, daemon=True)

    # --- on the thread that puts ------------------------------------------------------------------------------

    def queued(self) -> int:
        """How many bytes wait to be written."""
        return self.given - self.taken

    def put(self, line: bytes) -> None:
        """Have a line written; it has no end of line yet. Whoever puts it sees to it that there is room."""
        self._lines.append(line)
        self.given += len(line) + 1

    def drop(self) -> None:
        """Count a line for which there was no room."""
        self.dropped += 1

    # --- beginning and end; these block -----------------------------------------------------------------------

    def start(self) -> None:
        """Open the file and begin to write. If another process writes it, or the disk is full, it is tried again and
        again.

        Raises:
            OSError: the file cannot be opened.
        """
        self._file.begin()
        self._thread.start()

    def close(self) -> None:
        """Write what is queued, for `CLOSE_SECS` at most; nothing must be put any more."""
        if self._thread.is_alive():
            self._closing.set()
            self._thread.join(CLOSE_SECS)

    # --- the thread that writes -------------------------------------------------------------------------------

    def _write(self) -> None:
        while not self._closing.wait(FLUSH_SECS):
            self._flush()
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        try:
            self._write_queued()
        except Exception as error:  # a disk's, or a bug: whatever it is, serving goes on
            if not self._failing:
                self._failing = True
                self._on_failing(getattr(error, "strerror", None) or str(error))
        else:
            dropped = self.dropped - self._told
            if dropped or self._failing:
                self._failing = False
                self._told += dropped
                self._on_going_on(dropped)

    def _write_queued(self) -> None:
        """Raises OSError; what could not be written stays where it is, for the next time."""
        if self._follow and not self._pending and self._file.is_moved():
            self._file.close()
            self._begin_anew()
        while self._pending or self._lines:
            if not self._file.is_open:
                self._file.open()
            if not self._pending:
                self._prepare()
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]

    def _prepare(self) -> None:
        """Put together what comes next in the file, or begin the next file."""
        if self._header_due is not None:
            self._pending = self._header_due() + b"\n"
            self._header_due = None
            self._bare = self._file.size + len(self._pending)
            return
        lines = self._lines
        room = self._max_bytes - self._file.size
        if len(lines[0]) + 1 > room and self._file.size > self._bare:
            self._file.rotate()
            self._begin_anew()
            return
        batch: list[bytes] = []
        size = 0
        while lines and (not batch or size + len(lines[0]) + 1 <= min(room, _BATCH)):
            batch.append(lines.popleft())
            size += len(batch[-1]) + 1
        self.taken += size
        self._pending = b"\n".join(batch) + b"\n"

    def _begin_anew(self) -> None:
        self._header_due = self._header
        self._bare = 0
