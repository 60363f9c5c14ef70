"""The decision core: pure, driven by events, in the dark about sockets, processes and clocks."""

from __future__ import annotations

from llmux.core.core import Core
from llmux.core.settings import (
    IMPLICIT_DEVICE,
    ConfigChanged,
    CoreEvent,
    CoreSettings,
    ModelSpec,
    Placement,
    PolicyNote,
)

__all__ = [
    "IMPLICIT_DEVICE",
    "ConfigChanged",
    "Core",
    "CoreEvent",
    "CoreSettings",
    "ModelSpec",
    "Placement",
    "PolicyNote",
]
