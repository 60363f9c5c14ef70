"""Records what the core is told and says, off the loop.

On the loop an event is encoded and put into a queue, which takes about a microsecond; a thread (`llmux.logfile`) writes
what is queued. Recording never blocks, never raises and never takes more memory than it was given: what there is no
room for is dropped, counted, and noted in the log itself as a gap.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmux import logs
from llmux.core.settings import CoreEvent, CoreSettings
from llmux.costs import Learned
from llmux.eventlog.format import Header, PolicyNote, event_line, gap_line, header_line, raised_line
from llmux.logfile import QUEUE_BYTES, LineWriter
from llmux.messages import Effect
from llmux.version import version

MAX_BYTES = 64 * 2**20
"""How large a file gets before the next one is begun."""

KEEP = 3
"""How many full files are kept besides the one that is written."""

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
        self._path = str(path)
        self._queue_bytes = queue_bytes
        self._run = uuid.uuid4().hex[:16]
        self._started = time.time()
        self._epoch = self._started - time.monotonic()
        self._lost = 0  # events since the last one that was put
        self._writer = LineWriter(
            path,
            max_bytes=max_bytes,
            keep=keep,
            thread="llmux-eventlog",
            on_failing=self._failing,
            on_going_on=self._going_on,
            header=self._header,
        )

    @property
    def dropped(self) -> int:
        """How many events had no room, so far."""
        return self._writer.dropped

    # --- on the loop ------------------------------------------------------------------------------------------

    def __call__(self, at: float, event: CoreEvent, effects: Sequence[Effect] | None, raised: str = "") -> None:
        """Take down that the core was told `event` at `at`, in seconds of the monotonic clock, and what it answered;
        `effects` is None if it raised an exception of the type `raised`."""
        writer = self._writer
        queued = writer.given - writer.taken  # a call less than `queued()`, for every event
        # Once something had to be dropped, wait until it is worth going on: every gap costs a line.
        if queued >= (self._queue_bytes // 2 if self._lost else self._queue_bytes):
            self._lost += 1
            writer.drop()
            return
        try:
            line = event_line(at, event, effects) if effects is not None else raised_line(at, event, raised)
        except Exception:  # a text that is no Unicode: it must not harm the one who is recorded
            self._lost += 1
            writer.drop()
            return
        if self._lost:
            writer.put(gap_line(at, self._lost))
            self._lost = 0
        writer.put(line)

    # --- beginning and end; these block -----------------------------------------------------------------------

    def start(self) -> None:
        """Open the file and begin to write: see `LineWriter.start`.

        Raises:
            OSError: the file cannot be opened.
        """
        self._writer.start()

    def close(self) -> None:
        """Write what is queued, as far as the disk allows; nothing must be recorded any more."""
        if self._lost:
            self._writer.put(gap_line(time.monotonic(), self._lost))
            self._lost = 0
        self._writer.close()

    # --- on the thread ----------------------------------------------------------------------------------------

    def _failing(self, reason: str) -> None:
        log.warning("event_log_failing", path=self._path, error=reason)

    def _going_on(self, dropped: int) -> None:
        log.warning("event_log_goes_on", path=self._path, dropped=dropped)

    def _header(self) -> bytes:
        header = Header(
            version=version(),  # reads a file, the first time
            run=self._run,
            part=self._part,
            started=self._started,
            epoch=self._epoch,
            settings=self._settings,
            policy=self._policy,
            costs=self._costs,
        )
        self._part += 1
        return header_line(header)
