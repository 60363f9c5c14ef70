"""One child process in a session of its own: how it is started, how its exit is noticed, how its group is signalled.

Touches the kernel and the event loop, no threads. Nobody else may wait for these children: their exit status is taken
here, and nowhere else. So is that of strays, whom a container's first process is left with.

How to spawn was measured: for how many milliseconds the loop stands still (median of 150, Python 3.11 on two cores), in
a small parent and in one with 1 GiB resident:

    os.posix_spawn                             0.15    0.15
    subprocess.Popen (vfork), on the loop      0.24    0.24
    subprocess.Popen, in a thread              0.36    0.36    and it must win the GIL back often from a busy loop
    loop.subprocess_exec of uvloop (fork)      2.3    24

So `os.posix_spawn`, whose child shares our memory until it has become the shell. It cannot change the directory; the
shell can (`shell_command`). Nor does it close descriptors: Python's and llmux's own are close-on-exec from birth, and
`seal_descriptors` sees to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from llmux.hooks.orphans import LEADER_VARIABLE

SHELL = "/bin/sh"
POLL_SHORTEST = 0.001
POLL_LONGEST = 0.02

_leaders: dict[int, Process] = {}  # those that were not reaped yet, by pid


def shell_command(script: str, cwd: Path | None) -> str:
    """What ``sh -c`` is given so that `script` runs in `cwd`; exit 126 and a message on stderr if that is not there.

    Before that, the shell puts its own pid into `LEADER_VARIABLE`: see `orphans`. The prefix stays on the first line of
    the script, so that line numbers in the shell's messages hold.
    """
    known = f"{LEADER_VARIABLE}=$$; "
    if cwd is None:
        return known + script
    return f"{known}CDPATH= cd -- {shlex.quote(str(cwd))} || exit 126; {script}"


def seal_descriptors() -> None:
    """Make close-on-exec what this process was started with, beyond its standard streams.

    Otherwise a daemon that a hook starts would hold them open for as long as it lives, and with them, for example, a
    pipeline that waits for llmux's end. Descriptors above 1023 are not looked for.
    """
    for fd in range(3, 1024):
        with contextlib.suppress(OSError):  # mostly: not open
            os.set_inheritable(fd, False)


def _pipe() -> tuple[int, int]:
    """A pipe, non-blocking at the read end, whose write end does not lie where the child's standard streams will."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    if writer <= 2:  # llmux itself was started with a standard stream closed
        low, writer = writer, fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(low)
    return reader, writer


def spawn(command: str, environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Start ``sh -c command`` as the leader of a new session; returns its pid and the read ends of stdout and stderr.

    Raises:
        OSError: no descriptors, no processes, no shell, or `command` or `environment` too long for the kernel.
        ValueError: a NUL byte or a lone surrogate somewhere, or an impossible name of a variable.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        stdout, stdout_writer = _pipe()
        ours.callback(os.close, stdout)
        theirs.callback(os.close, stdout_writer)
        stderr, stderr_writer = _pipe()
        ours.callback(os.close, stderr)
        theirs.callback(os.close, stderr_writer)
        pid = os.posix_spawn(
            SHELL,
            ["sh", "-c", command],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdout_writer, 1),
                (os.POSIX_SPAWN_DUP2, stderr_writer, 2),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores these two; programs do not expect that
        )
        ours.pop_all()
        return pid, stdout, stderr


def open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when `pid` exits, or None where there is no such thing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # an old kernel, a sandbox that forbids it, or no descriptors left
            return os.pidfd_open(pid)
    return None


def reap_strays() -> None:
    """Reap all children that have ended and that nobody here has started; the leaders of hooks are seen to as ever.

    Only for a process whose children are all its hooks', or come to it when their parents have ended. A dead server
    that nobody reaps keeps its number, and a sleep hook that waits for that to be gone (``kill -0``) never ends.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(ChildProcessError):  # there are none at all
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            leader = _leaders.get(found.si_pid)
            if leader is None:
                os.waitpid(found.si_pid, os.WNOHANG)
            else:
                leader.poll()


class Process:
    """The leader of a session that `spawn` started. Calls `exited` once, from the loop, when it is gone.

    Its exit is noticed through a pidfd, or else by asking every now and then: after 1 ms at first, later after a
    twentieth of the time it has run, and at least every 20 ms.

    Attributes:
        pid: of the leader, which is also the id of its process group and session.
        ended: whether the leader has exited and was reaped.
        exit_code: 0 to 255, or minus the number of the signal that ended it; None while it runs, and also after it
            has ended if its status was lost (SIGCHLD is ignored in this process, so the kernel threw it away).
    """

    def __init__(self, pid: int, loop: asyncio.AbstractEventLoop, exited: Callable[[], None]) -> None:
        self.pid = pid
        self.ended = False
        self.exit_code: int | None = None
        self._loop = loop
        self._exited = exited
        self._born = time.monotonic()
        _leaders[pid] = self
        self._timer: asyncio.TimerHandle | None = None
        self._pidfd = open_pidfd(pid)
        if self._pidfd is not None:
            loop.add_reader(self._pidfd, self._check)
        else:
            self._timer = loop.call_later(POLL_SHORTEST, self._check)

    def poll(self) -> bool:
        """Whether the leader has exited, asked of the kernel now. Does not call `exited`: the loop will."""
        if not self.ended:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.ended = True
            else:
                if pid:
                    self.ended = True
                    self.exit_code = os.waitstatus_to_exitcode(status)
            if self.ended:
                _leaders.pop(self.pid, None)
        return self.ended

    def _check(self) -> None:
        if self.poll():
            self.close()
            self._exited()
        elif self._pidfd is None:
            delay = (time.monotonic() - self._born) / 20
            self._timer = self._loop.call_later(min(max(delay, POLL_SHORTEST), POLL_LONGEST), self._check)

    def close(self) -> None:
        """Stop watching. The process itself is left alone."""
        if self._timer is not None:
            self._timer.cancel()
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if not self.ended:
            _leaders.pop(self.pid, None)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to every process of the group; nothing happens to those that are gone or not ours to signal.

        Safe as long as the leader was not reaped or its group is not empty: until then the kernel gives the number to
        nobody else.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
