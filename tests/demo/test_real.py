"""The demo's own models: real weights, a real llama.cpp server, the written hooks, and llmux in between."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
from pathlib import Path

import openai
import pytest
from rich.console import Console

from llmux.app import build_app
from llmux.config import Config
from llmux.demo import DemoOptions, run_demo
from llmux.demo.client import stream_chat
from llmux.demo.files import DemoFiles, write_files
from llmux.demo.models import MODELS, DemoModel

pytestmark = [pytest.mark.demo, pytest.mark.timeout(300)]

QUESTION, ANSWER = "What is the capital of France?", "Paris"


@pytest.fixture
def written(tmp_path: Path) -> DemoFiles:
    for model in MODELS.values():
        assert model.weights().stat().st_size > 50_000_000
    return write_files(tmp_path, simulated=False, port=0)


@pytest.fixture
def config(written: DemoFiles) -> Config:
    return Config.from_file(written.config)


def hook(files: DemoFiles, model: str, port: int, verb: str) -> int:
    env = {**os.environ, "LLMUX_MODEL": model, "LLMUX_PORT": str(port)}
    return subprocess.run([files.script, verb], env=env, timeout=120, check=False).returncode


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_the_hooks_start_a_server_that_answers_sensibly_and_stop_it(
    model: DemoModel, written: DemoFiles, config: Config
) -> None:
    port = config.models[model.name].port
    assert port is not None

    async def ask() -> str:
        return "".join([piece.text async for piece in stream_chat(("127.0.0.1", port), model.name, QUESTION)])

    try:
        assert hook(written, model.name, port, "alive") != 0
        assert hook(written, model.name, port, "start") == 0, written.log_of(model.name).read_text()
        assert hook(written, model.name, port, "start") == 0
        assert hook(written, model.name, port, "alive") == 0
        answer = asyncio.run(ask()).strip()
        assert ANSWER in answer
        assert answer.isprintable()
    finally:
        stopped = [hook(written, model.name, port, "stop") for _ in range(2)]
    assert stopped == [0, 0]
    assert hook(written, model.name, port, "alive") != 0
    assert not list(written.script.parent.glob("*.pid"))


@pytest.mark.anyio
async def test_the_official_client_streams_from_both_by_turns_through_llmux(written: DemoFiles, config: Config) -> None:
    app, switcher = await build_app(config)
    async with app.serving() as (host, port):  # noqa: SIM117  # the second needs the first one's port
        async with openai.AsyncOpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0) as client:

            async def chat(model: str) -> str:
                stream = await client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": QUESTION}],
                    stream=True,
                    max_tokens=40,
                    timeout=120,
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

            for model in ("smollm2", "gemma3", "smollm2"):
                assert ANSWER in await chat(model)
            at_once = ("smollm2", "gemma3", "gemma3", "smollm2")
            answers = await asyncio.gather(*map(chat, at_once))
            assert all(ANSWER in answer for answer in answers), answers
    cold = switcher.estimated_switch_cost(None, "smollm2")
    there = switcher.estimated_switch_cost("smollm2", "gemma3")
    back = switcher.estimated_switch_cost("gemma3", "smollm2")
    assert cold is not None
    assert there is not None
    assert back is not None
    assert not list(written.script.parent.glob("*.pid"))


def test_the_whole_demo(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    status = run_demo(DemoOptions(dir=tmp_path, port=0, rounds=1), console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert status == 0, shown
    assert "Apache License 2.0" in shown
    assert "Gemma Terms of Use" in shown
    assert "tokens, " in shown
    assert "Sleep" in shown
    assert "100 degrees" in shown
    assert not list(tmp_path.glob("*.pid"))
