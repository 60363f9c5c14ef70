"""Hooks that an earlier llmux has left running: one that was killed, and so could not end them.

A wake hook that goes on after its llmux is gone loads a model that the next llmux knows nothing of: the alive hook says
no, as nobody serves yet, and the memory would be given to another. So whoever starts looks for such hooks, ends them,
and takes no *no* from the alive hook of their models.

Reads /proc where there is one, and waits, so it runs in a thread, never on the loop. Without /proc nothing is found. A
hook's shell is known by what it was started with: `LEADER_VARIABLE` is 0, or its own pid once it has given itself up
for the script's last command (``exec``, which most shells do unasked). Everybody else in whose environment that
variable is has the shell's pid there; so servers that hooks have started are never taken for hooks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmux.hooks import survivors
from llmux.messages import Hook

RUN_ID_VARIABLE: Final = "LLMUX_RUN_ID"
"""The environment variable whose value is unique to one run of one hook, and by which its processes are known."""

LEADER_VARIABLE: Final = "LLMUX_LEADER"
"""The environment variable that tells whose pid the hook's shell has: see above."""

_CHANGING: Final = (Hook.WAKE, Hook.SLEEP)
"""Those that change who holds memory; all others end by themselves, and nobody is wiser or worse off for it."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A hook that was still running, and was ended by force. `survivors` are pids of its processes that live on: they
    have left its session, as servers do."""

    model: str
    hook: Hook
    pid: int
    survivors: tuple[int, ...]


def mark(owner: str) -> str:
    """What the marks of all runs of this process begin with, so that they tell whose they are, and of which process."""
    pid = os.getpid()
    return f"{owner}.{pid}.{_born(pid)}."


def end_orphans(owner: str, grace: float) -> tuple[Orphan, ...]:
    """End the wake and sleep hooks of processes of `owner` that are no more: SIGTERM, after `grace` seconds SIGKILL."""
    found = [entry for entry in _processes() if _orphaned(entry, owner)]
    if not found:
        return ()
    end = time.monotonic() + grace
    for pid, _ in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGTERM)

    def ended(leader: tuple[int, dict[str, str]]) -> Orphan:
        pid, environment = leader
        marker = f"{RUN_ID_VARIABLE}={environment[RUN_ID_VARIABLE]}"
        left = survivors.sweep(pid, marker, max(0.0, end - time.monotonic()))
        return Orphan(environment["LLMUX_MODEL"], Hook(environment["LLMUX_HOOK"]), pid, left)

    with ThreadPoolExecutor(len(found)) as pool:  # each may take the whole grace
        return tuple(pool.map(ended, found))


def _processes() -> list[tuple[int, dict[str, str]]]:
    """The living leaders of sessions, and what each was started with."""
    found = []
    with contextlib.suppress(OSError):
        for entry in survivors.PROC.iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                    state, _, _, session = survivors.stat_of(entry)[:4]
                    if session == os.fsencode(entry.name) and state not in (b"Z", b"X"):
                        found.append((int(entry.name), _environment(entry)))
    return found


def _environment(entry: Path) -> dict[str, str]:
    pairs = os.fsdecode((entry / "environ").read_bytes()).split("\0")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _orphaned(leader: tuple[int, dict[str, str]], owner: str) -> bool:
    number, environment = leader
    if environment.get(LEADER_VARIABLE) not in ("0", str(number)) or environment.get("LLMUX_HOOK") not in _CHANGING:
        return False
    whose, pid, born, *_ = [*environment.get(RUN_ID_VARIABLE, "").split("."), "", ""]
    return whose == owner and "LLMUX_MODEL" in environment and (not pid.isdecimal() or _born(int(pid)) != born)


def _born(pid: int) -> str:
    """When a process began, in the kernel's own count; empty if there is none of that number, or no telling."""
    try:
        return survivors.stat_of(survivors.PROC / str(pid))[19].decode()
    except (OSError, IndexError):
        return ""
