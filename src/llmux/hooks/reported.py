"""Where a wake hook says that its backend is: one line in a file that is for that run, and for nobody else.

For backends whose address is known only once they run: a job of a cluster, a machine that was rented. Touches one
folder alone. Most hooks say nothing, and every switch waits for this, so there is no file unless a hook makes it: the
rest is a few system calls that take 0.01 ms together. Removing a file may take milliseconds, so it is for a thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
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
    """A folder that only this user can look into, in $TMPDIR or /tmp; made when the first file is wanted."""

    def __init__(self) -> None:
        place = os.environ.get("TMPDIR", "")
        # Hooks run in another folder, so it must not be a relative one.
        self._place = place if place.startswith("/") else "/tmp"  # noqa: S108  # nobody guesses what is put behind it
        self._path = self._new_path()
        self._given_up: list[str] = []

    def file(self, name: str) -> BackendFile:
        """A file that nobody has made yet. `name` must not be that of an earlier one.

        Raises:
            OSError: there is no place for it.
        """
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:  # at first, and when it was cleared away, as old folders are
            os.mkdir(self._path, 0o700)
        else:
            if not _is_ours(found):
                # A hook has opened it to others, say, or somebody who had seen its name has made it anew.
                path = self._new_path()
                os.mkdir(path, 0o700)
                self._given_up.append(self._path)
                self._path = path
        return BackendFile(f"{self._path}/{name}")

    def remove(self) -> None:
        """Remove it, and those that it took the place of, with all that is in them, if they are this user's."""
        for path in (*self._given_up, self._path):
            with contextlib.suppress(OSError):
                found = os.lstat(path)
                if found.st_uid != os.geteuid():
                    continue
                if stat.S_ISDIR(found.st_mode):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)

    def _new_path(self) -> str:
        return f"{self._place}/llmux-{secrets.token_hex(8)}"


def _is_ours(found: os.stat_result) -> bool:
    """Whether it is a folder of this user's, for nobody else."""
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
