"""Structured logging: events with fields, as text for people on a terminal and as JSON lines for everything else.

Nothing is written until `configure` is called, which only the command line does: to an application that uses llmux as
a library it logs through the standard `logging` module, under the name ``llmux``, and stays silent without it.

Logging must never be the reason that serving stops. Lines are written by a thread of their own, so a terminal or a
pipe that takes no more does not hold up the loop; what cannot be written is dropped and counted. Values are made
harmless before they are written: control characters are escaped and long values cut, so that neither a model's name
nor a hook's output can forge a line or drive a terminal. Nobody may log a request's body or its Authorization.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import sys
import threading
from collections.abc import Mapping
from typing import Any, TextIO, cast

import msgspec
import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter, filter_by_level
from structlog.typing import EventDict, WrappedLogger

from llmux.wire.errors import printable

VALUE_LIMIT = 4000
"""The longest value that is written, in characters; longer ones are cut."""

ITEM_LIMIT = 100
"""How many items of a list or a mapping are written."""

QUEUE_LIMIT = 10_000
"""How many lines may wait to be written; more are dropped."""

WAIT_SECS = 1.0
"""How long `flush` and `shutdown` wait for what is queued, in seconds."""

logging.getLogger("llmux").addHandler(logging.NullHandler())  # or logging's last resort would write warnings to stderr


def get_logger(name: str = "llmux") -> BoundLogger:
    """A structlog logger on top of the `logging.Logger` of that name, which must be ``llmux`` or begin ``llmux.``.

    It does not depend on structlog's global configuration, which belongs to the application.
    """
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[filter_by_level, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast("BoundLogger", logger)


def configure(level: int = logging.INFO, fmt: str = "auto", stream: TextIO | None = None) -> None:
    """Write all logging of this process to `stream` (default: stderr, if there is one).

    `level` is for llmux's own events; other libraries are heard from WARNING on. `fmt` is ``text``, ``json``, or
    ``auto``: text on a terminal, JSON otherwise. Text has colours on a terminal unless ``NO_COLOR`` is set. Calling it
    again replaces what an earlier call set up.
    """
    shutdown()
    stream = stream if stream is not None else sys.stderr
    terminal = _is_terminal(stream)
    text = fmt == "text" or (fmt == "auto" and terminal)
    handler = _Handler(stream)
    handler.setFormatter(_formatter(text=text, colors=text and terminal and not os.environ.get("NO_COLOR")))
    logging.getLogger().addHandler(handler)
    logging.getLogger("llmux").setLevel(level)


def shutdown() -> None:
    """Write what is queued, waiting `WAIT_SECS` at most, and undo `configure`."""
    root = logging.getLogger()
    for handler in _handlers():
        root.removeHandler(handler)
        handler.close()


def flush() -> None:
    """Wait until what was logged so far is written, `WAIT_SECS` at most."""
    for handler in _handlers():
        handler.flush()


def dropped() -> int:
    """How many lines could not be written since `configure`."""
    return sum(handler.dropped for handler in _handlers())


def _handlers() -> list[_Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Handler)]


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # a closed stream
        return False


# --- from a record to a line -------------------------------------------------------------------------------------


def _formatter(*, text: bool, colors: bool) -> logging.Formatter:
    if text:
        renderer: Any = structlog.dev.ConsoleRenderer(
            colors=colors, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
        )
    else:
        renderer = structlog.processors.JSONRenderer(serializer=_json)
    return ProcessorFormatter(
        processors=[
            _add_origin,
            ProcessorFormatter.remove_processors_meta,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _make_harmless,
            *([_round] if text else ()),
            renderer,
        ]
    )


def _json(event: EventDict, **_: object) -> str:
    return msgspec.json.encode(event).decode()


def _add_origin(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    event["level"] = record.levelname.lower()
    event["logger"] = record.name
    return event


def _make_harmless(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    exception = event.pop("exception", None)
    safe = {printable(str(key), 100): _harmless(value) for key, value in event.items()}
    if exception is not None:
        # Its line breaks are wanted; the indentation tells its lines from events.
        safe["exception"] = "\n".join(f"  {printable(line)}" for line in str(exception).splitlines())
    return safe


def _round(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Seconds as people read them; the JSON lines have them in full."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in event.items()}


def _harmless(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return printable(str(value), VALUE_LIMIT)
        case Mapping():
            return {printable(str(key), 100): _harmless(item) for key, item in list(value.items())[:ITEM_LIMIT]}
        case list() | tuple():
            return [_harmless(item) for item in value[:ITEM_LIMIT]]
        case _:
            return printable(repr(value), VALUE_LIMIT)


# --- from a line to the stream -----------------------------------------------------------------------------------


class _Handler(logging.Handler):
    """Hands lines to a thread that writes them; drops them, and counts, when that is too slow or cannot write."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._refused = 0  # counted by whoever logs, under the handler's lock
        self._unwritten = 0  # counted by the writing thread
        self._stream = stream
        self._lines: queue.SimpleQueue[str | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="llmux-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._refused + self._unwritten

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self._refused += 1  # a value that cannot be shown must not harm the one who logs it
            return
        if self._lines.qsize() < QUEUE_LIMIT:
            self._lines.put(line + "\n")
        else:
            self._refused += 1

    def flush(self) -> None:
        written = threading.Event()
        self._lines.put(written)
        written.wait(timeout=WAIT_SECS)

    def close(self) -> None:
        self._lines.put(None)
        self._thread.join(timeout=WAIT_SECS)
        super().close()

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            if isinstance(line, threading.Event):
                line.set()
                continue
            try:
                _write(self._stream, line)
            except Exception:  # full, closed, gone: there is nobody left to tell
                self._unwritten += 1


def _write(stream: TextIO | None, line: str) -> None:
    """Raises OSError or ValueError if `line` cannot be written, and keeps nothing of it."""
    if stream is None:
        raise ValueError("there is no stream to write to")
    fd = -1
    with contextlib.suppress(OSError):  # also io.UnsupportedOperation: a stream in memory
        fd = stream.fileno()
    if fd < 0:
        stream.write(line)
        stream.flush()
        return
    # Past Python's own buffer, which would keep what could not be written and fail again when the process ends.
    rest = line.encode(stream.encoding or "utf-8", "backslashreplace")
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # whoever shares this terminal or pipe made it non-blocking
            select.select([], [fd], [])
