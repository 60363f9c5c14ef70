"""What a command must not load, since whoever waits for it pays for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
models:
  a: {port: 8001, wake: "true", sleep: "true", alive: "false"}
"""

PROBE = """
import sys
from llmux.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", *[name for name in ("llmux.app", "llmux.driver", "llmux.gateway", "uvicorn") if name in sys.modules])
"""


@pytest.mark.parametrize("given", ["--help", "-c {} --generate poisson --seconds 20 --no-bound"])
def test_simulating_does_not_load_the_server(tmp_path: Path, given: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    command = [sys.executable, "-c", PROBE, "simulate", *given.format(config).split()]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.splitlines()[-1] == "LOADED"
