"""Hypothesis strategies for HTTP/1.1 messages, and for how they may arrive."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any, SupportsIndex

from hypothesis import strategies as st

TOKEN = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
NAMES = st.text(TOKEN, min_size=1, max_size=12).map(lambda name: "x-t-" + name)
# Field values: visible characters, obs-text, blanks inside.
VALUES = st.binary(max_size=20).map(lambda raw: bytes(b for b in raw if b >= 0x80 or 0x20 <= b < 0x7F).strip())
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
# Bodies rich in what chunk framing and empty lines are made of.
BODIES = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"0", b"5", b"a"]), max_size=30).map(b"".join),
)


@dataclass(frozen=True)
class Body:
    content: bytes
    wire: bytes
    fields: bytes


@st.composite
def framed(draw: st.DrawFn, contents: st.SearchStrategy[bytes] = BODIES) -> Body:
    """A body with a length or in chunks, with chunk extensions and trailers."""
    content = draw(contents)
    if draw(st.booleans()):
        return Body(content, content, b"Content-Length: %d\r\n" % len(content))
    wire = bytearray()
    at = 0
    while at < len(content):
        size = draw(st.integers(1, len(content) - at))
        extension = draw(st.sampled_from([b"", b";a=b", b';a="b"']))
        wire += (
            draw(st.sampled_from([b"%x", b"%X", b"0%x"])) % size
            + extension
            + b"\r\n"
            + content[at : at + size]
            + b"\r\n"
        )
        at += size
    trailers = b"".join(b"%b: %b\r\n" % (name.encode(), value) for name, value in draw(FIELDS))
    trailers += draw(st.sampled_from([b"", b"Host: evil\r\n", b"Connection: close\r\n", b"Authorization: evil\r\n"]))
    return Body(content, bytes(wire) + b"0\r\n" + trailers + b"\r\n", b"Transfer-Encoding: chunked\r\n")


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` in pieces: often whole, often in single bytes, else cut anywhere."""
    how = draw(st.sampled_from(["whole", "bytes", "anywhere", "anywhere"]))
    if how == "whole" or len(data) < 2:
        return [data]
    if how == "bytes":
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(draw(st.sets(st.integers(1, len(data) - 1), max_size=12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class Copied(bytes):
    """Bytes that count how many of them are copied as they are cut."""

    total = 0

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        piece = super().__getitem__(key)
        if isinstance(piece, int):
            return piece
        Copied.total += len(piece)
        return Copied(piece)
