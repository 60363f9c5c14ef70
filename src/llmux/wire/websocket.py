"""A WebSocket (RFC 6455), as a relay must understand it: the opening handshake, and where frames end.

Pure. Strict: after a switch of protocols nobody in between changes the bytes any more, so a handshake that a client or
a backend could read in another way than llmux is refused. Of what follows, only the heads of the backend's frames are
looked at, so that a session can be ended between two of them.
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

GOING_AWAY: Final = 1001
SERVICE_RESTART: Final = 1012
"""Why a server closes (section 7.4.1, and the registry of close codes): it goes, or it may be asked again soon."""

MAX_REASON: Final = 123
"""Bytes that a reason may have: all of a frame of control is 125 at most."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_OPTIONS: Final = frozenset({b"upgrade", b"keep-alive"})
_ONCE: Final = frozenset({b"upgrade", b"sec-websocket-key", b"sec-websocket-version"})
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"expect"})
_FIRST: Final = frozenset(
    fin | compressed | opcode for fin in (0, 0x80) for compressed in (0, 0x40) for opcode in (0, 1, 2)
) | {0x89, 0x8A}
"""How frames begin: data, perhaps the beginning of a compressed message (RFC 7692), Ping and Pong. Close is not among
them, as nothing may follow it."""

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


def switching_head(lines: Iterable[bytes], fields: bytes = b"") -> bytes:
    """The head that tells a client of the switch; `lines` are the end-to-end fields of the backend's, `fields` more
    header lines, each with its CR LF."""
    return b"\r\n".join([b"HTTP/1.1 101 Switching Protocols", *lines, *UPGRADE_LINES, fields + b"\r\n"])


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


class Frames:
    """Where the frames end that a backend sends (section 5.2). Whatever is odd about one, such as an extension's own
    bits, ends it: then nobody knows any more."""

    __slots__ = ("_begun", "_known", "_left")

    def __init__(self) -> None:
        self._known = True
        self._left = 0  # bytes of a frame that are still to come
        self._begun = b""  # of a frame's head that is not whole yet

    @property
    def between(self) -> bool:
        """Might another frame follow here? Also amid a message, for a frame of control; after a Close, none may."""
        return self._known and not self._left and not self._begun

    def follow(self, data: bytes) -> None:
        """`data` comes next. O(frames in it)."""
        size = len(data)
        at = self._left
        if at >= size:
            self._left = at - size
            return
        if not self._known:
            return
        if self._begun:
            data = self._begun + data
            size = len(data)
            self._begun = b""
        while at + 1 < size:
            first, length = data[at], data[at + 1]
            if length > 127 or first not in _FIRST:
                self._known = False
                return
            begin = at + 2
            if length > 125:
                begin += 2 if length == 126 else 8
                if begin > size:
                    break
                length = int.from_bytes(data[at + 2 : begin], "big")
            at = begin + length
        if at < size:
            self._begun = data[at:]
            self._left = 0
        else:
            self._left = at - size


def close_frame(code: int, reason: str) -> bytes:
    """What a server sends as its last frame (section 5.5.1), with as much of `reason` as there is room for."""
    said = reason.encode()[:MAX_REASON].decode(errors="ignore").encode()
    return b"\x88%c%b%b" % (2 + len(said), code.to_bytes(2, "big"), said)


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
