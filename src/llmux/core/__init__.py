"""The decision core: pure, driven by events, in the dark about sockets, processes and clocks."""

from __future__ import annotations

from llmux.core.core import Core
from llmux.core.settings import IMPLICIT_DEVICE, CoreSettings, ModelSpec, Placement

__all__ = ["IMPLICIT_DEVICE", "Core", "CoreSettings", "ModelSpec", "Placement"]
