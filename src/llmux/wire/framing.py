"""Where one HTTP/1 message may end, and where the next may therefore begin; and the reading of heads up to there.

Pure. httptools cannot be paused and does not tell where it stopped, so a reader that fed it all it has would hand
it bytes of the next message too. A head, and a chunked body, always end in an empty line; readers feed the parser
up to an empty line at most and look whether the message is over.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final, Protocol

from httptools import HttpParserError, HttpParserUpgrade

from llmux.errors import LlmuxError
from llmux.wire.known import Key, without_length

EMPTY_LINE: Final = b"\r\n\r\n"


class Parser(Protocol):
    """What is used of httptools' two parsers."""

    def feed_data(self, data: bytes, /) -> None: ...


def cut(tail: bytes, data: bytes, start: int = 0) -> tuple[int, bytes]:
    """Up to where `data`, which was fed as far as `start`, may be fed next, and the `tail` for the next call.

    The first answer is just past the first CR LF CR LF that ends behind `start`, or the end. `tail` is what a former
    call gave, empty at the start of a message: up to three bytes that might begin an empty line.
    """
    if tail:
        at = (tail + data[start : start + 3]).find(EMPTY_LINE)
        if at >= 0:
            return start + at + 4 - len(tail), b""
    at = data.find(EMPTY_LINE, start)
    if at >= 0:
        return at + 4, b""
    return len(data), (tail + data[max(start, len(data) - 3) :])[-3:]


class HeadReader:
    """Feeds heads to llhttp, which judges them, and keeps the bytes of one for whoever cuts it into lines.

    What requests and responses have in common. A head that comes in one piece, as nearly all do, is not copied.
    """

    __slots__ = ("_head", "_head_size", "_headers_done", "_parser", "_tail")

    def _expect_head(self) -> None:
        """The next byte begins a head, and a message of its own."""
        self._parser: Parser | None = None  # letting go of it also breaks the cycle with its callbacks
        self._head: bytearray | None = None
        self._head_size = 0
        self._headers_done = False
        self._tail = b""

    def _feed_head(self, data: bytes) -> bytes:
        """Take in `data` up to the first empty line; returns what is left."""
        if self._head is None and (at := data.find(EMPTY_LINE)) >= 0:
            end = at + len(EMPTY_LINE)
            self._head_size = end
            if end > self._head_room():
                raise self._too_large()
            split = without_length(data, end)
            if split is None:
                self._read(data[:end])
            elif not self._recall(split[0], split[1]):
                self._read(data[:end])
                if self._headers_done:
                    self._remember(split[0], split[1])
            return data[end:]
        at = 0
        while at < len(data):  # many empty lines may come before a head: what is left is not copied for each
            end, self._tail = cut(self._tail, data, at)
            piece = data[at:end]
            at = end
            self._head_size = len(piece) if self._head is None else len(self._head) + len(piece)
            if self._head_size > self._head_room():
                raise self._too_large()
            self._read(piece)
            if self._headers_done or self._head is None:  # the second: an interim response
                break
        return data[at:]

    def _read(self, piece: bytes) -> None:
        """Have `piece` of a head, or all of it, judged; and what it says taken in once that is all."""
        if self._head is not None:
            self._head += piece
        self._parse(piece)
        if self._headers_done:
            self._end_head(piece if self._head is None else bytes(self._head))
        elif self._head is None:
            self._head = bytearray(piece)

    def _parse(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            parser = self._parser = self._new_parser()
        try:
            parser.feed_data(data)
        except HttpParserUpgrade:
            self._switching()
        except HttpParserError as error:
            raise self._malformed(error) from None

    def on_headers_complete(self) -> None:
        self._headers_done = True

    @abstractmethod
    def _new_parser(self) -> Parser: ...

    @abstractmethod
    def _head_room(self) -> int:
        """Bytes that the head may have."""

    @abstractmethod
    def _end_head(self, head: bytes) -> None:
        """`head` is whole: llhttp has found nothing wrong with it."""

    @abstractmethod
    def _recall(self, key: Key, length: bytes) -> bool:
        """The head is whole: take its meaning from one that was the same but for its length, if there was one."""

    @abstractmethod
    def _remember(self, key: Key, length: bytes) -> None:
        """The head was read: remember what it means."""

    @abstractmethod
    def _too_large(self) -> LlmuxError: ...

    @abstractmethod
    def _malformed(self, error: HttpParserError) -> LlmuxError: ...

    @abstractmethod
    def _switching(self) -> None:
        """The head asks for, or tells of, another protocol than HTTP. Unless this raises, `_end_head` is called too."""
