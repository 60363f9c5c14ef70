"""The official anthropic client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from tests.clients.conftest import World

pytestmark = pytest.mark.anyio

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def client(world: World) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=world.url, api_key="none", max_retries=0, timeout=30) as client:
        yield client


@pytest.mark.parametrize(("asked", "model"), [("alpha", "alpha"), ("claude", "org/beta")])
async def test_messages_streamed_and_whole(client: anthropic.AsyncAnthropic, asked: str, model: str) -> None:
    whole = await client.messages.create(model=asked, max_tokens=100, **HELLO)
    assert whole.content[0].type == "text"
    assert whole.content[0].text.startswith(f"{model} heard: hello")
    async with client.messages.stream(model=asked, max_tokens=100, **HELLO) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == whole.content[0].text
    assert final.stop_reason == "end_turn"


async def test_tokens_are_counted(client: anthropic.AsyncAnthropic) -> None:
    assert (await client.messages.count_tokens(model="claude", **HELLO)).input_tokens == 1


async def test_models_are_listed(client: anthropic.AsyncAnthropic) -> None:
    models = [model async for model in client.models.list()]
    assert [(model.type, model.id) for model in models] == [("model", "alpha"), ("model", "org/beta")]
    assert models[0].created_at.year > 2020
    assert (await client.models.retrieve("claude")).display_name == "org/beta"


async def test_an_unknown_model_is_not_found(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="gamma") as raised:
        await client.messages.create(model="gamma", max_tokens=1, **HELLO)
    assert raised.value.body == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "Model not found: gamma"},
    }
    with pytest.raises(anthropic.NotFoundError, match="gamma") as raised:
        await client.messages.count_tokens(model="gamma", **HELLO)
    assert raised.value.type == "not_found_error"


async def test_what_llmux_refuses_has_the_type_that_this_client_knows(
    client: anthropic.AsyncAnthropic, world: World
) -> None:
    await world.switcher.release(refuse=True)
    with pytest.raises(anthropic.InternalServerError) as raised:
        await client.messages.create(model="claude", max_tokens=1, **HELLO)
    assert raised.value.status_code == 503
    assert raised.value.type == "overloaded_error"
