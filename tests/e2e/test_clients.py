"""The official openai client against the real gateway, real hooks and simulated backends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator

import openai
import pytest

from llmux import Config, ModelConfig, Switcher, build_app
from llmux.testing import Fault, SimulatedBackend

pytestmark = pytest.mark.anyio


class World:
    def __init__(self, client: openai.AsyncOpenAI, backends: dict[str, SimulatedBackend], switcher: Switcher) -> None:
        self.client = client
        self.backends = backends
        self.switcher = switcher

    async def say(self, model: str, words: str) -> str:
        stream = await self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": words}], stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        return "".join(pieces)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    backends = {name: SimulatedBackend(name, tokens_per_second=2000, strict_model=True) for name in ("alpha", "beta")}
    async with contextlib.AsyncExitStack() as stack:
        models = {}
        for name, backend in backends.items():
            _, port = await stack.enter_async_context(backend.serving())
            models[name] = ModelConfig(
                port=port,
                wake="sleep 0.05",
                sleep="sleep 0.02",
                alive="false",
                aliases=[f"gpt-{name}"],
                send_model_as=name,
            )
        app, switcher = await build_app(Config(models=models))
        host, port = await stack.enter_async_context(app.serving(host="127.0.0.1", port=0))
        client = openai.AsyncOpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0, timeout=30)
        yield World(await stack.enter_async_context(client), backends, switcher)


async def test_chats_stream_from_both_models_interleaved(world: World) -> None:
    questions = [("alpha", "one"), ("beta", "two"), ("alpha", "three"), ("beta", "four")]
    answers = await asyncio.gather(*(world.say(model, words) for model, words in questions))
    for (model, words), answer in zip(questions, answers, strict=True):
        assert answer.startswith(f"{model} heard: {words}")
    assert world.switcher.in_flight_count("alpha") == 0
    assert world.switcher.in_flight_count("beta") == 0


async def test_an_audio_file_is_transcribed_by_the_model_that_the_form_names(world: World) -> None:
    sound = bytes(range(256)) * 400
    for model in ("beta", "alpha"):
        heard = await world.client.audio.transcriptions.create(model=model, file=("speech.wav", sound, "audio/wav"))
        assert model in heard.text
        assert str(len(sound)) in heard.text
        record = world.backends[model].requests[-1]
        assert hashlib.sha256(sound).digest() == hashlib.sha256(_file_part(record.body)).digest()


def _file_part(body: bytes) -> bytes:
    boundary = body[: body.index(b"\r\n")]
    rest = body.partition(b'filename="speech.wav"')[2]
    return rest.partition(b"\r\n\r\n")[2].partition(b"\r\n" + boundary)[0]


async def test_embeddings_completions_and_the_list_of_models(world: World) -> None:
    vector = await world.client.embeddings.create(model="alpha", input="hello")
    assert vector.data[0].embedding
    text = await world.client.completions.create(model="beta", prompt="hello", max_tokens=3)
    assert text.choices[0].text
    assert [model.id async for model in world.client.models.list()] == ["alpha", "beta"]
    assert (await world.client.models.retrieve("beta")).owned_by == "llmux"


async def test_an_alias_reaches_the_backend_under_the_models_own_name(world: World) -> None:
    assert (await world.say("gpt-alpha", "hello")).startswith("alpha heard: hello")
    assert world.backends["alpha"].requests[-1].model == "alpha"


async def test_errors_have_the_shape_that_the_client_knows(world: World) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await world.say("gamma", "hello")
    assert missing.value.code == "model_not_found"
    assert missing.value.param == "model"
    world.backends["alpha"].fail(Fault("die", after=2))
    with pytest.raises((openai.APIError, openai.APIConnectionError)):
        await world.say("alpha", "hello")
    assert (await world.say("alpha", "again")).startswith("alpha heard: again")


async def test_a_client_that_gives_up_its_stream_frees_the_model(world: World) -> None:
    stream = await world.client.chat.completions.create(
        model="alpha", messages=[{"role": "user", "content": "hello"}], stream=True, max_tokens=100_000
    )
    await anext(aiter(stream))
    assert world.switcher.in_flight_count("alpha") == 1
    await stream.close()
    assert (await world.say("beta", "now")).startswith("beta heard: now")  # the drain did not wait for the rest
    assert world.switcher.in_flight_count("alpha") == 0
