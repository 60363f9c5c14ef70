"""What a hook prints: read without end, kept within bounds, and made safe to show.

Touches pipes and the event loop. Whatever a script writes, and however fast, memory stays bounded and the loop keeps
turning; the writer is slowed down, never stopped.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from llmux.messages import Hook

OutputObserver = Callable[[str, Hook, str], None]
"""Called on the loop with the model, the hook and one line, without its end, that is safe to show."""

CHUNK = 64 * 1024
"""Bytes taken from a pipe at a time: what a pipe holds on Linux."""

FLOOD_WINDOW = 0.1
FLOOD_BYTES = 512 * 1024
"""More than this many bytes within `FLOOD_WINDOW` seconds, and the pipe is left alone for the rest of it: 5 MiB/s is
plenty for a log, and costs the loop less than three percent of its time (measured with ``yes``)."""

FIRST_LOOK = 0.01
"""Seconds until what a hook prints is looked for. One that is over sooner is read at its end, without having the kernel
watch two pipes for it and wake the loop for each."""

LINE_BYTES = 4096
"""A longer line is cut."""

_UNSAFE = (
    *(code for code in range(0x20) if chr(code) not in "\t\n"),
    *range(0x7F, 0xA0),
    0xAD,  # soft hyphen; then what is invisible or changes the direction of writing
    0x61C,
    0x180E,
    *range(0x200B, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    *range(0xD800, 0xE000),  # lone surrogates
)
_ESCAPES = {code: chr(code).encode("unicode_escape").decode("ascii") for code in _UNSAFE}


def printable(text: str) -> str:
    """`text` with everything that could drive a terminal or forge its looks written as an escape, as in ``\\x1b``.

    Tabs and line feeds stay.
    """
    return text.translate(_ESCAPES)


class Tail:
    """The last `limit` bytes of what was written to it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        self._data += data
        del self._data[: -self._limit]

    def clear(self) -> None:
        self._data = bytearray()

    def text(self) -> str:
        """As lines of text that are safe to show; bytes that are not UTF-8 become U+FFFD."""
        text = self._data.decode("utf-8", "replace")
        return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


class Lines:
    """Cuts a stream of bytes into lines for an observer, at most `per_second` of them; tells how many it left out.

    A carriage return ends a line too, so that a progress bar is a row of lines. Empty lines are not passed on.
    """

    def __init__(self, emit: Callable[[str], None], per_second: int) -> None:
        self._emit = emit
        self._per_second = per_second
        self._partial = b""
        self._left = per_second
        self._dropped = 0
        self._window_ends = 0.0

    def write(self, data: bytes) -> None:
        now = time.monotonic()
        if now >= self._window_ends:
            self._window_ends = now + 1.0
            self._left = self._per_second
            self._tell_dropped()
        *lines, rest = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n", self._left)
        self._left -= len(lines)
        for line in lines:
            self._end_line(line)
        if self._left == 0:
            self._dropped += rest.count(b"\n")
            newline = rest.rfind(b"\n")
            if newline >= 0:
                self._partial = b""
                rest = rest[newline + 1 :]
        self._partial += rest[: LINE_BYTES + 1 - len(self._partial)]

    def flush(self) -> None:
        """Pass on what has no line end yet, and the number of lines left out: the writer is gone or has had its say."""
        self._end_line(b"")
        self._tell_dropped()

    def _end_line(self, data: bytes) -> None:
        line = self._partial + data
        self._partial = b""
        if line:
            cut = "…" if len(line) > LINE_BYTES else ""
            self._emit(printable(line[:LINE_BYTES].decode("utf-8", "replace")) + cut)

    def _tell_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._emit(f"[{dropped} lines left out]")


class Drain:
    """Reads a pipe until its last writer is gone, however long that takes, and gives all of it to `sink`."""

    def __init__(
        self, fd: int, loop: asyncio.AbstractEventLoop, sink: Callable[[bytes], None], closed: Callable[[], None]
    ) -> None:
        self._fd: int | None = fd
        self._loop = loop
        self._sink = sink
        self._closed = closed
        self._window_ends = 0.0
        self._window_bytes = 0
        self._resume: asyncio.TimerHandle | None = loop.call_later(FIRST_LOOK, self._unpause)

    @property
    def open(self) -> bool:
        return self._fd is not None

    def read_now(self) -> None:
        """Read what lies in the pipe, without waiting for more: at most 16 chunks, for the writer may be endless."""
        for _ in range(16):
            if not self._read():
                return

    def close(self) -> None:
        """Stop reading: whoever still writes gets SIGPIPE."""
        if self._fd is not None:
            if self._resume is not None:
                self._resume.cancel()
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _read(self) -> int:
        """Move one chunk; returns the number of bytes, 0 for none there or the end."""
        if self._fd is None:
            return 0
        try:
            data = os.read(self._fd, CHUNK)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            data = b""
        if data:
            self._sink(data)
        else:
            self.close()
            self._closed()
        return len(data)

    def _readable(self) -> None:
        now = time.monotonic()
        if now >= self._window_ends:
            self._window_ends = now + FLOOD_WINDOW
            self._window_bytes = 0
        self._window_bytes += self._read()
        if self._window_bytes > FLOOD_BYTES and self._fd is not None:
            self._loop.remove_reader(self._fd)
            self._resume = self._loop.call_later(self._window_ends - now, self._unpause)

    def _unpause(self) -> None:
        if self._fd is not None:
            self._loop.add_reader(self._fd, self._readable)
