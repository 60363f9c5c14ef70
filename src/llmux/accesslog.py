"""The access log: a line for every request that is over, into a file of JSON lines or into the log.

Lines for a file are made on the loop, a microsecond or two each, and written by a thread of `llmux.logfile`: a disk
that is slow or full holds up nobody. What has no room is dropped and counted, and the log says so. Lines for the log
take the way of all its lines, which holds nobody up either. There are no prompts, answers, queries or keys in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from llmux import logs
from llmux.logfile import QUEUE_BYTES, LineWriter
from llmux.records import Record

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

    def begun(self, record: Record, lines: Sequence[bytes]) -> None:
        """See `Scribe`."""

    def forwarded(self, record: Record, lines: Sequence[bytes], backend: str) -> Sequence[bytes]:
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
        self._path = str(path)
        self._queue_bytes = queue_bytes
        self._writer = LineWriter(
            path,
            max_bytes=max_bytes,
            keep=keep,
            thread="llmux-access",
            on_failing=self._failing,
            on_going_on=self._going_on,
            follow=True,
        )

    @property
    def dropped(self) -> int:
        """How many lines had no room, so far."""
        return self._writer.dropped

    def done(self, record: Record) -> None:
        """See `Scribe`."""
        if self._writer.queued() >= self._queue_bytes:
            self._writer.drop()
            return
        now = datetime.now(UTC).isoformat(timespec="microseconds")[:26] + "Z"
        self._writer.put(_encode(Line(now, *_told(record))))

    def start(self) -> None:
        """Open the file and begin to write: see `LineWriter.start`. Blocks.

        Raises:
            OSError: the file cannot be opened.
        """
        self._writer.start()

    def close(self) -> None:
        """Write what is queued, as far as the disk allows; nothing must come any more. Blocks."""
        self._writer.close()

    def _failing(self, reason: str) -> None:
        log.warning("access_log_failing", path=self._path, error=reason)

    def _going_on(self, dropped: int) -> None:
        log.warning("access_log_goes_on", path=self._path, dropped=dropped)
