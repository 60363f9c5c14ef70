"""Virtual time: a clock that moves only when told, and what hooks and timers are to a core that lives in it.

Pure: imports the words of `llmux.messages` and nothing else of llmux; no I/O, no real clock, no randomness. The
simulator and `llmux.testing` are built on it, so that both mean the same by an effect.
"""

from __future__ import annotations

from llmux.virtual.clock import Timer, VirtualClock
from llmux.virtual.world import HookPlan, World

__all__ = ["HookPlan", "Timer", "VirtualClock", "World"]
