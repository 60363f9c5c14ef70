"""The control plane: what operators and clients ask about llmux itself, as an ordinary web application.

The gateway relays to it what is not for a model. Starlette and uvicorn are imported here and nowhere else, and only
when they are needed: `llmux.control.view` alone does not load them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmux.control.view import ControlView, ModelEntry

if TYPE_CHECKING:
    from llmux.control.app import build_control
    from llmux.control.server import control_server

__all__ = ["ControlView", "ModelEntry", "build_control", "control_server"]


def __getattr__(name: str) -> Any:
    if name == "build_control":
        from llmux.control.app import build_control

        return build_control
    if name == "control_server":
        from llmux.control.server import control_server

        return control_server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
