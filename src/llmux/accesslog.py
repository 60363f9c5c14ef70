"""The access log: a line for every request that is over, into a file of JSON lines or into the log.

Lines for a file are made on the loop, a microsecond or two each, and written by a thread of their own: a disk that is
slow or full holds up nobody. What has no room is dropped and counted, and the log says so. Lines for the log take the
way of all its lines, which holds nobody up either. There are no prompts, answers, queries or keys in it.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from llmux import logs
from llmux.eventlog.logfile import BusyError, LogFile
from llmux.records import Record

QUEUE_BYTES: Final = 8 * 2**20
"""How much may wait to be written; what comes when there is more is dropped."""

FLUSH_SECS: Final = 0.25
"""How often the thread looks, in seconds."""

CLOSE_SECS: Final = 2.0
"""How long `AccessLog.close` waits for the disk, in seconds."""

_BATCH: Final = 64 * 1024

log = logs.get_logger("llmux.access")


class Line(msgspec.Struct, frozen=True):
    """What is told of a request; docs/monitoring.md explains each field. `time` is when it was over; all others of that
    kind are in seconds."""

    time: str
    request_id: int | None
    client: str
    key: str | None
    method: str
    path: str
    model: str | None
    status: int
    wait_secs: float
    switched: bool
    first_byte_secs: float | None
    duration_secs: float
    bytes: int
    input_tokens: int | None
    output_tokens: int | None
    ended_early: str | None
    error: str | None
    x_request_id: str | None
    trace_id: str | None


_encode = msgspec.json.Encoder().encode
_FIELDS: Final = Line.__struct_fields__[1:]  # the log has a time of its own


def _told(record: Record) -> tuple[Any, ...]:
    tokens = record.tokens or (None, None)
    first_byte = record.first_byte
    return (
        record.request_id,
        record.client,
        record.key,
        record.method,
        record.path,
        record.model,
        record.status,
        round(record.waited, 6),
        record.switched,
        None if first_byte is None else round(first_byte, 6),
        round(record.duration, 6),
        record.sent,
        *tokens,
        record.ended_early,
        record.error,
        record.said_id,
        record.trace_id,
    )


class _Silent:
    """The part of `llmux.records.Scribe` that does not concern an access log."""

    def begun(self, record: Record, lines: list[bytes]) -> None:
        """See `Scribe`."""

    def forwarded(self, record: Record, lines: list[bytes], backend: str) -> list[bytes]:
        """See `Scribe`."""
        return lines


class LoggedAccess(_Silent):
    """Puts the lines into the log."""

    def done(self, record: Record) -> None:
        """See `Scribe`."""
        log.info("request", **dict(zip(_FIELDS, _told(record), strict=True)))


class AccessLog(_Silent):
    """Puts the lines into a file.

    Args:
        path: the file; older ones are beside it, see `LogFile`. If somebody else moves it, it is begun anew.
        max_bytes: a file that would get larger is put aside. A single line that is larger is written all the same.
        keep: how many files that were put aside are kept.
        queue_bytes: see `QUEUE_BYTES`.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int, queue_bytes: int = QUEUE_BYTES) -> None:
        self._file = LogFile(path, keep)
        self._max_bytes = max_bytes
        self._queue_bytes = queue_bytes
        self._lines: deque[bytes] = deque()
        # Each of these has one writer, so neither needs a lock: the first two the loop, the others the thread.
        self._put = 0  # bytes
        self._dropped = 0
        self._taken = 0  # bytes
        self._pending = b""  # what is left of a batch
        self._failing = False
        self._told = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="llmux-access", daemon=True)

    @property
    def dropped(self) -> int:
        """How many lines had no room, so far."""
        return self._dropped

    # --- on the loop ------------------------------------------------------------------------------------------

    def done(self, record: Record) -> None:
        """See `Scribe`."""
        if self._put - self._taken >= self._queue_bytes:
            self._dropped += 1
            return
        now = datetime.now(UTC).isoformat(timespec="microseconds")[:26] + "Z"
        line = _encode(Line(now, *_told(record))) + b"\n"
        self._lines.append(line)
        self._put += len(line)

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
        """Write what is queued, for `CLOSE_SECS` at most; nothing must come any more."""
        if self._thread.is_alive():
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
                log.warning("access_log_failing", path=str(self._file.path), error=reason)
        else:
            dropped = self._dropped - self._told
            if dropped or self._failing:
                self._failing = False
                self._told += dropped
                log.warning("access_log_goes_on", path=str(self._file.path), dropped=dropped)

    def _write_queued(self) -> None:
        """Raises OSError; what could not be written stays where it is, for the next time."""
        if not self._pending and self._file.is_moved():
            self._file.close()
        while self._pending or self._lines:
            if not self._file.is_open:
                self._file.open()
            if not self._pending and not self._prepare():
                continue
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]

    def _prepare(self) -> bool:
        """Put together what comes next in the file; False if the next file has to be begun first."""
        lines = self._lines
        room = self._max_bytes - self._file.size
        if len(lines[0]) > room and self._file.size:
            self._file.rotate()
            return False
        batch: list[bytes] = []
        size = 0
        while lines and (not batch or size + len(lines[0]) <= min(room, _BATCH)):
            batch.append(lines.popleft())
            size += len(batch[-1])
        self._taken += size
        self._pending = b"".join(batch)
        return True
