"""Processes kept to a processor, paused while it is not their turn, and what the kernel says that they cost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Cores:
    """Which processors are whose. With only one there, everybody shares it, and wall figures mean little."""

    proxy: int
    others: tuple[int, ...]

    @classmethod
    def found(cls) -> Cores:
        first, *rest = sorted(os.sched_getaffinity(0))
        return cls(first, tuple(rest) or (first,))

    @property
    def shared(self) -> bool:
        return self.proxy in self.others


def libraries(program: str) -> dict[str, str]:
    """The environment in which `program` finds its libraries, if it was unpacked with them by `install`, beside the
    system's."""
    root = next((folder for folder in Path(program).parents if folder.name == "debian"), None)
    folders = [] if root is None else sorted((root / "usr/lib").glob("*-linux-*"))
    return {"LD_LIBRARY_PATH": ":".join(map(str, folders))} if folders else {}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{what} ended with status {process.returncode} before it listened")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.002)
    raise RuntimeError(f"{what} did not listen within {seconds:.0f} s")


class Program:
    """A program with all its children, started by us, in a process group of its own."""

    def __init__(
        self, command: Sequence[str], cores: Sequence[int], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        pinned = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                pinned,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self.log = log

    def pids(self) -> list[int]:
        """Of the program and of all its descendants."""
        children: dict[int, list[int]] = {}
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                with contextlib.suppress(OSError):
                    children.setdefault(int(stat_fields(int(entry))[1]), []).append(int(entry))
        found = [self.process.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu_seconds(self) -> float:
        """User and system, of everything that is there and of the children that have ended."""
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = stat_fields(pid)
                # The clock of another process (see pthread_getcpuclockid): to the nanosecond, where stat has ticks.
                total += time.clock_gettime((~pid << 3) | 2) + (int(fields[13]) + int(fields[14])) / TICKS
        return total

    def resident_bytes(self) -> int:
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/statm") as statm:
                total += int(statm.read().split()[1]) * PAGE
        return total

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """At once, with all its children: nothing here has anything to lose."""
        pids = self.pids() if self.process.poll() is None else []
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def stat_fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, those behind the name: state, parent, …; so the N-th of proc(5) is at N - 3."""
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    cores: Sequence[int],
    log: Path,
    environment: Mapping[str, str] | None = None,
    seconds: float = 60,
) -> Iterator[Program]:
    """The program, once it listens on `port`."""
    program = Program(command, cores, log, environment)
    try:
        wait_for_port(port, program.process, seconds, Path(command[0]).name)
        yield program
    finally:
        program.stop()
