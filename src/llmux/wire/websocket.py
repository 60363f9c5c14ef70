"""The opening handshake of a WebSocket (RFC 6455, section 4), as a relay must understand it.

Pure. What follows the handshake is opaque. Strict: after a switch of protocols nobody in between looks at the bytes any
more, so a handshake that a client or a backend could read in another way than llmux is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Final

from llmux.errors import BackendError, NotImplementedOnWireError
from llmux.wire.headers import CONTENT_TYPE, FORWARD, RESPONSE_FIELDS, connection_options, without
from llmux.wire.known import Key
from llmux.wire.response import UNTIL_CLOSE, ResponseReader

#: What a client's handshake has for hop-by-hop fields, for whoever writes it anew.
UPGRADE_LINES: Final = (b"Connection: Upgrade", b"Upgrade: websocket")

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_OPTIONS: Final = frozenset({b"upgrade", b"keep-alive"})
_ONCE: Final = frozenset({b"upgrade", b"sec-websocket-key", b"sec-websocket-version"})
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"expect"})
_REFUSAL: Final = "CONNECT and protocol upgrades other than a WebSocket's (RFC 6455, version 13) are not supported"


def handshake_key(lines: list[bytes]) -> bytes:
    """The `Sec-WebSocket-Key` of a request whose head has these lines, the request line first.

    Raises:
        NotImplementedOnWireError: it is no handshake of a WebSocket, or not a proper one.
    """
    options: frozenset[bytes] = frozenset()
    once: dict[bytes, bytes] = {}
    proper = lines[0].startswith(b"GET ") and lines[0].endswith(b" HTTP/1.1")
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"connection":
            options |= connection_options(value)
        elif name in _ONCE:
            proper = proper and name not in once
            once[name] = value.strip()
        elif name in _FRAMING:
            proper = False  # of a body: where it ends would be for everybody to guess
    key = once.get(b"sec-websocket-key", b"")
    if not (
        proper
        and b"upgrade" in options <= _OPTIONS
        and once.get(b"upgrade", b"").lower() == b"websocket"
        and once.get(b"sec-websocket-version") == b"13"
        and _is_key(key)
    ):
        raise NotImplementedOnWireError(_REFUSAL)
    return key


def accept_of(key: bytes) -> bytes:
    """The `Sec-WebSocket-Accept` that answers `key`: nobody who does not speak WebSocket sends it."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def switching_head(lines: Iterable[bytes]) -> bytes:
    """The head that tells a client of the switch; `lines` are the end-to-end fields of the backend's."""
    return b"\r\n".join([b"HTTP/1.1 101 Switching Protocols", *lines, *UPGRADE_LINES, b"\r\n"])


class SwitchingResponseReader(ResponseReader):
    """Reads the answer to a handshake: an ordinary response, or the switch and all that follows it, as it came.

    Attributes:
        switched: the backend speaks WebSocket from now on; then the status is 101.
        accept: its `Sec-WebSocket-Accept`.
    """

    __slots__ = ("accept", "switched")

    def __init__(self, *, to_head: bool) -> None:
        super().__init__(to_head=to_head)
        self.switched = False
        self.accept = b""

    def _switching(self) -> None:
        """`_end_head` looks at it."""

    def _recall(self, key: Key, length: bytes) -> bool:
        return False  # the same head does not mean the same here

    def _remember(self, key: Key, length: bytes) -> None:
        pass

    def _end_head(self, head: bytes) -> None:
        lines = head.lstrip(b"\r\n").split(b"\r\n")
        if lines[0][9:12] != b"101":
            super()._end_head(head)
            self.reusable = False  # what a backend makes of a connection on which it was asked to switch is its own
            return
        options: frozenset[bytes] = frozenset()
        kept: list[bytes] = []
        upgrades: list[bytes] = []
        proper = self._status_line(lines[0])
        for line in lines[1:-2]:
            name, _, value = line.partition(b":")
            lower = name.lower()
            if lower == b"connection":
                options |= connection_options(value)
            elif lower == b"upgrade":
                upgrades.append(value.strip().lower())
            elif RESPONSE_FIELDS[name] in (FORWARD, CONTENT_TYPE):
                kept.append(line)
            if lower == b"sec-websocket-accept":
                proper = proper and not self.accept
                self.accept = value.strip()
        if not proper or upgrades != [b"websocket"] or b"upgrade" not in options:
            raise BackendError("the backend switched to another protocol than a WebSocket's")
        self.lines = without(kept, options)
        self.framing = UNTIL_CLOSE
        self.head_done = self.switched = True
        self._parser = None


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
