"""What `hatch_build.py` does to a build: nothing, unless it is asked. `make test-compiled` tests what it makes."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMUX_MYPYC", raising=False)


def requirements() -> list[str]:
    """What has to be there before a wheel is built."""
    return list(WheelBuilder(str(ROOT)).config.dependencies)


def hook() -> Any:
    return WheelBuilder(str(ROOT)).get_build_hooks(str(ROOT))["custom"]


@pytest.mark.parametrize("said", ["", "0", None])
def test_a_plain_build_needs_no_compiler_and_nothing_more_than_hatchling(
    said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        monkeypatch.setenv("LLMUX_MYPYC", said)
    assert requirements() == []
    build_data: dict[str, Any] = {"pure_python": True, "infer_tag": False, "force_include": {}}
    hook().initialize("standard", build_data)
    assert build_data == {"pure_python": True, "infer_tag": False, "force_include": {}}


def test_a_compiled_build_needs_mypyc_and_what_it_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMUX_MYPYC", "1")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [Requirement(line).name.lower() for line in requirements()]
    assert {"mypy", "setuptools"} < set(needed)
    assert {Requirement(line).name.lower() for line in project["dependencies"]} < set(needed)


def test_work_on_the_sources_is_never_hidden_by_compiled_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMUX_MYPYC", "1")
    build_data: dict[str, Any] = {"pure_python": True, "infer_tag": False, "force_include": {}}
    hook().initialize("editable", build_data)
    assert build_data["pure_python"]


def test_what_is_compiled_is_there() -> None:
    compiled = runpy.run_path(str(ROOT / "hatch_build.py"))["COMPILED"]
    assert not [name for name in compiled if not (ROOT / "src/llmux" / name).exists()]
    assert len(set(compiled)) == len(compiled)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_says_what_is_wrong_with_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\ncase $1 in -c) exit 1 ;; esac\n")
    old.chmod(0o755)
    made = subprocess.run(
        ["make", "--silent", "demo", f"PYTHON={old}", f"VENV={tmp_path}/venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert made.returncode == 2
    assert (
        made.stdout
        == f"llmux needs Python 3.11 or newer, and {old} is not. With another: make PYTHON=python3.12 demo\n"
    )
    assert not (tmp_path / "venv").exists()
