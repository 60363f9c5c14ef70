"""docs/cli.md and docs/recipes.md: their tables have what there is, and the examples do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmux.cli.setup import RECIPES
from llmux.config import Config
from tests.docs.documents import ROOT, code, rows, write_examples
from tests.docs.test_examples import names

CLI = ROOT / "docs" / "cli.md"
RECIPES_PAGE = ROOT / "docs" / "recipes.md"


def test_every_command_is_in_the_table() -> None:
    told = {
        tuple(word for word in text.split()[1:] if word.islower())
        for row in rows(CLI, "command", "what it does")
        for text in code(row[0])
    }
    assert {words[:2] if words[:1] == ("hook",) else words for words in told} - {()} == names()


def test_every_recipe_is_in_the_table() -> None:
    table = rows(RECIPES_PAGE, "recipe", "models are", "what to say of a model")
    assert [code(row[0])[0] for row in table] == list(RECIPES)


@pytest.mark.parametrize("example", ["init.sh"])
def test_the_example_runs(example: str, tmp_path: Path) -> None:
    write_examples(CLI, tmp_path)
    program = tmp_path / "bin" / "llmux"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m llmux \"$@\"\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.run(
        ["sh", "-eu", example], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr
    config = Config.from_file(tmp_path / "config.yaml")
    assert list(config.models) == ["small", "large"]
    assert (tmp_path / "hooks" / "llama-server.sh").exists()
    assert "One model is awake at a time" in run.stdout
