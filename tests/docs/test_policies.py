"""docs/policies.md: its commands run, and what it shows of them is what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, blocks, write_examples
from tests.e2e.conftest import llmux_process

PAGE = ROOT / "docs" / "policies.md"
EXAMPLES = {block.name: block.text for block in blocks(PAGE)}
LLMUX = 'llmux() { "$PYTHON" -m llmux "$@"; }\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_examples(PAGE, tmp_path)
    return tmp_path


def sh(name: str, folder: Path) -> str:
    """Run one of the page's shell examples as its reader would."""
    script = LLMUX + EXAMPLES[name]
    run = subprocess.run(
        ["sh", "-ec", script],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    return run.stdout


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def test_the_table_is_what_the_command_prints(folder: Path) -> None:
    """Up to a tenth: arithmetic differs a little between machines, and chance then takes another course."""
    shown, printed = EXAMPLES["simulate.txt"], sh("simulate.sh", folder)
    assert re.sub(r"[\d,.%\s─]+", " ", shown) == re.sub(r"[\d,.%\s─]+", " ", printed)
    for old, new in zip(numbers(shown), numbers(printed), strict=True):
        assert new == pytest.approx(old, rel=0.1, abs=2), "run the command again and put its output on the page"


def test_the_sweep_draws_a_page(folder: Path) -> None:
    assert "break-even max_wait_secs=60" in sh("sweep.sh", folder)
    assert "<svg" in (folder / "day.html").read_text()


def test_the_policy_is_simulated(folder: Path) -> None:
    printed = sh("own.sh", folder)
    assert "threshold:Threshold requests=2" in printed
    assert "threshold:Threshold requests=8" in printed
    assert "failed" not in printed


def test_the_policy_is_forty_lines_at_most_with_all_that_it_takes() -> None:
    assert sum(EXAMPLES[name].count("\n") for name in ("threshold.py", "own.sh", "config.yaml")) <= 40


@pytest.mark.anyio
async def test_the_policy_runs(folder: Path) -> None:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    async with llmux_process("-c", str(folder / "config.yaml"), "-p", "0", PYTHONPATH=path) as server:
        assert await server.stop() == 0
    assert not server.events("policy_fault")
