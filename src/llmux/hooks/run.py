"""One run of one hook, from the moment its shell runs until nothing of it is left to read or to reap.

Works on the event loop; only the search for survivors after a forced end is left to a thread. Never touches what a
hook that ended by itself leaves behind: starting daemons is what wake hooks are for.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from llmux.addresses import BackendAddress
from llmux.hooks.output import Drain, Lines, Tail
from llmux.hooks.process import Process
from llmux.hooks.survivors import sweep
from llmux.messages import Outcome

KILL_WAIT = 2.0
"""Seconds from SIGKILL until a run is given up on: a process that a driver holds in the kernel may stay for ever, and
so may a thread that looks at it."""

LAST_LINE_CHARS = 300


@dataclass(frozen=True, slots=True)
class HookResult:
    """How a run ended.

    Attributes:
        outcome: OK is exit 0; ERROR is that it could not be started.
        duration: seconds from the start to the leader's exit; for a run ended by force, until that was done.
        exit_code: of the leader: 0 to 255, or minus a signal's number; None if it did not start or would not end.
        output: the end of what it printed, stdout and stderr together in the order they were read, safe to show.
        stderr: the end of stderr alone, safe to show.
        survivors: pids of processes of a run ended by force that are still there.
        detail: one line that says what went wrong; empty if nothing did. Nothing that the hook printed is in it.
        backend: where a wake hook that has succeeded says that its backend is; None if it says nothing.
    """

    outcome: Outcome
    duration: float
    exit_code: int | None = None
    output: str = ""
    stderr: str = ""
    survivors: tuple[int, ...] = ()
    detail: str = ""
    backend: BackendAddress | None = None

    @property
    def last_line(self) -> str:
        """The last line of stderr, or else of stdout: often the reason. For the operator, not for clients."""
        return (self.stderr.strip() or self.output.strip()).rpartition("\n")[2][:LAST_LINE_CHARS]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run is held to: seconds until its end by force (None: never) and from SIGTERM to SIGKILL, bytes of
    output kept, lines of one stream that are passed on within a second."""

    timeout: float | None
    grace: float
    tail_bytes: int
    lines_per_second: int


