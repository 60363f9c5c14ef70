"""LiteLLM's SDK and LangChain's OpenAI client, where they are installed: they are large, and not needed otherwise.

`make test-clients` installs them, and has these tests fail without.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from typing import Any

import pytest

from tests.clients.conftest import World

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("default")]  # they are not ours to mend


def client(module: str) -> Any:
    if os.environ.get("LLMUX_TEST_CLIENTS") == "required":
        return importlib.import_module(module)
    return pytest.importorskip(module, reason=f"{module} is not installed: make test-clients")


async def test_litellm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it looks for prices on the network

    def talk() -> None:  # in a thread, as its Ollama provider asks /api/show with a client that blocks
        litellm = client("litellm")
        ask = {"messages": [{"role": "user", "content": "hello"}], "api_key": "none", "timeout": 20}
        for model, base in (("openai/gpt-4o", "/v1"), ("anthropic/alpha", ""), ("ollama_chat/alpha", "")):
            answer = litellm.completion(model=model, api_base=world.url + base, **ask)
            assert answer.choices[0].message.content.startswith("alpha heard: hello"), model
            stream = litellm.completion(model=model, api_base=world.url + base, stream=True, **ask)
            text = "".join([chunk.choices[0].delta.content or "" for chunk in stream])
            assert text.startswith("alpha heard: hello"), model
        vectors = litellm.embedding(model="openai/claude", input=["a"], api_base=f"{world.url}/v1", api_key="none")
        assert vectors.data

    await asyncio.to_thread(talk)


async def test_langchain(world: World) -> None:
    langchain_openai = client("langchain_openai")
    options = {"base_url": f"{world.url}/v1", "api_key": "none"}
    chat = langchain_openai.ChatOpenAI(model="claude", **options)
    assert (await chat.ainvoke("hello")).content.startswith("org/beta heard: hello")
    pieces = [piece.content async for piece in chat.astream("hello")]
    assert "".join(pieces).startswith("org/beta heard: hello")
    responses = langchain_openai.ChatOpenAI(model="gpt-4o", use_responses_api=True, **options)
    assert (await responses.ainvoke("hello")).text.startswith("alpha heard: hello")
    vectors = langchain_openai.OpenAIEmbeddings(model="claude", check_embedding_ctx_length=False, **options)
    assert await vectors.aembed_query("hello")
