"""Where a wake hook says that its backend is: one line in a file that is made for that run, and for nobody else.

For backends whose address is known only once they run: a job of a cluster, a machine that was rented. Touches that
file alone. To make it and to look into it takes 0.08 ms each on the loop, half of what starting the hook takes; to
remove it may take milliseconds, so that is for a thread.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

from llmux.addresses import BackendAddress

BACKEND_VARIABLE: Final = "LLMUX_BACKEND_FILE"
"""The environment variable that has the file's path; empty where no file could be made."""

LONGEST: Final = 4096
"""Bytes of the file that are looked at."""


class BackendFile:
    """One such file, empty at first; only this user can read or write it.

    Args:
        name: part of the file's name; nobody else may guess it.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, name: str) -> None:
        folder = os.environ.get("TMPDIR", "")
        # Hooks run in another folder, so it must not be a relative one.
        self.path = f"{folder if folder.startswith('/') else '/tmp'}/llmux-backend-{name}"  # noqa: S108  # O_EXCL below
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def read(self) -> BackendAddress | None:
        """The address in its first line; None if there is none.

        Raises:
            ValueError: what is there is no address of a backend; the message says why.
        """
        try:
            # A hook may have put anything in its place; a pipe, say, to which nobody writes.
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("is no file any more")
            data = os.read(fd, LONGEST)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from error
        finally:
            os.close(fd)
        line, _, more = data.decode("utf-8", "replace").strip().partition("\n")
        line = line.strip()
        if more.strip():
            raise ValueError("has more than one line")
        if not line.isprintable():
            raise ValueError("has characters that no address has")
        return BackendAddress.parse(line) if line else None

    def remove(self) -> None:
        """Remove it; it may be gone already."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
