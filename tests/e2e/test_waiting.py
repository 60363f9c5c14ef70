"""Waiting, as the official clients see it: comments that they skip, answers that come late, wakes that fail."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from llmux import Config, ModelConfig, PolicyConfig, Switcher, build_app
from tests.e2e.conftest import DEADLINE
from tests.gateway.peers import until

pytestmark = pytest.mark.anyio

MESSAGES = b"""event: message_start
data: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"slow","content":[],\
"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hello"}}

event: message_stop
data: {"type":"message_stop"}

"""
RESPONSES = b"""event: response.output_text.delta
data: {"type":"response.output_text.delta","content_index":0,"delta":"hello","item_id":"i","output_index":0,\
"sequence_number":1,"logprobs":[]}

"""
CHAT = b"""data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"slow","choices":[{"index":0,\
"delta":{"content":"hello"},"finish_reason":null}]}

data: [DONE]

"""
ANSWERS = {b"/v1/chat/completions": CHAT, b"/v1/responses": RESPONSES, b"/v1/messages": MESSAGES}


class World:
    """The model `slow` wakes once the file `go` is there, and fails to if it says so."""

    def __init__(self, folder: Path, port: int, switcher: Switcher) -> None:
        self.folder = folder
        self.port = port
        self.switcher = switcher
        self.url = f"http://127.0.0.1:{port}"

    def wake(self, *, well: bool = True) -> None:
        (self.folder / "go.new").write_text("true" if well else "false")
        (self.folder / "go.new").rename(self.folder / "go")

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=DEADLINE)

    @property
    def waiting(self) -> int:
        return self.switcher.queue_depths()["slow"]


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: asyncio.Event | None = None
) -> None:
    """A backend that answers in the form of the API it is asked by, once `held` is set, and ends the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split()[1]
    if path == b"/health":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    else:
        if held is not None:
            await held.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + ANSWERS[path])
    writer.close()
    await writer.wait_closed()


@contextlib.asynccontextmanager
async def world(folder: Path, *, request_timeout_secs: float | None = None) -> AsyncIterator[World]:
    wake = f"cd {folder}; until [ -e go ]; do sleep 0.02; done; sh ./go"
    backend = await asyncio.start_server(_answer, "127.0.0.1", 0)
    config = Config(
        models={"slow": ModelConfig(port=backend.sockets[0].getsockname()[1], wake=wake, sleep="true", alive="false")},
        waiting_keepalive_secs=0.05,
        policy=PolicyConfig(request_timeout_secs=request_timeout_secs),
    )
    app, switcher = await build_app(config)
    async with backend, app.serving() as (_, port):
        yield World(folder, port, switcher)


