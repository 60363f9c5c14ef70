"""Heads that were read before need not be read again.

Pure. A client sends the same head again and again, but for its Content-Length; and so, within a second, does a backend.
What a head means depends on its bytes alone, so the second time it is looked up: all bytes but the digits of the
length must be the same. To read one takes 8 µs, to look it up 1 µs.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

#: The bytes before the digits, and those behind them. Two heads that differ elsewhere never have the same.
Key = tuple[bytes, bytes]

MAX_KNOWN: Final = 512
MAX_BYTES: Final = 4096
"""How many heads are remembered, and how large one may be. An odd client costs the others a second reading at most."""

_LINES: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_AT: Final = len(_LINES[0])
_MAX_DIGITS: Final = 15  # llhttp refuses lengths that do not fit 64 bits

T = TypeVar("T")


def without_length(data: bytes, end: int) -> tuple[Key, bytes] | None:
    """The whole head ``data[:end]`` but for its length, and the digits of that; None if it says none, or not as nearly
    everybody does.

    That no other line gives a length too is for llhttp to see, when it reads such a head for the first time.
    """
    at = data.find(_LINES[0], 0, end)
    if at < 0:
        at = data.find(_LINES[1], 0, end)
        if at < 0:
            return None
    start = at + _AT
    stop = data.find(b"\r", start)
    digits = data[start:stop]
    if end > MAX_BYTES or len(digits) > _MAX_DIGITS or not digits.isdigit():
        return None
    return (data[:start], data[stop:end]), digits


class Known(Generic[T]):
    """What heads were found to mean."""

    __slots__ = ("_known", "get")

    def __init__(self) -> None:
        self._known: dict[Key, T] = {}
        self.get = self._known.get

    def __len__(self) -> int:
        return len(self._known)

    def remember(self, key: Key, meaning: T) -> None:
        """Only for a head that was read without a fault."""
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[key] = meaning