class Run:
    """A hook whose shell is running.

    It is over when its leader exits. If it is ended by force, it goes through SIGTERM, SIGKILL and a search for
    survivors first, each with a deadline, so that it is over even if the kernel does not let go of a process.

    Args:
        pid: its leader; `stdout` and `stderr` are the read ends of its pipes. They belong to the run from now on.
        marker: the ``NAME=value`` that only its processes have in their environment.
        began: when it was started, on `time.monotonic`.
        on_line: gets its output by lines, also what daemons that it started print after its end.
        on_over: called once, from the loop, with its result.
        on_free: called when a run that is over has nothing left to read or to reap (and maybe more often).
    """

    def __init__(
        self,
        pid: int,
        stdout: int,
        stderr: int,
        *,
        marker: str,
        began: float,
        limits: Limits,
        on_line: Callable[[str], None] | None,
        on_over: Callable[[HookResult], None],
        on_free: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._marker = marker
        self._began = began
        self._limits = limits
        self._on_line = on_line
        self._on_over = on_over
        self._on_free = on_free
        self._forced: Outcome | None = None
        self._sweeping = False
        self._over = False
        self._output = Tail(limits.tail_bytes)
        self._stderr = Tail(limits.tail_bytes)
        self._lines: list[Lines] = []
        self._process = Process(pid, self._loop, self._leader_exited)
        self._drains = (self._drain(stdout), self._drain(stderr, self._stderr))
        self._kill_at = 0.0
        self._step: asyncio.TimerHandle | None = None
        if limits.timeout is not None:
            self._next(limits.timeout, self._deadline)

    @property
    def busy(self) -> bool:
        """Whether there is still something to read, or a leader to reap."""
        return any(drain.open for drain in self._drains) or not self._process.ended

    def cancel(self) -> None:
        """SIGTERM to the group, and SIGKILL after the grace, unless it has ended or is being ended already."""
        self._terminate(Outcome.CANCELLED)

    def kill(self) -> None:
        """SIGKILL to the group now, unless it has ended by itself."""
        if self._forced is None and self._process.poll():
            return
        self._forced = self._forced or Outcome.CANCELLED
        self._kill_at = time.monotonic()
        self._process.signal_group(signal.SIGKILL)
        self._next(KILL_WAIT, self._give_up)

    def close(self) -> None:
        """Stop reading and watching."""
        for drain in self._drains:
            drain.close()
        self._process.close()

    # --- what it prints ------------------------------------------------------------------------------------------

    def _drain(self, fd: int, also: Tail | None = None) -> Drain:
        lines = Lines(self._on_line, self._limits.lines_per_second) if self._on_line is not None else None
        if lines is not None:
            self._lines.append(lines)

        def received(data: bytes) -> None:
            if not self._over:
                self._output.write(data)
                if also is not None:
                    also.write(data)
            if lines is not None:
                lines.write(data)

        def closed() -> None:
            if lines is not None:
                lines.flush()
            self._on_free()

        return Drain(fd, self._loop, received, closed)

    # --- how it ends ---------------------------------------------------------------------------------------------

    def _leader_exited(self) -> None:
        if self._over:  # it would not end in time, and was given up on
            self._on_free()
            return
        for drain in self._drains:
            drain.read_now()
        for lines in self._lines:
            lines.flush()
        exit_code = self._process.exit_code
        if self._forced is not None:
            self._sweep()
        elif exit_code is None:
            self._end(Outcome.ERROR, "its exit status was lost: SIGCHLD is ignored in llmux's process")
        elif exit_code == 0:
            self._end(Outcome.OK)
        else:
            self._end(Outcome.FAILED, _how_it_ended(exit_code))

    def _deadline(self) -> None:
        self._terminate(Outcome.TIMEOUT)

    def _terminate(self, outcome: Outcome) -> None:
        # The poll: it may have exited without the loop knowing yet, and what it left behind is not to be touched then.
        if self._forced is None and not self._process.poll():
            self._forced = outcome
            self._kill_at = time.monotonic() + self._limits.grace
            self._process.signal_group(signal.SIGTERM)
            self._next(self._limits.grace, self.kill)

    def _next(self, delay: float, step: Callable[[], None]) -> None:
        """Each step towards the end replaces the deadline of the one before."""
        if self._step is not None:
            self._step.cancel()
        self._step = self._loop.call_later(delay, step)

    def _give_up(self) -> None:
        """The leader is still there, or the thread is: look for survivors, or end without knowing them."""
        if self._sweeping:
            self._swept()
        else:
            self._next(KILL_WAIT, self._swept)
            self._sweep()

    def _sweep(self) -> None:
        """The leader is gone, or will not go: the others have what is left of the grace, then see who is left."""
        if self._sweeping:
            return
        self._sweeping = True
        patience = max(0.0, self._kill_at - time.monotonic())

        def search() -> None:
            found = sweep(self._process.pid, self._marker, patience)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
                self._loop.call_soon_threadsafe(self._swept, found)

        with contextlib.suppress(RuntimeError):  # no threads to be had: the deadline ends the run
            threading.Thread(target=search, name="llmux-sweep", daemon=True).start()

    def _swept(self, found: tuple[int, ...] = ()) -> None:
        survivors = found or (() if self._process.poll() else (self._process.pid,))
        if self._forced is Outcome.TIMEOUT:
            detail = f"still running after {self._limits.timeout:g} s, so it was ended by force"
        else:
            detail = "cancelled"
        if survivors:
            detail += f"; still alive: {', '.join(map(str, survivors))}"
        self._end(self._forced or Outcome.CANCELLED, detail, survivors)

    def _end(self, outcome: Outcome, detail: str = "", survivors: tuple[int, ...] = ()) -> None:
        if self._over:
            return
        self._over = True
        if self._step is not None:
            self._step.cancel()
        result = HookResult(
            outcome=outcome,
            duration=time.monotonic() - self._began,
            exit_code=self._process.exit_code,
            output=self._output.text(),
            stderr=self._stderr.text(),
            survivors=survivors,
            detail=detail,
        )
        self._output.clear()
        self._stderr.clear()
        self._on_over(result)


# What a shell says by them (POSIX, XCU 2.8.2), and `shell_command`. No names: those who wait are told this, too.
_SHELLS_OWN = {
    126: " (a command of it is not executable, or its folder is not there)",
    127: " (a command of it was not found)",
}


def _how_it_ended(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}{_SHELLS_OWN.get(exit_code, '')}"
    try:
        return f"ended by {signal.Signals(-exit_code).name}"
    except ValueError:  # most real-time signals have no name
        return f"ended by signal {-exit_code}"