@contextlib.asynccontextmanager
async def listening_in(port: int) -> AsyncIterator[tuple[str, bytearray]]:
    """Another address of what listens on `port`, and what is sent from there: the comments that clients skip, too."""
    seen = bytearray()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray | None) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if kept is not None:
                    kept.extend(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(relay(reader, here, None), relay(there, writer, seen))

    async with await asyncio.start_server(join, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen


Say = Callable[[str], Coroutine[Any, Any, str]]


async def chat(url: str, model: str = "slow") -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def respond(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.responses.create(model="slow", input="hi", stream=True)
        return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])


async def message(url: str) -> str:
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client,
        client.messages.stream(model="slow", max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as stream,
    ):
        return "".join([piece async for piece in stream.text_stream])


APIS = pytest.mark.parametrize("say", [chat, respond, message])


@APIS
async def test_official_clients_read_a_stream_that_begins_with_comments(say: Say, tmp_path: Path) -> None:
    async with world(tmp_path) as llmux, listening_in(llmux.port) as (url, seen):
        saying = asyncio.create_task(say(url))
        await until(lambda: seen.count(b": waiting for slow, 0 ahead") > 1)
        llmux.wake()
        assert await saying == "hello"
        assert b": x-llmux-switched: true\n" in seen


@pytest.mark.fault(37)
@APIS
async def test_official_clients_raise_when_the_wake_fails_after_the_head(say: Say, tmp_path: Path) -> None:
    async with world(tmp_path) as llmux, listening_in(llmux.port) as (url, seen):
        saying = asyncio.create_task(say(url))
        await until(lambda: b": waiting" in seen)
        llmux.wake(well=False)
        with pytest.raises((openai.APIError, anthropic.APIError)) as failed:
            await saying
        assert "wake hook of slow failed" in str(failed.value)


@APIS
async def test_official_clients_raise_when_the_wait_takes_too_long(say: Say, tmp_path: Path) -> None:
    async with world(tmp_path, request_timeout_secs=0.6) as llmux, listening_in(llmux.port) as (url, seen):
        with pytest.raises((openai.APIError, anthropic.APIError), match="timed out waiting"):
            await say(url)
        assert b": waiting" in seen
        llmux.wake()


async def test_who_does_not_stream_gets_an_answer_or_an_honest_504(tmp_path: Path) -> None:
    question = {"model": "slow", "messages": [{"role": "user", "content": "hi"}]}
    async with world(tmp_path, request_timeout_secs=0.3) as llmux, llmux.client() as http:
        late = await http.post("/v1/chat/completions", json=question)
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "queue_timeout"
        assert int(late.headers["retry-after"]) >= 1
        assert late.headers["x-llmux-switched"] == "true"  # its model was being woken
        assert int(late.headers["x-llmux-wait-ms"]) >= 299  # the loop's timers may be a millisecond early
    async with world(tmp_path) as llmux, llmux.client() as http:
        waiting = asyncio.create_task(http.post("/v1/chat/completions", json=question))
        await until(lambda: llmux.waiting == 1)
        llmux.wake()
        served = await waiting
        assert served.status_code == 200
        assert served.headers["x-llmux-switched"] == "true"
        again = await http.post("/v1/chat/completions", json=question)
        assert "x-llmux-wait-ms" not in again.headers


@contextlib.asynccontextmanager
async def two_models(held: asyncio.Event) -> AsyncIterator[tuple[int, Switcher]]:
    """`llama` and `mistral`, one at a time. What `llama` is asked is answered once `held` is set, and it does not give
    way before that."""
    async with (
        await asyncio.start_server(partial(_answer, held=held), "127.0.0.1", 0) as llama,
        await asyncio.start_server(_answer, "127.0.0.1", 0) as mistral,
    ):
        config = Config(
            models={
                name: ModelConfig(port=server.sockets[0].getsockname()[1], wake="true", sleep="true", alive="false")
                for name, server in (("llama", llama), ("mistral", mistral))
            },
            waiting_keepalive_secs=0.05,
            policy=PolicyConfig(max_wait_secs=60.0, patience=1000.0),
        )
        app, switcher = await build_app(config)
        async with app.serving() as (_, port):
            yield port, switcher


async def test_who_waits_for_a_policy_that_stays_is_told_for_how_long_at_most_and_why() -> None:
    held = asyncio.Event()
    async with (
        two_models(held) as (port, switcher),
        listening_in(port) as (url, seen),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE) as http,
    ):
        question = {"model": "llama", "messages": [{"role": "user", "content": "hi"}]}
        busy = asyncio.create_task(http.post("/v1/chat/completions", json=question))
        await until(lambda: switcher.in_flight_count("llama") == 1)
        saying = asyncio.create_task(chat(url, "mistral"))
        kept = rb": waiting for mistral, 0 ahead, at most about (\d+) s: llama is kept awake for those it serves\n"

        def told() -> list[int]:
            return [int(seconds) for seconds in re.findall(kept, seen)]

        await until(lambda: len(told()) > 2 and told()[-1] < told()[0])  # it is counted down
        assert told() == sorted(told(), reverse=True)
        held.set()
        assert await saying == "hello"
        assert (await busy).status_code == 200
    assert b": x-llmux-switched: true\n" in seen


async def test_who_waits_for_a_wake_that_fails_has_waited_for_a_switch(tmp_path: Path) -> None:
    async with world(tmp_path) as llmux, llmux.client() as http:
        question = {"model": "slow", "messages": [{"role": "user", "content": "hi"}]}
        waiting = [asyncio.create_task(http.post("/v1/chat/completions", json=question)) for _ in range(2)]
        await until(lambda: llmux.waiting == 2)
        llmux.wake(well=False)
        for answer in waiting:
            refused = await answer
            assert (refused.status_code, refused.headers["x-llmux-switched"]) == (503, "true")
