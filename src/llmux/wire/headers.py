"""What each header field means to a relay: forwarded, dropped, or read by it.

Pure. Hop-by-hop fields are those of RFC 9110, section 7.6.1, with the older names that proxies still see. What
`Connection` nominates on top of them is for the readers of whole heads to drop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# What to do with a field. Plain ints, as they are compared for every field of every message.
FORWARD: Final = 0
DROP: Final = 1
HOST: Final = 2
CONTENT_LENGTH: Final = 3
TRANSFER_ENCODING: Final = 4
CONNECTION: Final = 5
EXPECT: Final = 6
CONTENT_TYPE: Final = 7  # forwarded too
CONTENT_ENCODING: Final = 8  # forwarded too
CREDENTIAL: Final = 9  # forwarded too, unless it was llmux that wanted it
BROWSER: Final = 10  # forwarded too
PRIORITY: Final = 12  # llmux's own
FORWARDED: Final = 11  # X-Forwarded-*: dropped, unless a trusted proxy has sent it

_BOTH_WAYS: Final = {
    b"connection": CONNECTION,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"content-type": CONTENT_TYPE,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"te": DROP,
    b"trailer": DROP,
    b"upgrade": DROP,
}
_REQUEST: Final = _BOTH_WAYS | {
    b"host": HOST,
    b"expect": EXPECT,
    b"content-encoding": CONTENT_ENCODING,
    b"proxy-authorization": DROP,
    b"http2-settings": DROP,
    b"forwarded": DROP,
    b"authorization": CREDENTIAL,
    b"x-api-key": CREDENTIAL,
    b"x-llmux-priority": PRIORITY,
    b"origin": BROWSER,
    b"sec-fetch-site": BROWSER,
    b"sec-fetch-mode": BROWSER,
    b"sec-fetch-dest": BROWSER,
    b"access-control-request-method": BROWSER,
    b"access-control-request-headers": BROWSER,
}
_RESPONSE: Final = _BOTH_WAYS | {
    b"proxy-authenticate": DROP,
    b"x-llmux-wait-ms": DROP,  # of another llmux behind this one
    b"x-llmux-switched": DROP,
}
_FORGEABLE: Final = b"x-forwarded-"


class _Kinds(dict[bytes, int]):
    """A field's name, spelt as it came, to what to do with it. Remembers the spellings seen, up to a bound."""

    def __init__(self, table: dict[bytes, int], *, from_client: bool) -> None:
        super().__init__()
        self._table = table
        self._from_client = from_client

    def __missing__(self, name: bytes) -> int:
        lower = name.lower()
        kind = self._table.get(lower, FORWARD)
        if self._from_client and kind == FORWARD:
            # CGI-like backends read X_Forwarded_For as X-Forwarded-For, so it is a forgery, whoever sends it.
            dashed = lower.replace(b"_", b"-")
            if lower.startswith(_FORGEABLE) and dashed == lower:
                kind = FORWARDED
            elif dashed.startswith(_FORGEABLE) or (dashed != lower and dashed in self._table):
                kind = DROP
        if len(self) < 1024 and len(name) <= 64:
            self[name] = kind
        return kind


REQUEST_FIELDS: Final = _Kinds(_REQUEST, from_client=True)
RESPONSE_FIELDS: Final = _Kinds(_RESPONSE, from_client=False)


_COMMON: Final = {
    b" keep-alive": frozenset({b"keep-alive"}),
    b" Keep-Alive": frozenset({b"keep-alive"}),
    b" close": frozenset({b"close"}),
}


PLAIN_OPTIONS: Final = frozenset({b"close", b"keep-alive"})
"""Those that nominate no field."""


def connection_options(value: bytes) -> frozenset[bytes]:
    """The options of a `Connection` field, in lower case."""
    options = _COMMON.get(value)
    return frozenset(o.strip().lower() for o in value.split(b",")) - {b""} if options is None else options


def without(lines: Iterable[bytes], names: frozenset[bytes]) -> list[bytes]:
    """The header `lines` (``name: value``) whose names are not among `names` (lower case)."""
    return [line for line in lines if _name(line) not in names]


def without_cors(lines: Iterable[bytes]) -> list[bytes]:
    """The header `lines` of a response without those that tell browsers who may read it: llmux says that."""
    return [line for line in lines if line[:15].lower() != b"access-control-"]


def forwarded_by_proxy(own: bytes, theirs: tuple[bytes, ...]) -> bytes:
    """The X-Forwarded-* lines for a backend, where a trusted proxy has sent lines of its own (`theirs`).

    `own` is what llmux itself knows, each line with its CR LF. The proxy's address is added to those that the request
    has come through; for the rest, what the proxy says counts, and of several the last, which is the nearest proxy's.
    """
    mine = own.split(b"\r\n")[:-1]
    said = {_name(line): line for line in (*mine, *theirs)}
    said.pop(b"x-forwarded-for", None)
    via = [line.partition(b":")[2].strip() for line in (*theirs, *mine) if _name(line) == b"x-forwarded-for"]
    return b"\r\n".join([b"X-Forwarded-For: " + b", ".join(filter(None, via)), *said.values(), b""])


def _name(line: bytes) -> bytes:
    return line.partition(b":")[0].lower()
