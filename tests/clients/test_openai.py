"""The official openai client: every route that it has for models, by name, alias and path."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from llmux.testing import Fault
from tests.clients.conftest import World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


@pytest.mark.parametrize(("asked", "model"), [("alpha", "alpha"), ("gpt-4o", "alpha"), ("claude", "org/beta")])
async def test_chat_and_responses_streamed_and_whole(client: openai.AsyncOpenAI, asked: str, model: str) -> None:
    whole = await client.chat.completions.create(model=asked, messages=[{"role": "user", "content": "hello"}])
    assert (whole.choices[0].message.content or "").startswith(f"{model} heard: hello")
    stream = await client.chat.completions.create(
        model=asked,
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    response = await client.responses.create(model=asked, input="hello")
    assert response.output_text == text
    events = await client.responses.create(model=asked, input="hello", stream=True)
    deltas = [event.delta async for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == text


async def test_texts_vectors_and_verdicts(client: openai.AsyncOpenAI) -> None:
    completion = await client.completions.create(model="gpt-4o", prompt="hello", max_tokens=3)
    assert completion.choices[0].text == "alpha heard: hello"
    embedding = await client.embeddings.create(model="claude", input=["a", "b"])
    assert len(embedding.data) == 2
    moderation = await client.moderations.create(model="claude", input="hello")
    assert not moderation.results[0].flagged


async def test_sound_and_pictures(client: openai.AsyncOpenAI) -> None:
    sound = bytes(1000)
    heard = await client.audio.transcriptions.create(model="claude", file=("a.wav", sound))
    assert heard.text == "org/beta heard 1000 bytes of a.wav"
    spoken = await client.audio.speech.create(model="gpt-4o", voice="alloy", input="hello")
    assert spoken.content == b"alpha says hello"
    for drawn, said in (
        (await client.images.generate(model="gpt-4o", prompt="a cat"), b"alpha drew a cat"),
        (
            await client.images.edit(model="claude", image=("a.png", sound), prompt="a dog"),
            b"org/beta drew a dog over 1000",
        ),
    ):
        assert drawn.data is not None
        assert base64.b64decode(drawn.data[0].b64_json or "").startswith(said)


async def test_models_are_listed_and_nothing_is_woken(world: World, client: openai.AsyncOpenAI) -> None:
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == ["alpha", "org/beta"]
    for name in ("org/beta", "claude", "claude:latest"):
        one = (await client.models.retrieve(name)).model_dump()
        assert one["id"] == "org/beta"
        assert (one["state"], one["aliases"]) == ("asleep", ["claude"])
        assert one["metadata"] == {"context_length": 8192}
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gamma")
    assert not any(backend.counts for backend in world.backends.values())


async def test_a_base_url_below_upstream_is_one_models_own(world: World, client: openai.AsyncOpenAI) -> None:
    for name, path in (("alpha", "alpha"), ("org/beta", "org/beta"), ("org/beta", "org%2Fbeta"), ("alpha", "gpt-4o")):
        one = client.with_options(base_url=f"{world.url}/upstream/{path}/v1")
        assert [model.id async for model in one.models.list()] == [name], "its backend's own list"
        text = await one.completions.create(model=name, prompt="hello")
        assert text.choices[0].text.startswith(f"{name} heard")


async def test_without_a_model_it_is_the_default_one(world: World, client: openai.AsyncOpenAI) -> None:
    answer = await client.post("/completions", body={"prompt": "hello"}, cast_to=object)
    assert "alpha heard: hello" in str(answer)


@pytest.mark.parametrize("state", ["waits", "served"])
async def test_what_an_operator_cancels_does_not_come_again(world: World, state: str) -> None:
    """By itself this client tries a 503 twice more, and what was cancelled would be back at once."""
    backend = world.backends["alpha"]
    if state == "waits":
        await world.switcher.drain("alpha")
    else:
        backend.fail(Fault("hang", path="/v1/chat/completions"))
    async with (
        openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", timeout=30) as client,
        httpx.AsyncClient(base_url=f"{world.url}/admin/v1", timeout=30) as admin,
    ):
        assert client.max_retries
        asking = asyncio.create_task(
            client.chat.completions.create(model="alpha", messages=[{"role": "user", "content": "hello"}])
        )
        async with asyncio.timeout(30):
            listed: list[dict[str, Any]] = []
            while not listed or len(backend.requests) != (state == "served"):
                listed = (await admin.get("/requests")).json()["requests"]
        assert (await admin.post(f"/requests/{listed[0]['id']}/cancel")).status_code == 200
        with pytest.raises(openai.InternalServerError) as error:
            await asking
        assert error.value.code == "request_cancelled"
        assert "retry-after" not in error.value.response.headers
        assert (await admin.get("/requests")).json()["requests"] == []
        assert len(backend.requests) == (state == "served")
