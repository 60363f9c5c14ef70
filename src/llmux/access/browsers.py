"""What browsers may do for the pages that they show: origins, requests across sites, and CORS.

A page may make the browser of whoever reads it send requests to llmux. Two things tell of that: `Sec-Fetch-Site`, which
browsers send to https and to localhost, and `Origin`, which they send with everything that is not GET or HEAD. Programs
send neither. The rule is that of Go's `http.CrossOriginProtection` and of "resource isolation policies": what comes
from another site is refused, unless its origin is listed or a person followed a link to something that only shows
itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

BROWSER_FIELDS: Final = frozenset(
    {
        b"origin",
        b"sec-fetch-site",
        b"sec-fetch-mode",
        b"sec-fetch-dest",
        b"access-control-request-method",
        b"access-control-request-headers",
    }
)
"""The fields that only browsers send, and that `Browser` reads."""

PREFLIGHT_SECONDS: Final = 600
"""How long a browser may remember what a preflight was told."""

_TOKENS: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_READABLE: Final = b"Retry-After, X-Request-Id, X-Llmux-Wait-Ms, X-Llmux-Switched"


class Browser:
    """What a browser says about a request, beside the request itself. None: it does not say."""

    __slots__ = ("destination", "headers_wanted", "method_wanted", "mode", "origin", "site")

    def __init__(self, lines: Sequence[bytes]) -> None:
        """`lines` are header lines (``name: value``); the last of each name counts, and two origins are no origin."""
        self.origin: bytes | None = None
        self.site: bytes | None = None
        self.mode: bytes | None = None
        self.destination: bytes | None = None
        self.method_wanted: bytes | None = None
        self.headers_wanted: bytes | None = None
        for line in lines:
            name, _, value = line.partition(b":")
            value = value.strip()
            match name.strip().lower():
                case b"origin":
                    self.origin = value if self.origin is None else b"null"
                case b"sec-fetch-site":
                    self.site = value.lower()
                case b"sec-fetch-mode":
                    self.mode = value.lower()
                case b"sec-fetch-dest":
                    self.destination = value.lower()
                case b"access-control-request-method":
                    self.method_wanted = value
                case b"access-control-request-headers":
                    self.headers_wanted = value

    def from_elsewhere(self, host: bytes) -> bool:
        """Does it come from a page that llmux, which was reached as `host`, did not give out?

        Where the browser says so itself, it is believed: it knows better than a comparison behind a proxy that has
        put another name into Host. Schemes are not compared, as a proxy may be the one that speaks TLS.
        """
        if self.site is not None:
            return self.site not in (b"same-origin", b"none")
        if self.origin is None:
            return False
        return self.origin.partition(b"://")[2].lower() != host.lower()

    @property
    def followed_link(self) -> bool:
        """Will the answer be a page of its own, as when somebody clicks on a link?"""
        return self.mode == b"navigate" and self.destination == b"document"


class Origins:
    """Whose pages may use llmux from a browser. Immutable.

    Args:
        listed: such as ``https://chat.example.com``; ``*`` for any, ``null`` for pages without an origin (files,
            sandboxed frames).
    """

    __slots__ = ("_any", "_listed")

    def __init__(self, listed: Iterable[str] = ()) -> None:
        self._listed = frozenset(origin.rstrip("/").lower().encode("latin-1") for origin in listed)
        self._any = b"*" in self._listed

    def allow(self, origin: bytes | None) -> bool:
        """Is `origin` listed?"""
        return origin is not None and (self._any or origin.lower() in self._listed)

    def fields(self, origin: bytes | None) -> bytes:
        """The header lines of an answer that pages of `origin` may read, each with its CR LF; empty if they may not.

        Credentials are never allowed: llmux has no cookies, and keys are sent by the page itself.
        """
        if not self.allow(origin):
            return b""
        allowed = b"*" if self._any else origin or b""
        return b"Access-Control-Allow-Origin: %b\r\nAccess-Control-Expose-Headers: %b\r\nVary: Origin\r\n" % (
            allowed,
            _READABLE,
        )

    def preflight(self, browser: Browser) -> bytes:
        """The header lines of the answer to a preflight (Fetch standard, section 3.2); empty if it is to be refused."""
        granted = self.fields(browser.origin)
        method, headers = browser.method_wanted, browser.headers_wanted
        if not granted or method is None or _TOKENS.fullmatch(method) is None or b"," in method:
            return b""
        if headers and _TOKENS.fullmatch(headers) is None:
            return b""
        allowed = b"Access-Control-Allow-Headers: %b\r\n" % headers if headers else b""
        return (
            granted
            + b"Access-Control-Allow-Methods: %b\r\n" % method
            + allowed
            + b"Access-Control-Max-Age: %d\r\n" % PREFLIGHT_SECONDS
        )
