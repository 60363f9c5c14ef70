"""What the admin API may ask of the rest of llmux, small enough to fake on one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llmux.control.admin.answers import Cost, ModelView, RequestView
from llmux.snapshot import Snapshot
from llmux.telemetry.history import History


class Sight(Protocol):
    """Read-only. Called on the loop; must not wait."""

    history: History

    def snapshot(self) -> Snapshot:
        """How the scheduler is doing now."""
        ...

    def policy(self) -> str:
        """The name of the policy at work."""
        ...

    def models(self) -> Sequence[ModelView]:
        """All models, in the order of the configuration."""
        ...

    def requests(self, limit: int | None = None) -> Sequence[RequestView]:
        """Requests that wait or are served, the oldest first; at most `limit`."""
        ...

    def costs(self) -> Sequence[Cost]:
        """What switches have cost, for every ordered pair that was observed."""
        ...


class Orders(Protocol):
    """An operator's orders. All raise an `llmux.errors.LlmuxError` when they cannot be carried out."""

    async def switch(self, model: str) -> None:
        """Return once `model` is awake."""
        ...

    async def sleep(self, model: str) -> None:
        """Return once `model` is asleep."""
        ...

    async def free(self, model: str) -> None:
        """Take the operator's word that `model` holds no memory."""
        ...

    async def look(self, model: str) -> None:
        """Look at a lost model now."""
        ...

    async def release(self, *, refuse: bool) -> None:
        """Return once everything is asleep; nothing is woken until `resume`, and requests wait, or are refused."""
        ...

    async def resume(self) -> None:
        """Wake models again for those who ask for them."""
        ...

    async def drain(self, model: str) -> None:
        """Return once `model` is asleep; it is not woken until `undrain`, and its requests wait."""
        ...

    async def undrain(self, model: str) -> None:
        """Wake `model` again for those who ask for it."""
        ...

    async def pin(self, model: str) -> None:
        """Do not put `model` to sleep for others any more."""
        ...

    async def unpin(self, model: str) -> None:
        """Put `model` to sleep for others again."""
        ...

    def cancel(self, request_id: int) -> None:
        """End a request that waits or is served."""
        ...

    async def reload(self) -> None:
        """Read the configuration file again."""
        ...
