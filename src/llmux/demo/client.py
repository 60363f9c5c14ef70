"""A small client for streamed chats: enough HTTP for the demo to be its own customer.

The demo must not need more than llmux itself does, so no client library.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httptools
import msgspec


class ChatError(Exception):
    """The answer was not a stream of tokens; the message says what came instead."""


class Piece(msgspec.Struct, frozen=True):
    """Some text of an answer; `tokens` is the whole answer's count, and comes last."""

    text: str = ""
    tokens: int | None = None


async def stream_chat(address: tuple[str, int], model: str, prompt: str) -> AsyncGenerator[Piece, None]:
    """Ask `model` at `address` and give its answer as it comes.

    Raises:
        ChatError: on any other status than 200, or when the stream breaks off.
        OSError: nobody listens there.
    """
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(_request(address, model, prompt))
        answer = _Answer()
        while not answer.complete:
            data = await reader.read(65536)
            if not data:
                raise ChatError("the connection was closed in the middle of the answer")
            for event in answer.feed(data):
                if piece := _piece(event):
                    yield piece
        if answer.status != 200:
            raise ChatError(f"{answer.status}: {_message(answer.rest)}")
    finally:
        writer.close()


def _request(address: tuple[str, int], model: str, prompt: str) -> bytes:
    question = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body = msgspec.json.encode(question)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        f"Host: {address[0]}:{address[1]}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


class _Answer:
    """Callbacks of the parser, and server-sent events out of the body."""

    def __init__(self) -> None:
        self.complete = False
        self.status = 0
        self.rest = b""
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> list[bytes]:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ChatError(f"the answer is not HTTP: {error}") from error
        if self.status != 200:
            return []
        *events, self.rest = self.rest.replace(b"\r\n", b"\n").split(b"\n\n")
        return events

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.rest += data

    def on_message_complete(self) -> None:
        self.complete = True


def _piece(event: bytes) -> Piece | None:
    if not event.startswith(b"data: {"):
        return None  # a comment, or [DONE]
    data: dict[str, Any] = msgspec.json.decode(event.removeprefix(b"data: "))
    if "error" in data:
        raise ChatError(str(data["error"].get("message", data["error"])))
    text = "".join(choice["delta"].get("content") or "" for choice in data.get("choices", ()))
    tokens = (data.get("usage") or {}).get("completion_tokens")
    return Piece(text, tokens) if text or tokens is not None else None


def _message(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return body[:200].decode("utf-8", "replace")
