"""Where a wake hook says that its backend is: one line in a file that is for that run, and for nobody else.

For backends whose address is known only once they run: a job of a cluster, a machine that was rented. Touches one
folder alone. Most hooks say nothing, and every switch waits for this, so there is no file unless a hook makes it: the
rest is a few system calls that take 0.01 ms together. Removing a file may take milliseconds, so it is for a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from typing import Final

from llmux.addresses import BackendAddress

BACKEND_VARIABLE: Final = "LLMUX_BACKEND_FILE"
"""The environment variable that has the file's path; empty where there is no place for files."""

LONGEST: Final = 4096
"""Bytes of the file that are looked at."""


class BackendFile:
    """What a hook has put at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether there is anything."""
        return os.path.lexists(self.path)

    def read(self) -> BackendAddress | None:
        """The address in its first line; None if there is none.

        Raises:
            ValueError: what is there is no address of a backend; the message says why.
        """
        try:
            # A hook may have made anything; a pipe, say, to which nobody writes.
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("is no file")
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


class BackendFolder:
    """A folder that only this user can look into, in $TMPDIR or /tmp; made when the first file is wanted.

    Args:
        name: part of the folder's name; nobody else may guess it.
    """

    def __init__(self, name: str) -> None:
        place = os.environ.get("TMPDIR", "")
        # Hooks run in another folder, so it must not be a relative one.
        self.path = f"{place if place.startswith('/') else '/tmp'}/llmux-{name}"  # noqa: S108  # its owner is checked

    def file(self, name: str) -> BackendFile:
        """A file that nobody has made yet. `name` must not be that of an earlier one.

        Raises:
            OSError: there is no place for it.
        """
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:  # at first, and when it was cleared away, as old folders are
            os.mkdir(self.path, 0o700)
        else:  # and then made by somebody else who had seen its name?
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise PermissionError(errno.EPERM, "belongs to somebody else", self.path)
        return BackendFile(f"{self.path}/{name}")

    def remove(self) -> None:
        """Remove it, with all that is in it, if it is this user's."""
        with contextlib.suppress(OSError):
            if os.lstat(self.path).st_uid == os.geteuid():
                shutil.rmtree(self.path, ignore_errors=True)
