"""Policies: pure objects that decide when to switch. One file each; `base` has the words they use."""

from __future__ import annotations

from llmux.policy.base import Blocked, Decision, ModelView, Plan, Stay, SwitchPolicy, SwitchTo, View
from llmux.policy.fifo import FifoPolicy
from llmux.policy.registry import load_policy

__all__ = [
    "Blocked",
    "Decision",
    "FifoPolicy",
    "ModelView",
    "Plan",
    "Stay",
    "SwitchPolicy",
    "SwitchTo",
    "View",
    "load_policy",
]
