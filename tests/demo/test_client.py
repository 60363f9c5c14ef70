from __future__ import annotations

import asyncio

import pytest

from llmux.demo.client import ChatError, Piece, stream_chat
from llmux.testing import Fault, SimulatedBackend
from llmux.testing.backend import answer_text
from tests.ports import nobodys_port

pytestmark = pytest.mark.anyio


async def ask(address: tuple[str, int], model: str = "alpha") -> list[Piece]:
    return [piece async for piece in stream_chat(address, model, "how are you?")]


async def test_pieces_and_then_their_number() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=1e6, tokens=9)
    async with backend.serving() as address:
        *pieces, last = await ask(address)
    assert [piece.tokens for piece in pieces] == [None] * 9
    assert "".join(piece.text for piece in pieces) == answer_text("alpha", "how are you?", 9)
    assert last == Piece("", 9)
    assert backend.requests[0].header("content-type") == "application/json"


async def test_an_error_status_says_what_the_server_said() -> None:
    async with SimulatedBackend(faults=[Fault("status", status=503)]).serving() as address:
        with pytest.raises(ChatError, match="503: as scripted"):
            await ask(address)


@pytest.mark.parametrize("after", [None, 2])
async def test_a_dropped_connection_is_not_an_answer(after: int | None) -> None:
    async with SimulatedBackend(tokens_per_second=1e6, faults=[Fault("die", after=after)]).serving() as address:
        with pytest.raises((ChatError, ConnectionResetError)):
            await ask(address)


async def test_what_is_not_http_is_not_an_answer() -> None:
    async with SimulatedBackend(faults=[Fault("malformed")]).serving() as address:
        with pytest.raises(ChatError, match="not HTTP"):
            await ask(address)


async def test_nobody_there() -> None:
    with nobodys_port() as port, pytest.raises(OSError, match="Connect"):
        await ask(("127.0.0.1", port))


@pytest.mark.parametrize("cut", [1, 7, 1000])
async def test_events_may_come_in_any_pieces_and_errors_among_them(cut: int) -> None:
    text = "é" * 3
    events = (
        ": a comment\r\n\r\n"
        f'data: {{"choices": [{{"delta": {{"content": "{text}"}}}}]}}\r\n\r\n'
        'data: {"error": {"message": "the model died"}}\n\n'
    ).encode()
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(events) + events

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(raw), cut):
            writer.write(raw[start : start + cut])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    pieces: list[Piece] = []

    async def collect(address: tuple[str, int]) -> None:
        async for piece in stream_chat(address, "alpha", "hi"):
            pieces.append(piece)

    async with server:
        with pytest.raises(ChatError, match="the model died"):
            await collect(server.sockets[0].getsockname())
    assert pieces == [Piece(text)]
