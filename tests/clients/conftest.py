"""A gateway with real hooks in front of two simulated backends, as a newcomer's configuration has it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from llmux import Config, ModelConfig, Switcher, build_app
from llmux.testing import SimulatedBackend


class World:
    """Models `alpha` (alias `gpt-4o`) and `org/beta` (alias `claude`). Their backends know no other names."""

    def __init__(self, url: str, backends: dict[str, SimulatedBackend], switcher: Switcher) -> None:
        self.url = url
        self.backends = backends
        self.switcher = switcher


@pytest.fixture
async def world() -> AsyncIterator[World]:
    aliases = {"alpha": "gpt-4o", "org/beta": "claude"}
    backends = {name: SimulatedBackend(name, tokens_per_second=2000, strict_model=True) for name in aliases}
    async with contextlib.AsyncExitStack() as stack:
        models = {}
        for name, backend in backends.items():
            _, port = await stack.enter_async_context(backend.serving())
            models[name] = ModelConfig(
                port=port,
                wake="true",
                sleep="true",
                alive="false",
                aliases=[aliases[name]],
                metadata={"context_length": 8192},
            )
        app, switcher = await build_app(Config(models=models, default_model="alpha"))
        host, port = await stack.enter_async_context(app.serving(host="127.0.0.1", port=0))
        yield World(f"http://{host}:{port}", backends, switcher)
