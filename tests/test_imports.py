"""The import rule of ARCHITECTURE.md, as contracts in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.skipif(find_spec("importlinter") is None, reason="import-linter comes with the check group")
def test_imports_go_one_way() -> None:
    """In a process of its own: the linter configures logging, which other tests look at."""
    script = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    root = Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", script], check=False, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
