"""Policies: pure objects that decide when to switch. One file each; `base` has the words they use."""

from __future__ import annotations

from llmux.policy.base import (
    Blocked,
    Decision,
    DeviceView,
    Foreseeing,
    ModelView,
    Plan,
    Stakes,
    Stay,
    SwitchPolicy,
    SwitchTo,
    View,
)
from llmux.policy.bounded import BoundedPolicy, Candidate
from llmux.policy.break_even import BreakEvenPolicy
from llmux.policy.drain_first import DrainFirstPolicy
from llmux.policy.fifo import FifoPolicy
from llmux.policy.priority import PriorityPolicy
from llmux.policy.registry import load_policy
from llmux.policy.round_robin import RoundRobinPolicy

__all__ = [
    "Blocked",
    "BoundedPolicy",
    "BreakEvenPolicy",
    "Candidate",
    "Decision",
    "DeviceView",
    "DrainFirstPolicy",
    "FifoPolicy",
    "Foreseeing",
    "ModelView",
    "Plan",
    "PriorityPolicy",
    "RoundRobinPolicy",
    "Stakes",
    "Stay",
    "SwitchPolicy",
    "SwitchTo",
    "View",
    "load_policy",
]
