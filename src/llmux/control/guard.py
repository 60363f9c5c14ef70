"""Which routes of the control plane need which key.

The gateway has seen to it that no page of another site is behind a request; see `llmux.gateway.access`. Here:

- `/admin` and all below needs an admin key. Where there is none, only this machine may use it, under a name that means
  this machine wherever it is read.
- the list of models needs a key that opens models, and shows those that it opens.
- `/metrics` needs a key if the configuration says so.
- everything else, `/health` and `/ready` above all, needs none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from llmux.access import Access, Key, is_credential, is_loopback_name, presented_keys
from llmux.errors import InvalidKeyError, LlmuxError, NotLocalError

KEY: Final = "llmux.key"
"""Where an ASGI scope has the key that opens models; None where nobody needs one."""

_NAMES: Final = ("/v1/models", "/models", "/upstream")
"""What tells which models there are, with all that is below."""

_LISTS: Final = ("/api/tags", "/api/ps", "/api/show")
"""Where Ollama's clients find models."""

_Headers = Iterable[tuple[bytes, bytes]]


class Guard:
    """ASGI middleware. `access` is asked for every request, as it may change; `refuse` answers for a refusal."""

    def __init__(self, app: ASGIApp, access: Callable[[], Access], refuse: Callable[[LlmuxError], ASGIApp]) -> None:
        self._app = app
        self._access = access
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope[KEY] = admitted(self._access(), scope["path"], scope["headers"])
        except LlmuxError as error:
            await self._refuse(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def admitted(access: Access, path: str, headers: _Headers) -> Key | None:
    """The key that limits what is shown, if one does.

    Raises:
        InvalidKeyError: the route needs another one.
        NotLocalError: the admin API has no keys, and this does not come from this machine.
        BadRequestError: several keys were shown in one way.
    """
    headers = list(headers)
    if _under(path, "/admin"):
        if access.admin_keys:
            _need(access.admin_keys.find(_shown(headers)), "an admin key")
        elif not is_local(headers):
            raise NotLocalError("the admin API has no keys, so only this machine may use it: set `admin_keys`")
        return None
    if any(_under(path, root) for root in _NAMES) or path in _LISTS:
        return _need(access.keys.find(_shown(headers)), "an API key") if access.keys else None
    if path == "/metrics" and access.metrics_need_key and (access.keys or access.admin_keys):
        shown = _shown(headers)
        _need(access.keys.find(shown) or access.admin_keys.find(shown), "a key")
    return None


def is_local(headers: _Headers) -> bool:
    """Did this machine send it, under a name that only means this machine? The gateway says where it comes from; only
    this user can reach the control plane past the gateway."""
    for name, value in headers:
        if name == b"x-forwarded-for" and not all(map(_is_loopback, value.split(b","))):
            return False
        if name == b"x-forwarded-host" and not is_loopback_name(value):
            return False
    return True


def _is_loopback(address: bytes) -> bool:
    try:
        found = ipaddress.ip_address(address.decode("ascii").strip())
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return found.is_loopback or (mapped is not None and mapped.is_loopback)


def _need(key: Key | None, what: str) -> Key:
    if key is None:
        raise InvalidKeyError(f"This needs {what}: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`")
    return key


def _shown(headers: _Headers) -> list[bytes]:
    return presented_keys([name + b": " + value for name, value in headers if is_credential(name)])


def _under(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")
