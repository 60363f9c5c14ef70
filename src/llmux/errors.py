"""Every failure that llmux itself causes or reports, each knowing how it looks on the wire.

May import nothing of llmux. An error carries its HTTP status, its machine-readable ``code`` and, where waiting
helps, a ``retry_after`` in seconds; `llmux.wire.errors` is the one place that turns it into a response.
"""

from __future__ import annotations

import math
from typing import ClassVar


class LlmuxError(Exception):
    """Base of all of llmux's own errors.

    Attributes:
        status: the HTTP status that a client sees.
        code: stable machine-readable reason, the ``error.code`` of the response body.
        param: name of the offending request field, if there is one.
        retry_after: seconds after which trying again makes sense, or None.
        unwanted: nobody wants the request to come again, though its status would have clients try.
        message_limit: characters of the message that a client is told at most. Only what no client has a hand in may
            be longer than this.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    message_limit: ClassVar[int] = 500
    unwanted: ClassVar[bool] = False
    param: str | None = None
    retry_after: float | None = None

    def __init__(self, message: str, *, retry_after: float | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retry_after is not None:
            self.retry_after = max(1.0, math.ceil(retry_after))
        if param is not None:
            self.param = param


class ConfigError(LlmuxError):
    """The configuration cannot be used. ``problems`` lists every one of them, as ``(path, line, message)``.

    ``path`` is dotted (``models.llama.port``), ``line`` is 1-based or None where the file has no lines to tell.
    """

    code = "invalid_config"

    def __init__(self, source: str, problems: list[tuple[str, int | None, str]]) -> None:
        self.source = source
        self.problems = problems
        lines = [f"{source}: {len(problems)} problem{'s' if len(problems) != 1 else ''}"]
        for path, line, message in problems:
            where = f"{source}:{line}" if line is not None else source
            lines.append(f"  {where}: {path + ': ' if path else ''}{message}")
        super().__init__("\n".join(lines))


# --- refusals of the scheduler -----------------------------------------------------------------------------------


class SwitchError(LlmuxError):
    """A request, or an operator's command, that the scheduler could not satisfy."""

    status = 503
    code = "switch_failed"


class ModelNotFoundError(SwitchError):
    """No model or alias of that name is configured (2.4.0: ``ModelNotFound``)."""

    status = 404
    code = "model_not_found"
    param = "model"

    def __init__(self, model: str) -> None:
        super().__init__(f"Model not found: {model}")
        self.model = model


class NotReadyError(SwitchError):
    """The model did not become awake (2.4.0: ``NotReady``)."""

    code = "model_not_ready"


class WaitTimeoutError(SwitchError):
    """The request waited longer than ``policy.request_timeout_secs`` (2.4.0: ``Timeout``)."""

    status = 504
    code = "queue_timeout"


class HookFailedError(SwitchError):
    """A wake or sleep hook exited non-zero, ran into its deadline, or could not be started (2.4.0: ``HookFailed``)."""

    code = "hook_failed"


class BackoffError(SwitchError):
    """The model failed recently and is not tried again yet; ``retry_after`` tells for how long."""

    code = "model_backoff"


class DeviceLostError(SwitchError):
    """Nobody knows who holds the device's memory, so nothing is woken on it."""

    code = "device_lost"


class QueueFullError(SwitchError):
    """``max_queue`` requests wait already."""

    status = 429
    code = "queue_full"


class ReleasedError(SwitchError):
    """An operator has the devices: see ``llmux release``."""

    code = "released"


class DrainedError(SwitchError):
    """An operator has drained the model, and it is not woken: see ``llmux drain``."""

    code = "model_drained"


class ShuttingDownError(SwitchError):
    """The process is stopping and takes nothing new on."""

    code = "shutting_down"


class RequestAbortedError(SwitchError):
    """The request was being served and had to end: its model's drain, or llmux's shutdown, has had its time."""

    code = "request_aborted"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the request was ended: {reason}", retry_after=1)


class RequestNotFoundError(SwitchError):
    """No request of that number waits or is served."""

    status = 404
    code = "request_not_found"

    def __init__(self, request_id: int) -> None:
        super().__init__(f"no request {request_id} waits or is served")


class RequestCancelledError(SwitchError):
    """An operator ended the request, while it waited or while it was served."""

    code = "request_cancelled"
    unwanted = True

    def __init__(self) -> None:
        super().__init__("an operator cancelled the request")


# --- failures of the relay -----------------------------------------------------------------------------------


class BadRequestError(LlmuxError):
    """The client's bytes are not a request that llmux can serve."""

    status = 400
    code = "invalid_request"


class InvalidKeyError(LlmuxError):
    """A key is needed, and none was shown, or none of those that there are."""

    status = 401
    code = "invalid_api_key"


class ModelNotAllowedError(LlmuxError):
    """The key does not open this model."""

    status = 403
    code = "model_not_allowed"
    param = "model"


class HostNotAllowedError(LlmuxError):
    """The request is for a name that llmux does not answer to: see `llmux.access.hosts`."""

    status = 403
    code = "host_not_allowed"


class OriginNotAllowedError(LlmuxError):
    """A page of another site made a browser send this request: see `llmux.access.browsers`."""

    status = 403
    code = "origin_not_allowed"


class NotLocalError(LlmuxError):
    """The admin API has no keys, so that only this machine may use it."""

    status = 403
    code = "admin_not_local"


class NoModelError(LlmuxError):
    """Neither body, path nor query names a model."""

    status = 404
    code = "model_missing"
    param = "model"

    def __init__(self, detail: str = "") -> None:
        super().__init__("No model specified in request" + (f": {detail}" if detail else ""))


class NoSuchPathError(LlmuxError):
    """The path is below one of llmux's own, and nothing is there."""

    status = 404
    code = "path_not_found"


class MethodNotAllowedError(LlmuxError):
    """The path is one of llmux's own, the method is not. `allowed` are the methods that are, as `Allow` has them (RFC
    9110, section 15.5.6)."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class RequestTimeoutError(LlmuxError):
    """The client took too long to send its request."""

    status = 408
    code = "request_timeout"


class BodyTooLargeError(LlmuxError):
    """The request's body is larger than ``max_body_bytes``."""

    status = 413
    code = "body_too_large"


class UnsupportedEncodingError(LlmuxError):
    """The body is compressed, so llmux cannot look for the model's name in it."""

    status = 415
    code = "unsupported_encoding"


class HeadersTooLargeError(LlmuxError):
    """The request's head is larger than the limit."""

    status = 431
    code = "headers_too_large"


class NotImplementedOnWireError(LlmuxError):
    """A part of HTTP that llmux does not speak (CONNECT, protocol upgrades)."""

    status = 501
    code = "not_implemented"


class BackendError(LlmuxError):
    """The backend refused the connection, died, or answered with something that is not HTTP."""

    status = 502
    code = "backend_error"


class BackendTimeoutError(LlmuxError):
    """The backend hung; the message says in which phase."""

    status = 504
    code = "backend_timeout"


class OverloadedError(LlmuxError):
    """A cap of llmux itself (buffered bytes, connections) is reached."""

    status = 503
    code = "overloaded"
