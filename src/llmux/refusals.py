"""From the core's refusals to the errors that clients and operators get. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from llmux.errors import (
    BackoffError,
    DeviceLostError,
    DrainedError,
    HookFailedError,
    ModelNotFoundError,
    NotReadyError,
    QueueFullError,
    ReleasedError,
    ShuttingDownError,
    SwitchError,
    WaitTimeoutError,
)
from llmux.messages import Refusal

_ERRORS: Mapping[Refusal, type[SwitchError]] = {
    Refusal.NOT_READY: NotReadyError,
    Refusal.WAIT_TIMEOUT: WaitTimeoutError,
    Refusal.HOOK_FAILED: HookFailedError,
    Refusal.BACKOFF: BackoffError,
    Refusal.DEVICE_LOST: DeviceLostError,
    Refusal.QUEUE_FULL: QueueFullError,
    Refusal.RELEASED: ReleasedError,
    Refusal.DRAINED: DrainedError,
    Refusal.SHUTTING_DOWN: ShuttingDownError,
}


def refusal_error(reason: Refusal, model: str, detail: str, retry_after: float | None) -> SwitchError:
    """The error that a client or an operator gets for a refusal of the core."""
    if reason is Refusal.MODEL_NOT_FOUND:
        return ModelNotFoundError(model)
    return _ERRORS[reason](detail, retry_after=retry_after)
