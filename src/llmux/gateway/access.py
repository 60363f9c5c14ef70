"""Whether a request is let in, before anybody asks what it wants: its key, the name it is for, the page it comes from.

Pure. A key proves that whoever sent it meant to: no page of another site can make a browser add one. So a request that
shows a valid key is not asked for its host or its origin, and a public name needs to be listed only where there are no
keys. What of the control plane needs a key is for `llmux.control.guard` to say.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from llmux import logs
from llmux.access import Access, Browser, Key, presented_keys
from llmux.errors import HostNotAllowedError, InvalidKeyError, LlmuxError, ModelNotAllowedError, OriginNotAllowedError
from llmux.wire.errors import printable
from llmux.wire.request import Request

log = logs.get_logger(__name__)

_OPERATORS_TREES: Final = (b"/admin", b"/ui")
_SAFE_METHODS: Final = frozenset({b"GET", b"HEAD"})


def admit(access: Access, request: Request, *, to_model: bool) -> Key | None:
    """Let `request` in, or not. Returns the key that it shows, if it needs one to reach a model.

    Raises:
        InvalidKeyError: it needs a key and has none.
        HostNotAllowedError, OriginNotAllowedError: it needs none, and a page may have made a browser send it.
        BadRequestError: it shows several keys in one way.
    """
    try:
        return _admit(access, request, to_model=to_model)
    except LlmuxError as error:
        _log(request, error, None)
        raise


def _admit(access: Access, request: Request, *, to_model: bool) -> Key | None:
    keyed = access.keys.any or access.admin_keys.any
    shown = presented_keys(request.credentials) if keyed and request.credentials else []
    if to_model and access.keys.any:
        key = access.keys.find(shown)
        if key is None:
            raise no_key(shown)
        return key
    if shown and (access.keys.find(shown) or access.admin_keys.find(shown)):
        return None
    if not access.hosts.allow(request.host):
        raise HostNotAllowedError(
            f"this llmux does not answer to the name {request.host.decode('latin-1')!r}; "
            "its operator can add it to `allowed_hosts`"
        )
    if request.browser:
        _check_page(access, request, Browser(request.browser), to_model=to_model)
    return None


def _check_page(access: Access, request: Request, browser: Browser, *, to_model: bool) -> None:
    if not browser.from_elsewhere(request.host):
        return
    operators = not to_model and request.path.startswith(_OPERATORS_TREES)
    if not operators and access.origins.allow(browser.origin):
        return
    shows_itself = not to_model and request.method in _SAFE_METHODS and not request.path.startswith(b"/admin")
    if shows_itself and browser.followed_link:
        return
    page = "another site" if browser.origin is None else repr(browser.origin.decode("latin-1"))
    raise OriginNotAllowedError(f"pages of {page} may not ask this; origins can be listed in `cors.origins`")


def check_body_may_come(access: Access, request: Request) -> None:
    """Called with the head of a request whose body has not come yet: without a valid key, none of it is waited for.

    Raises:
        InvalidKeyError: there are keys, and it shows none of them.
        BadRequestError: it shows several in one way.
    """
    if access.keys.any:
        shown = presented_keys(request.credentials)
        if not access.keys.find(shown) and not access.admin_keys.find(shown):
            error = no_key(shown)
            _log(request, error, None)
            raise error


def check_model(access: Access, request: Request, key: Key | None, model: str) -> None:
    """May a request with `key` have `model`? If so, what must not reach its backend is taken out of it.

    Raises:
        ModelNotAllowedError: it may not.
    """
    if key is not None and not key.opens(model):
        error = ModelNotAllowedError(f"this key does not open the model {model!r}")
        _log(request, error, key)
        raise error
    if request.credentials and (access.keys.any or access.admin_keys.any):
        dropped: Collection[bytes] = request.credentials
        if not access.keys.any or model in access.forward_to:
            dropped = [line for line in dropped if access.admin_keys.find(presented_keys((line,)))]
        if dropped:
            request.lines = [line for line in request.lines if line not in dropped]


def shown_key(access: Access, request: Request) -> str | None:
    """The name of the valid key that `request` shows, of either kind; None if it shows none."""
    if not request.credentials:
        return None
    try:
        shown = presented_keys(request.credentials)
    except LlmuxError:
        return None
    key = access.keys.find(shown) or access.admin_keys.find(shown)
    return None if key is None else key.name


def no_key(shown: list[bytes]) -> InvalidKeyError:
    """Why a request without a valid key is refused."""
    if shown:
        return InvalidKeyError("Incorrect API key provided")
    return InvalidKeyError("No API key provided: send one as `Authorization: Bearer KEY` or as `x-api-key: KEY`")


def preflight(access: Access, request: Request) -> bytes | None:
    """The header lines of the answer to a CORS preflight; None if `request` is none.

    Browsers do not send keys with it, so it needs none, and says nothing but what the configuration has.

    Raises:
        HostNotAllowedError, OriginNotAllowedError: pages of that origin may not send what it announces.
    """
    if request.method != b"OPTIONS" or not request.browser:
        return None
    browser = Browser(request.browser)
    if browser.origin is None or browser.method_wanted is None:
        return None
    if not access.keys.any:
        _admit(access, request, to_model=True)
    fields = b"" if request.path.startswith(_OPERATORS_TREES) else access.origins.preflight(browser)
    if not fields:
        raise OriginNotAllowedError(
            f"pages of {browser.origin.decode('latin-1')!r} may not ask this; origins can be listed in `cors.origins`"
        )
    return fields


def answer_fields(access: Access, request: Request) -> bytes | None:
    """What an answer to `request` tells browsers about who may read it; None if no page is concerned, so that what the
    backend says may stand."""
    for line in request.browser:
        if line[:7].lower() == b"origin:":
            if request.path.startswith(_OPERATORS_TREES):
                return b""
            return access.origins.fields(Browser(request.browser).origin)
    return None


def _log(request: Request, error: LlmuxError, key: Key | None) -> None:
    log.debug(
        "access_refused",
        reason=error.code,
        key=None if key is None else key.name,
        host=printable(request.host.decode("latin-1"), 200),
        path=printable(request.path.decode("latin-1"), 200),
    )
