"""The harness that measures llmux beside its peers: with llmux alone, as any other may be missing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import ROOT

CEILING = "ceiling"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.gateways", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a short run of some measures writes, without wrk and nginx."""
    folder = tmp_path_factory.mktemp("bench")
    measures = "--measures=streams,memory,switch"
    done = run("--quick", "--plain", "--peers=llmux,nginx", measures, f"--peers-in={folder}/none", f"--write={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def test_every_measure_has_figures_for_llmux_and_for_the_ceiling(written: Path) -> None:
    results = json.loads((written / "speed.json").read_text())["results"]
    assert not [row for row in results if "failed" in row]
    found = {(row["measure"], row["peer"]): row["median"] for row in results}
    assert found["streams", "llmux"]["cpu"] > 0
    assert found["streams", CEILING]["p50"] > 0
    assert found["memory", "llmux"]["each"] > 0
    (switches,) = [row["rounds"] for row in results if (row["measure"], row["peer"]) == ("switch", "llmux")]
    assert min(switches["switch"]) > min(switches["hooks"]) > 0  # of the others, more or less is the machine's


def test_the_document_says_what_was_not_measured_and_why(written: Path) -> None:
    text = (written / "speed.md").read_text()
    assert "Not measured: nginx, as it is not there" in text or "nginx (plain proxy)" in text  # if the system has it
    assert "| switch beyond its hooks, median | ≤ 2 ms |" in text
    assert "requests/s, 1 KB, 32 at a time: of llama-swap" not in text  # nothing was measured to compare with
    assert (written / "speed.svg").exists()


def test_unknown_names_are_told_with_those_that_there_are() -> None:
    done = run("--peers", "llmux,envoy")
    assert done.returncode == 2
    assert "unknown: envoy; there are llmux, llmux-compiled, llmux-2.4.0, llama-swap" in done.stderr
