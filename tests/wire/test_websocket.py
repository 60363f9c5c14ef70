"""Where the frames of a WebSocket end, however they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from llmux.wire.websocket import MAX_REASON, Frames, close_frame

CONTROL = [Opcode.PING, Opcode.PONG]
OPCODES = [Opcode.TEXT, Opcode.BINARY, Opcode.CONT, *CONTROL]
SIZES = [0, 1, 125, 126, 127, 300, 65_535, 65_536, 70_000]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    opcode = draw(st.sampled_from(OPCODES))
    control = opcode in CONTROL
    size = draw(st.integers(0, 125)) if control else draw(st.sampled_from(SIZES))
    made = Frame(opcode, bytes(size), fin=control or draw(st.booleans())).serialize(mask=False)
    compressed = not control and draw(st.booleans())
    return bytes([made[0] | 0x40]) + made[1:] if compressed else made


@given(st.lists(frames(), max_size=6), st.data())
def test_the_end_of_a_frame_is_known_wherever_the_bytes_are_cut(sent: list[bytes], data: st.DataObject) -> None:
    ends, at = {0}, 0
    for frame in sent:
        at += len(frame)
        ends.add(at)
    stream = b"".join(sent)
    near = [end + by for end in ends for by in (-1, 0, 1, 2, 3, 4, 9, 10) if 0 < end + by < len(stream)]
    anywhere = st.integers(0, len(stream))
    cuts = sorted(data.draw(st.lists(st.one_of(anywhere, st.sampled_from(near)) if near else anywhere, max_size=12)))
    followed, begin = Frames(), 0
    assert followed.between
    for cut in [*cuts, len(stream)]:
        followed.follow(stream[begin:cut])
        begin = cut
        assert followed.between is (cut in ends), cut


@pytest.mark.parametrize(
    "odd",
    [
        close_frame(1000, ""),  # nothing may follow it
        b"\x81\x80....",  # masked, as only clients do
        b"\xa1\x00",  # bits of an extension that nobody knows
        b"\x83\x00",  # and its opcodes
        b"\x8b\x00",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_after_what_is_odd_nobody_knows(odd: bytes, step: int) -> None:
    followed = Frames()
    stream = b"\x81\x01a" + odd + b"\x81\x01a" * 50
    for begin in range(0, len(stream), step):
        followed.follow(stream[begin : begin + step])
    assert not followed.between


@pytest.mark.parametrize("reason", ["", "why", "x" * 200, "é" * 100, "x" + "é" * 100])
def test_a_close_frame_is_a_proper_one(reason: str) -> None:
    frame = close_frame(1012, reason)
    assert (frame[0], frame[1]) == (0x88, len(frame) - 2)
    assert len(frame) <= 127
    close = Close.parse(frame[2:])
    assert close.code == 1012
    assert reason.startswith(close.reason)
    assert len(close.reason.encode()) >= min(len(reason.encode()), MAX_REASON - 1)
