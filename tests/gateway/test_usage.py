"""Tokens are counted from what answers say, once they are complete, and never by guessing."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable

import httpx
import pytest

from llmux import Config, build_app
from llmux.gateway.usage import TAIL_BYTES, used_tokens
from llmux.testing import SimulatedBackend

OPENAI = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 3},
}


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b'{"choices": [], "usage": ' + json.dumps(OPENAI).encode() + b"}", (11, 7)),
        (b'"usage" : {"prompt_tokens":5,"total_tokens":5}}', (5, 0)),  # embeddings
        (b'event: message_delta\ndata: {"usage":{"input_tokens":4,"output_tokens":9}}\n\n', (4, 9)),
        (b'data: {"usage":{"output_tokens":9}}\n\ndata: {"type":"message_stop"}\n\n', (0, 9)),
        (
            b'"usage":{"prompt_tokens":1,"completion_tokens":1}} "usage":{"prompt_tokens":2,"completion_tokens":2}',
            (2, 2),
        ),
        (b'"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\ndata: {"usage":null}\n\n', (3, 1)),
        (b'{"usage":null}', None),
        (b'{"usage":{"prompt_tok\r\n', None),  # cut
        (b'{"usage":{"prompt_tokens":1\r\n3\r\n2,"completion_tokens":1}}', None),  # by a chunk boundary
        (b'{"usage":{"prompt_tokens":-1,"completion_tokens":"7","input_tokens":true}}', None),
        (b'{"usage":{"prompt_tokens":1e300}}', None),
        (b'{"content":"\\"usage\\":{\\"prompt_tokens\\":99}"}', None),  # what a model has written
        (b'"usage":' + b'{"a":' * 800, None),
        (b"", None),
    ],
)
def test_reading(tail: bytes, expected: tuple[int, int] | None) -> None:
    assert used_tokens(tail) == expected


def test_what_is_far_from_the_end_is_not_looked_for() -> None:
    assert used_tokens(b'"usage":{"prompt_tokens":1}' + b" " * (2 * TAIL_BYTES)) is None


Counted = tuple[float, float]


async def counted(port: int, ask: Callable[[httpx.AsyncClient], Awaitable[None]]) -> Counted:
    """What the metrics say after `ask` was served by the backend at `port`."""
    model = {"port": port, "wake": "true", "sleep": "true", "alive": "true"}
    app, _ = await build_app(Config.model_validate({"models": {"m": model}}))
    async with (
        app.serving(port=0) as (host, listening),
        httpx.AsyncClient(base_url=f"http://{host}:{listening}", timeout=30) as client,
    ):
        await ask(client)
        lines = (await client.get("/metrics")).text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("llmux_tokens_total"))
    return tuple(float(values[f'llmux_tokens_total{{model="m",type="{kind}"}}']) for kind in ("input", "output"))  # type: ignore[return-value]  # two of them


def chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "one two three"}], **more}


@pytest.mark.anyio
async def test_answers_whole_and_streamed_are_counted() -> None:
    told: list[dict[str, int]] = []

    async def ask(client: httpx.AsyncClient) -> None:
        told.append((await client.post("/v1/chat/completions", json=chat())).json()["usage"])
        streamed = chat(stream=True, stream_options={"include_usage": True})
        text = (await client.post("/v1/chat/completions", json=streamed)).text
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        told.append(events[-1]["usage"])
        await client.post("/v1/chat/completions", json=chat(stream=True))  # has no usage

    async with SimulatedBackend("m", tokens=5, tokens_per_second=1e6).serving() as (_, port):
        found = await counted(port, ask)
    assert len(told) == 2
    assert list(found) == [sum(one[kind] for one in told) for kind in ("prompt_tokens", "completion_tokens")]
    assert found[1] == 10


async def answering(pieces: list[bytes], head: bytes) -> Counted:
    """What is counted of an answer that comes in these pieces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in request.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(head)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    async def ask(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/chat/completions", json=chat())
        assert answer.status_code in (200, 400)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await counted(server.sockets[0].getsockname()[1], ask)


EVENT = b"data: " + json.dumps({"choices": [], "usage": OPENAI}).encode() + b"\n\ndata: [DONE]\n\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 50, 4096])
@pytest.mark.anyio
async def test_a_usage_in_any_pieces_is_found(size: int) -> None:
    body = b"data: {}\n\n" * 100 + EVENT
    assert await answering([body[at : at + size] for at in range(0, len(body), size)], STREAM) == (11, 7)


@pytest.mark.anyio
async def test_a_compressed_answer_and_an_error_are_not_counted() -> None:
    body = gzip.compress(json.dumps({"usage": OPENAI}).encode())
    compressed = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert await answering([body], compressed) == (0, 0)
    plain = json.dumps({"usage": OPENAI}).encode()
    assert await answering([plain], b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % len(plain)) == (0, 0)
