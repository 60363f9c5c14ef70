"""One file of lines: appended to, locked, rotated. Blocks; belongs to the thread that writes it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class BusyError(OSError):
    """Another process writes this file."""


class LogFile:
    """``path``, and the older ones beside it: ``path.1`` is the newest of them, ``path.<keep>`` the oldest.

    What is no regular file (a pipe, a device) is never rotated. The file can be read by its owner only: it tells who
    works when. All methods raise OSError and leave things as they were if they cannot do their work.

    Args:
        path: its folder must exist.
        keep: how many full files are kept besides; at least 1.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self.size = 0
        """How long the open file is, in bytes; 0 for what is no regular file."""
        self._keep = keep
        self._fd: int | None = None
        self._regular = False

    @property
    def is_open(self) -> bool:
        return self._fd is not None

    def is_moved(self) -> bool:
        """Has somebody else moved or removed the open file? What is no regular file is taken to stay where it is."""
        if self._fd is None or not self._regular:
            return False
        mine = os.fstat(self._fd)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino)

    def begin(self) -> None:
        """Open it if that is possible now. If another process writes it, an llmux that is about to stop perhaps, or the
        disk is full, it may be later: serving must not wait for that.

        Raises:
            OSError: it cannot be opened, for another reason than these.
        """
        try:
            self.open()
        except BusyError:
            pass
        except OSError as error:
            if error.errno not in _FULL:
                raise

    def open(self) -> None:
        """Open it for appending, and make it if it is not there.

        Raises:
            BusyError: another process writes it.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"another process writes {self.path}") from None
            status = os.fstat(fd)
            self._regular = stat.S_ISREG(status.st_mode)
            self.size = status.st_size if self._regular else 0
            if self.size and os.pread(fd, 1, self.size - 1) != b"\n":
                self.size += os.write(fd, b"\n")  # whoever wrote the last line was killed at it
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def write(self, data: bytes) -> int:
        """Append some of `data`; returns how many bytes of it. It must be open."""
        assert self._fd is not None  # noqa: S101  # the caller's own bug
        written = os.write(self._fd, data)
        if self._regular:
            self.size += written
        return written

    def rotate(self) -> None:
        """Close it and move it aside; the oldest one is lost."""
        if not self._regular:
            return
        for number in range(self._keep, 0, -1):
            source = self._numbered(number - 1)
            if source.exists():
                source.replace(self._numbered(number))
        self.close()

    def close(self) -> None:
        """Let go of it. Does nothing if it is not open."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _numbered(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")
