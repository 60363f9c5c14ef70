"""llmux.testing: what tests of llmux, of hooks and of policies are made of. Public.

- `SimulatedBackend`: an OpenAI-like model server that loads, streams, sleeps and fails as told; in the test's own loop
  or as a process (`llmux backend`).
- `llmux.testing.hooks`: wake, sleep and alive scripts that start, stop and check a server process.
- `VirtualClock` and `CorePlayer`: play a decision core, or anything with `handle(event, now)`, in virtual time.

May import the pure layer of llmux (messages, errors, ports, addresses, virtual) and no other room of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmux.testing.player import Core, CorePlayer, Entry, replay
from llmux.virtual import HookPlan, Timer, VirtualClock

if TYPE_CHECKING:
    from llmux.testing.backend import Fault, RequestRecord, SimulatedBackend, run_backend

__all__ = [
    "Core",
    "CorePlayer",
    "Entry",
    "Fault",
    "HookPlan",
    "RequestRecord",
    "SimulatedBackend",
    "Timer",
    "VirtualClock",
    "replay",
    "run_backend",
]


def __getattr__(name: str) -> Any:
    # The backend needs a web framework, and the simulator, which needs only the clock, should not pay for it.
    if name in __all__:
        from llmux.testing import backend

        return getattr(backend, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
