"""WebSockets through the whole of llmux: the official client's realtime API, and switches while one is open."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from llmux import Config, ModelConfig, PolicyConfig, build_app
from llmux.testing import SimulatedBackend
from tests.clients.conftest import World

pytestmark = pytest.mark.anyio


async def realtime(connection: ServerConnection) -> None:
    """As much of the realtime API as a conversation in text takes."""
    assert connection.request is not None
    await connection.send(
        json.dumps({"type": "session.created", "event_id": "1", "session": {"path": connection.request.path}})
    )
    async for message in connection:
        said = json.loads(message)
        await connection.send(
            json.dumps({"type": "response.output_text.delta", "event_id": "2", "delta": said["type"]})
        )


@contextlib.asynccontextmanager
async def talking(drain: float | None) -> AsyncIterator[World]:
    """`voice`, which speaks WebSocket, and `text`, which does not; one of them is awake at a time."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(realtime, "127.0.0.1", 0))
        text = SimulatedBackend("text", tokens_per_second=2000)
        _, port = await stack.enter_async_context(text.serving())
        hooks: dict[str, Any] = {"wake": "true", "sleep": "true", "alive": "false"}
        voice = ModelConfig(port=server.sockets[0].getsockname()[1], aliases=["gpt-realtime"], **hooks)
        models = {"voice": voice, "text": ModelConfig(port=port, **hooks)}
        config = Config(models=models, policy=PolicyConfig(name="fifo"), drain_timeout_secs=drain)
        app, switcher = await build_app(config)
        host, port = await stack.enter_async_context(app.serving(host="127.0.0.1", port=0))
        yield World(f"{host}:{port}", {"text": text}, switcher)


async def test_the_official_clients_realtime_api() -> None:
    async with (
        talking(None) as world,
        openai.AsyncOpenAI(base_url=f"http://{world.url}/v1", api_key="none", max_retries=0) as client,
        client.realtime.connect(model="gpt-realtime") as connection,
    ):
        created = json.loads(await connection.recv_bytes())
        assert created["session"]["path"] == "/v1/realtime?model=voice"
        assert world.switcher.in_flight_count("voice") == 1
        await connection.response.create()
        assert json.loads(await connection.recv_bytes())["delta"] == "response.create"


async def test_a_switch_waits_for_it_as_for_a_stream() -> None:
    async with (
        talking(None) as world,
        openai.AsyncOpenAI(base_url=f"http://{world.url}/v1", api_key="none", max_retries=0) as client,
    ):
        async with connect(f"ws://{world.url}/upstream/voice/x", proxy=None) as socket:
            await socket.recv()
            asking = asyncio.create_task(client.completions.create(model="text", prompt="hello"))
            while not world.switcher.queue_depths()["text"]:  # noqa: ASYNC110  (nothing tells)
                await asyncio.sleep(0.01)
            await socket.send('{"type": "still here"}')
            assert "still here" in str(await socket.recv())
            assert not world.backends["text"].requests
        assert (await asking).choices[0].text.startswith("text heard")


async def test_a_drain_that_ends_closes_it() -> None:
    async with (
        talking(0.2) as world,
        openai.AsyncOpenAI(base_url=f"http://{world.url}/v1", api_key="none", max_retries=0) as client,
        connect(f"ws://{world.url}/upstream/voice/x", proxy=None) as socket,
    ):
        await socket.recv()
        answer = await client.completions.create(model="text", prompt="hello")
        assert answer.choices[0].text.startswith("text heard")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert world.switcher.in_flight_count("voice") == 0


async def test_the_official_client_talks_to_a_simulated_backend_through_llmux() -> None:
    backend = SimulatedBackend("alpha", tokens_per_second=1e6, tokens=5)
    async with backend.serving() as (_, port):
        models = {"alpha": ModelConfig(port=port, aliases=["gpt-realtime"], wake="true", sleep="true", alive="false")}
        app, _ = await build_app(Config(models=models))
        async with (
            app.serving() as (host, bound),
            openai.AsyncOpenAI(base_url=f"http://{host}:{bound}/v1", api_key="none", max_retries=0) as client,
            client.realtime.connect(model="gpt-realtime") as connection,
        ):
            text: Any = {"type": "input_text", "text": "how are you"}
            await connection.conversation.item.create(item={"type": "message", "role": "user", "content": [text]})
            await connection.response.create()
            said = ""
            async for event in connection:
                if event.type == "response.output_text.delta":
                    said += event.delta
                elif event.type == "response.done":
                    break
    assert said == "alpha heard: how are you"
    assert backend.requests[-1].query == "model=alpha"
