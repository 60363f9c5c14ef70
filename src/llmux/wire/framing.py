"""Where one HTTP/1 message may end, and where the next may therefore begin.

Pure. httptools cannot be paused and does not tell where it stopped, so a reader that fed it all it has would hand
it bytes of the next message too. A head, and a chunked body, always end in an empty line; readers feed the parser
up to an empty line at most and look whether the message is over.
"""

from __future__ import annotations

EMPTY_LINE = b"\r\n\r\n"


def cut(tail: bytes, data: bytes) -> tuple[int, bytes]:
    """How many bytes of `data` may be fed next, and the `tail` for the next call.

    The first answer reaches just past the first CR LF CR LF that ends in `data`, or is all of it. `tail` is what a
    former call gave, empty at the start of a message: up to three bytes that might begin an empty line.
    """
    if tail:
        at = (tail + data[:3]).find(EMPTY_LINE)
        if at >= 0:
            return at + 4 - len(tail), b""
    at = data.find(EMPTY_LINE)
    if at >= 0:
        return at + 4, b""
    return len(data), (tail + data[-3:])[-3:]
