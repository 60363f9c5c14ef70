"""Pages that a reader follows step by step: each step is taken, in its order."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llmux.cli.setup import RECIPES
from llmux.config import Config
from tests.docs.documents import ROOT, blocks, write_examples
from tests.e2e.conftest import llmux_process

DOCS = ROOT / "docs"
TOOLS = ("curl", "setsid")


def with_llmux(folder: Path) -> dict[str, str]:
    """An environment in which `llmux` is the one that is tested."""
    program = folder / "bin" / "llmux"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m llmux \"$@\"\n")
    program.chmod(0o755)
    return os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}


def run(script: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["sh", "-eu", script], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {', '.join(TOOLS)}")
@pytest.mark.anyio
async def test_quick_start(tmp_path: Path, free_ports: tuple[int, int]) -> None:
    environment = with_llmux(tmp_path)
    write_examples(DOCS / "quick-start.md", tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("8001", str(free_ports[0])).replace("8002", str(free_ports[1])))
    checked = await asyncio.to_thread(run, "check.sh", tmp_path, environment)
    assert "llama" in checked
    async with llmux_process("-p", "0", cwd=tmp_path, PATH=environment["PATH"]) as server:
        ask = tmp_path / "ask.sh"
        ask.write_text(ask.read_text().replace("http://localhost:3000", server.url))
        told = await asyncio.to_thread(run, "ask.sh", tmp_path, environment | {"LLMUX_URL": server.url})
        assert told.count('"chat.completion"') == 2
        assert re.search(r"llama\s+asleep", told)
        assert re.search(r"mistral\s+awake", told)
        assert await server.stop() == 0
    for name, port in zip(("llama", "mistral"), free_ports, strict=True):
        hook = environment | {"LLMUX_MODEL": name, "LLMUX_PORT": str(port)}
        (tmp_path / "stop.sh").write_text("./toy.sh sleep")
        await asyncio.to_thread(run, "stop.sh", tmp_path, hook)


@pytest.mark.parametrize(
    "example", [block.name for block in blocks(DOCS / "recipes.md", "sh")], ids=lambda name: name.removesuffix(".sh")
)
def test_recipes(example: str, tmp_path: Path) -> None:
    write_examples(DOCS / "recipes.md", tmp_path)
    run(example, tmp_path, with_llmux(tmp_path))
    config = Config.from_file(tmp_path / "config.yaml")
    assert len(config.models) == 2
    script = RECIPES[example.removesuffix(".sh")].script
    for model in config.models.values():
        for hook in (model.wake, model.sleep, model.alive):
            assert f"./hooks/{script}.sh" in hook
    assert os.access(tmp_path / "hooks" / f"{script}.sh", os.X_OK)


def test_from_llama_swap(tmp_path: Path) -> None:
    document = DOCS / "llama-swap.md"
    write_examples(document, tmp_path)
    environment = with_llmux(tmp_path)
    run("take-over.sh", tmp_path, environment)
    config = Config.from_file(tmp_path / "config.yaml")
    before = yaml.safe_load((tmp_path / "llama-swap.cfg").read_text())
    assert set(config.models) == set(before["models"])
    assert config.models["small"].aliases == ["gpt-4o-mini"]
    assert f"./hooks/process.sh wake llama-server --port {config.models['large'].port}" in config.models["large"].wake
    (tmp_path / "llama-swap.cfg").write_text((tmp_path / "groups.cfg").read_text())
    (tmp_path / "config.yaml").unlink()
    run("take-over.sh", tmp_path, environment)
    made = yaml.safe_load((tmp_path / "config.yaml").read_text())
    told = yaml.safe_load((tmp_path / "groups.txt").read_text())
    places = {
        name: {key: model[key] for key in ("needs", "pinned") if key in model} for name, model in made["models"].items()
    }
    assert {"devices": made["devices"], "models": places} == told
