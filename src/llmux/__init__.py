"""llmux: one OpenAI-compatible endpoint, many models, too little GPU memory for all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmux.app import App, build_app
    from llmux.config import Config, ModelConfig, PolicyConfig
    from llmux.costs import SwitchCostTracker
    from llmux.errors import (
        BackoffError,
        ConfigError,
        DeviceLostError,
        HookFailedError,
        LlmuxError,
        ModelNotFoundError,
        NotReadyError,
        QueueFullError,
        ShuttingDownError,
        SwitchError,
        WaitTimeoutError,
    )
    from llmux.messages import Active, Idle, SwitcherState, Switching
    from llmux.policy import FifoPolicy, SwitchPolicy
    from llmux.switcher import Switcher

_HOMES = {
    "llmux.app": ("App", "build_app"),
    "llmux.config": ("Config", "ModelConfig", "PolicyConfig"),
    "llmux.costs": ("SwitchCostTracker",),
    "llmux.errors": (
        "BackoffError",
        "ConfigError",
        "DeviceLostError",
        "HookFailedError",
        "LlmuxError",
        "ModelNotFoundError",
        "NotReadyError",
        "QueueFullError",
        "ShuttingDownError",
        "SwitchError",
        "WaitTimeoutError",
    ),
    "llmux.messages": ("Active", "Idle", "SwitcherState", "Switching"),
    "llmux.policy": ("FifoPolicy", "SwitchPolicy"),
    "llmux.switcher": ("Switcher",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Active",
    "App",
    "BackoffError",
    "Config",
    "ConfigError",
    "DeviceLostError",
    "FifoPolicy",
    "HookFailedError",
    "Idle",
    "LlmuxError",
    "ModelConfig",
    "ModelNotFoundError",
    "NotReadyError",
    "PolicyConfig",
    "QueueFullError",
    "ShuttingDownError",
    "SwitchCostTracker",
    "SwitchError",
    "SwitchPolicy",
    "Switcher",
    "SwitcherState",
    "Switching",
    "WaitTimeoutError",
    "build_app",
]


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562), so that `llmux --version` and hooks' helpers need not load the whole."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'llmux' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
