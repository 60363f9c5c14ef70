"""The nine end-to-end cases of llmux 2.4.0, through the Python API and through the command line with a 2.4.0 file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llmux import Config, ModelConfig, PolicyConfig, build_app
from llmux.testing import SimulatedBackend
from tests.e2e.conftest import llmux_process

pytestmark = pytest.mark.anyio

CostOf = Callable[[str | None, str], Awaitable[float | None]]


class World:
    """Two models behind an llmux."""

    def __init__(self, client: httpx.AsyncClient, a: SimulatedBackend, b: SimulatedBackend, cost: CostOf) -> None:
        self.client = client
        self.a, self.b = a, b
        self.cost = cost

    async def chat(self, model: str) -> tuple[int, dict[str, Any]]:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        response = await self.client.post("/v1/chat/completions", json=body)
        return response.status_code, response.json()


class Hooks:
    def __init__(self, wake: float = 0.0, sleep: float = 0.0) -> None:
        self.wake = f"sleep {wake}"
        self.sleep = f"sleep {sleep}"


MakeWorld = Callable[[Hooks, Hooks], contextlib.AbstractAsyncContextManager[World]]


@contextlib.asynccontextmanager
async def by_api(hooks_a: Hooks, hooks_b: Hooks) -> AsyncIterator[World]:
    a, b = SimulatedBackend("model-a", tokens_per_second=1e6), SimulatedBackend("model-b", tokens_per_second=1e6)
    async with a.serving() as (_, port_a), b.serving() as (_, port_b):
        config = Config(
            models={
                "model-a": ModelConfig(port=port_a, wake=hooks_a.wake, sleep=hooks_a.sleep, alive="true"),
                "model-b": ModelConfig(port=port_b, wake=hooks_b.wake, sleep=hooks_b.sleep, alive="true"),
            },
            policy=PolicyConfig(request_timeout_secs=30, drain_before_switch=True, min_active_secs=0),
            port=0,
        )
        app, switcher = await build_app(config)

        async def cost(from_model: str | None, to_model: str) -> float | None:
            return switcher.estimated_switch_cost(from_model, to_model)

        async with (
            app.serving(host="127.0.0.1", port=0) as (host, port),
            httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=30.0) as client,
        ):
            yield World(client, a, b, cost)


@contextlib.asynccontextmanager
async def by_command_line(hooks_a: Hooks, hooks_b: Hooks, folder: Path, kind: str) -> AsyncIterator[World]:
    a, b = SimulatedBackend("model-a", tokens_per_second=1e6), SimulatedBackend("model-b", tokens_per_second=1e6)
    async with a.serving() as (_, port_a), b.serving() as (_, port_b):
        content = {
            "models": {
                "model-a": {"port": port_a, "wake": hooks_a.wake, "sleep": hooks_a.sleep, "alive": "true"},
                "model-b": {"port": port_b, "wake": hooks_b.wake, "sleep": hooks_b.sleep, "alive": "true"},
            },
            "policy": {"request_timeout_secs": 30, "drain_before_switch": True, "min_active_secs": 0},
            "port": 3000,
        }
        path = folder / f"config.{kind}"
        dump = yaml.safe_dump if kind == "yaml" else json.dumps
        await asyncio.to_thread(path.write_text, dump(content))
        async with (
            llmux_process("-c", str(path), "-p", "0") as server,
            httpx.AsyncClient(base_url=server.url, timeout=30.0) as client,
        ):

            async def cost(from_model: str | None, to_model: str) -> float | None:
                metrics = (await client.get("/metrics")).text
                pair = rf'from="{from_model or "idle"}",to="{to_model}"'
                found = re.search(rf"^llmux_switch_cost_ema_seconds\{{{pair}\}} (\S+)$", metrics, re.MULTILINE)
                return float(found[1]) if found else None

            yield World(client, a, b, cost)


@pytest.fixture(params=["api", "yaml", "json"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> MakeWorld:
    if request.param == "api":
        return by_api
    return lambda a, b: by_command_line(a, b, tmp_path, request.param)


async def test_a_request_is_answered_by_its_models_backend(world: MakeWorld) -> None:
    async with world(Hooks(), Hooks()) as w:
        status, body = await w.chat("model-a")
        assert status == 200
        assert body["model"] == "model-a"
        assert (len(w.a.requests), len(w.b.requests)) == (1, 0)


async def test_a_switch_between_two_models(world: MakeWorld) -> None:
    async with world(Hooks(0.01, 0.01), Hooks(0.01, 0.01)) as w:
        for model in ("model-a", "model-b"):
            status, body = await w.chat(model)
            assert status == 200
            assert body["model"] == model
        assert (len(w.a.requests), len(w.b.requests)) == (1, 1)


async def test_no_switch_for_repeated_requests(world: MakeWorld) -> None:
    async with world(Hooks(0.01, 0.01), Hooks(0.01, 0.01)) as w:
        for _ in range(5):
            status, body = await w.chat("model-a")
            assert (status, body["model"]) == (200, "model-a")
        assert (len(w.a.requests), len(w.b.requests)) == (5, 0)
        assert await w.cost("model-a", "model-b") is None
        assert await w.cost(None, "model-b") is None


async def test_an_unknown_model_is_not_found(world: MakeWorld) -> None:
    async with world(Hooks(), Hooks()) as w:
        status, body = await w.chat("nonexistent")
        assert status == 404
        assert "not found" in body["error"]["message"]
        assert body["error"]["type"] == "llmux_error"


async def test_a_cold_start_takes_the_wake_and_a_switch_takes_sleep_and_wake(world: MakeWorld) -> None:
    async with world(Hooks(0.1, 0.05), Hooks(0.1, 0.05)) as w:
        begin = time.perf_counter()
        assert (await w.chat("model-a"))[0] == 200
        assert time.perf_counter() - begin >= 0.1
        begin = time.perf_counter()
        assert (await w.chat("model-b"))[0] == 200
        assert time.perf_counter() - begin >= 0.15


async def test_ten_concurrent_requests_for_one_model(world: MakeWorld) -> None:
    async with world(Hooks(0.05, 0.01), Hooks(0.05, 0.01)) as w:
        answers = await asyncio.gather(*(w.chat("model-a") for _ in range(10)))
        assert [(status, body["model"]) for status, body in answers] == [(200, "model-a")] * 10
        assert len(w.a.requests) == 10


async def test_six_interleaved_requests_for_two_models(world: MakeWorld) -> None:
    async with world(Hooks(0.05, 0.01), Hooks(0.05, 0.01)) as w:
        models = ["model-a", "model-b"] * 3
        answers = await asyncio.gather(*(w.chat(model) for model in models))
        assert [(status, body["model"]) for status, body in answers] == [(200, model) for model in models]
        assert len(w.a.requests) + len(w.b.requests) == 6


async def test_the_list_of_models(world: MakeWorld) -> None:
    async with world(Hooks(), Hooks()) as w:
        response = await w.client.get("/v1/models")
        assert response.status_code == 200
        body = response.json()
        assert body["object"] == "list"
        assert [model["id"] for model in body["data"]] == ["model-a", "model-b"]
        for model in body["data"]:
            assert (model["object"], model["owned_by"]) == ("model", "llmux")
            assert isinstance(model["created"], int)
        assert (len(w.a.requests), len(w.b.requests)) == (0, 0)


async def test_costs_are_recorded_per_direction(world: MakeWorld) -> None:
    async with world(Hooks(0.05, 0.02), Hooks(0.15, 0.02)) as w:
        assert await w.cost(None, "model-a") is None
        assert await w.cost(None, "model-b") is None
        assert (await w.chat("model-a"))[0] == 200
        cold = await w.cost(None, "model-a")
        assert cold is not None
        assert cold >= 0.05
        assert (await w.chat("model-b"))[0] == 200
        a_to_b = await w.cost("model-a", "model-b")
        assert a_to_b is not None
        assert a_to_b >= 0.17
        assert await w.cost("model-b", "model-a") is None
        assert (await w.chat("model-a"))[0] == 200
        b_to_a = await w.cost("model-b", "model-a")
        assert b_to_a is not None
        assert b_to_a >= 0.07
        assert await w.cost("model-a", "model-b") == a_to_b  # that of the other direction is not touched
        assert await w.cost(None, "model-a") == cold
