"""Records what the core is told and says, off the loop.

On the loop an event is encoded and put into a queue, which takes about a microsecond; a thread writes what is queued
four times a second. Recording never blocks, never raises and never takes more memory than it was given: what there is
no room for is dropped, counted, and noted in the log itself as a gap. A process that is killed loses the last quarter
of a second.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmux import logs
from llmux.core.settings import CoreEvent, CoreSettings
from llmux.costs import Learned
from llmux.eventlog.format import Header, PolicyNote, event_line, gap_line, header_line, raised_line
from llmux.eventlog.logfile import BusyError, LogFile
from llmux.messages import Effect
from llmux.version import version

MAX_BYTES = 64 * 2**20
"""How large a file gets before the next one is begun."""

KEEP = 3
"""How many full files are kept besides the one that is written."""

QUEUE_BYTES = 8 * 2**20
"""How much may wait to be written; what comes when there is more is dropped."""

FLUSH_SECS = 0.25
"""How often the thread looks, in seconds."""

CLOSE_SECS = 2.0
"""How long `Recorder.close` waits for the disk, in seconds."""

_BATCH = 64 * 1024  # the thread holds up the loop while it puts a batch together, but not while it writes

log = logs.get_logger("llmux.eventlog")


class Recorder:
    """One run's event log. Call it with every event, in order, and always from the same thread.

    Args:
        path: the file; older ones are beside it, see `LogFile`.
        settings, policy, options, costs: what the core and its policy were made from.
        max_bytes: a file that would get larger is put aside. A single event that is larger is written all the same.
        keep: how many files that were put aside are kept.
        queue_bytes: see `QUEUE_BYTES`.
    """

    def __init__(
        self,
        path: Path,
        settings: CoreSettings,
        policy: str,
        options: Mapping[str, Any],
        *,
        costs: Learned | None = None,
        max_bytes: int = MAX_BYTES,
        keep: int = KEEP,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._settings = settings
        self._policy = PolicyNote(policy, dict(options))
        self._costs = costs if costs is not None else Learned()
        self._part = 0
        self._file = LogFile(path, keep)
        self._max_bytes = max_bytes
        self._queue_bytes = queue_bytes
        self._run = uuid.uuid4().hex[:16]
        self._started = time.time()
        self._epoch = self._started - time.monotonic()
        self._lines: deque[bytes] = deque()
        # Each of these has one writer, so neither needs a lock: the first three the recording thread, the others the
        # writing one.
        self._put = 0  # bytes
        self._lost = 0  # events since the last one that was put
        self._dropped = 0
        self._taken = 0  # bytes
        self._pending = b""  # what is left of a batch
        self._header_due = True
        self._no_event_yet = True  # in this file
        self._failing = False
        self._told = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="llmux-eventlog", daemon=True)

    @property
    def dropped(self) -> int:
        """How many events had no room, so far."""
        return self._dropped

    # --- on the loop ------------------------------------------------------------------------------------------

    def __call__(self, at: float, event: CoreEvent, effects: Sequence[Effect] | None, raised: str = "") -> None:
        """Take down that the core was told `event` at `at`, in seconds of the monotonic clock, and what it answered;
        `effects` is None if it raised an exception of the type `raised`."""
        queued = self._put - self._taken
        # Once something had to be dropped, wait until it is worth going on: every gap costs a line.
        if queued >= (self._queue_bytes // 2 if self._lost else self._queue_bytes):
            self._lost += 1
            self._dropped += 1
            return
        try:
            line = event_line(at, event, effects) if effects is not None else raised_line(at, event, raised)
        except Exception:  # a text that is no Unicode: it must not harm the one who is recorded
            self._lost += 1
            self._dropped += 1
            return
        if self._lost:
            self._queue(gap_line(at, self._lost))
            self._lost = 0
        self._queue(line)

    def _queue(self, line: bytes) -> None:
        self._lines.append(line)
        self._put += len(line) + 1

    # --- beginning and end; these block -----------------------------------------------------------------------

    def start(self) -> None:
        """Open the file and begin to write. If another process writes it, an llmux that is about to stop perhaps, it
        is tried again and again.

        Raises:
            OSError: the file cannot be opened.
        """
        with suppress(BusyError):
            self._file.open()
        self._thread.start()

    def close(self) -> None:
        """Write what is queued, for `CLOSE_SECS` at most; nothing must be recorded any more."""
        if self._thread.is_alive():
            if self._lost:
                self._queue(gap_line(time.monotonic(), self._lost))
            self._closing.set()
            self._thread.join(CLOSE_SECS)

    # --- the thread -------------------------------------------------------------------------------------------

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
                reason = getattr(error, "strerror", None) or str(error)
                log.warning("event_log_failing", path=str(self._file.path), error=reason)
        else:
            dropped = self._dropped - self._told
            if dropped or self._failing:
                self._failing = False
                self._told += dropped
                log.warning("event_log_goes_on", path=str(self._file.path), dropped=dropped)

    def _write_queued(self) -> None:
        """Raises OSError; what could not be written stays where it is, for the next time."""
        while self._pending or self._lines:
            if not self._file.is_open:
                self._file.open()
            if not self._pending:
                self._prepare()
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]

    def _prepare(self) -> None:
        """Put together what comes next in the file, or begin the next file."""
        if self._header_due:
            self._pending = header_line(self._header()) + b"\n"
            self._header_due = False
            self._no_event_yet = True
            self._part += 1
            return
        lines = self._lines
        room = self._max_bytes - self._file.size
        if len(lines[0]) + 1 > room and not self._no_event_yet:
            self._file.rotate()
            self._header_due = not self._file.is_open
            if self._header_due:
                return
        batch: list[bytes] = []
        size = 0
        while lines and (not batch or size + len(lines[0]) + 1 <= min(room, _BATCH)):
            batch.append(lines.popleft())
            size += len(batch[-1]) + 1
        self._taken += size
        self._no_event_yet = False
        self._pending = b"\n".join(batch) + b"\n"

    def _header(self) -> Header:
        return Header(
            version=version(),  # reads a file, the first time
            run=self._run,
            part=self._part,
            started=self._started,
            epoch=self._epoch,
            settings=self._settings,
            policy=self._policy,
            costs=self._costs,
        )
