"""A configuration taken over from llama-swap, in a real llmux with real processes: its groups behave as groups."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from llmux import Config, build_app
from llmux.cli.commands import app as command_line
from llmux.messages import ModelState
from tests.ports import free_port
from tests.recipes.test_recipes import BACKENDS

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("curl", "flock", "setsid")),
        reason="the script needs curl, flock and setsid",
    ),
]

GROUPS = {
    "big": {"members": ["big1", "big2"]},
    "pair": {"swap": False, "members": ["one", "two"]},
    "always": {"swap": False, "exclusive": False, "persistent": True, "members": ["ear"]},
}
MODELS = ("big1", "big2", "one", "two", "ear")


def take_over(folder: Path) -> Config:
    ports = [free_port() for _ in MODELS]
    models = {
        name: {
            "cmd": f"{sys.executable} {BACKENDS} plain {port} {folder} {name}",
            "proxy": f"http://127.0.0.1:{port}",
        }
        for name, port in zip(MODELS, ports, strict=True)
    }
    (folder / "swap.yaml").write_text(yaml.safe_dump({"models": models, "groups": GROUPS}))
    made = CliRunner().invoke(
        command_line, ["init", str(folder / "config.yaml"), "--from-llama-swap", str(folder / "swap.yaml")]
    )
    assert made.exit_code == 0, made.output
    return Config.from_file(folder / "config.yaml").model_copy(update={"port": 0, "on_exit": "sleep"})


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    yield take_over(tmp_path)
    for file in tmp_path.glob("run/*.pid"):
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int(file.read_text()), signal.SIGKILL)


async def test_groups_take_turns_and_run_together_as_they_did(config: Config, tmp_path: Path) -> None:
    app, switcher = await build_app(config)
    async with app.serving() as (host, port), httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=60) as client:

        async def awake_after(*models: str) -> set[str]:
            for model in models:
                assert (await client.get(f"/upstream/{model}/health")).status_code == 200
            return {name for name, state in switcher.model_states().items() if state is ModelState.AWAKE}

        assert await awake_after("big1", "ear") == {"big1", "ear"}
        assert await awake_after("big2") == {"big2", "ear"}, "members of a group that swaps take turns"
        assert await awake_after("one", "two") == {"one", "two", "ear"}, "those of the other one run together"
        assert await awake_after("big1") == {"big1", "ear"}, "and all of them make room"
    assert not list(tmp_path.glob("*.gpu")), "nobody holds memory"
