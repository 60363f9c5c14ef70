"""The hook runner: starts the operator's scripts, ends them on time, and keeps what they print within bounds.

May touch processes, pipes and the running event loop; imports only the pure layer. It judges nothing but exit codes
and deadlines: what a failed hook means for a model is for the core to say. It must never block the loop, never wait
without a deadline, and never show the environment that a hook was given.
"""

from __future__ import annotations

from llmux.hooks.orphans import RUN_ID_VARIABLE, Orphan
from llmux.hooks.output import OutputObserver, printable
from llmux.hooks.process import reap_strays
from llmux.hooks.reported import BACKEND_VARIABLE
from llmux.hooks.run import HookResult
from llmux.hooks.runner import HookRunner, HookSpec, switch_variables

__all__ = [
    "BACKEND_VARIABLE",
    "RUN_ID_VARIABLE",
    "HookResult",
    "HookRunner",
    "HookSpec",
    "Orphan",
    "OutputObserver",
    "printable",
    "reap_strays",
    "switch_variables",
]
