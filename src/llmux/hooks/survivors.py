"""Sees to it that nothing of a hook that was ended by force lives on, and finds what does.

Reads /proc where there is one, so it runs in a thread, never on the loop: reading another process's environment can
hang for as long as a driver holds that process in the kernel. Without /proc it can only wait for the group.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from pathlib import Path

PROC = Path("/proc")
PAUSE = 0.01
KILL_PATIENCE = 1.0
"""Seconds that a killed process has to disappear, before it counts as a survivor."""


def sweep(session: int, marker: str, patience: float) -> tuple[int, ...]:
    """Wait up to `patience` seconds for the processes of a session to end, then kill them.

    Returns the pids that cannot be killed or have left the session. A process that stayed in it but not in its
    leader's group (a shell's job control does that) is the hook's own and is killed. One that made a session of its
    own (``setsid``) did so on purpose, to outlive the hook: ending it is for the sleep hook, so it is only reported.
    It is known by `marker`, the ``NAME=value`` in its environment. Without /proc, all that is known is the group: its
    id stands for members that cannot be killed.
    """
    if not (PROC / "self/stat").exists():
        return _sweep_group(session, patience)
    kill_at = time.monotonic() + patience
    give_up_at = math.inf
    while True:
        # This thread may be kept from running for any time between two lines, on a busy machine or one that was
        # suspended: nobody counts as a survivor who was not killed, and not looked at once more after the patience.
        now = time.monotonic()
        inside, escaped = _scan(session, marker)
        if not inside or now >= give_up_at:
            return tuple(sorted(inside + escaped))
        if now >= kill_at:
            for pid in inside:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            give_up_at = min(give_up_at, time.monotonic() + KILL_PATIENCE)
        # Looking at these few is cheaper than looking through all processes again.
        until = give_up_at if now >= kill_at else kill_at
        while any(map(_lives, inside)) and time.monotonic() < until:
            time.sleep(PAUSE)


def _scan(session: int, marker: str) -> tuple[list[int], list[int]]:
    """The living processes of `session`, and those outside it that carry `marker`."""
    inside: list[int] = []
    escaped: list[int] = []
    wanted = b"\0" + os.fsencode(marker) + b"\0"
    for entry in PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            state, _, _, its_session = stat_of(entry)[:4]
            if state in (b"Z", b"X"):
                continue
            if int(its_session) == session:
                inside.append(int(entry.name))
            elif wanted in b"\0" + (entry / "environ").read_bytes() + b"\0":
                escaped.append(int(entry.name))
        except OSError:  # gone meanwhile, or another user's
            continue
    return inside, escaped


def stat_of(entry: Path) -> list[bytes]:
    """State, parent, group, session … of a process: what follows its command, which may hold anything, ``)`` too."""
    return (entry / "stat").read_bytes().rpartition(b")")[2].split()


def _lives(pid: int) -> bool:
    try:
        return stat_of(PROC / str(pid))[0] not in (b"Z", b"X")
    except OSError:
        return False


def _sweep_group(leader: int, patience: float) -> tuple[int, ...]:
    if _group_ends(leader, patience):
        return ()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    return () if _group_ends(leader, KILL_PATIENCE) else (leader,)


def _group_ends(leader: int, patience: float) -> bool:
    end = time.monotonic() + patience
    while True:
        last = time.monotonic() >= end
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it has members, but none that we may signal
            pass
        if last:
            return False
        time.sleep(PAUSE)
