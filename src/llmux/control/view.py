"""What the control plane may ask of the rest of llmux, small enough to fake on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from llmux.snapshot import Snapshot


class ModelEntry(msgspec.Struct, frozen=True):
    """A configured model: its name, the other names that requests may use for it, and what the configuration has
    clients know of it."""

    name: str
    aliases: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = {}


class ControlView(Protocol):
    """Read-only. Called on the loop; must not wait."""

    def models(self) -> Sequence[ModelEntry]:
        """All configured models, in any order."""
        ...

    def snapshot(self) -> Snapshot:
        """How the scheduler is doing now."""
        ...
