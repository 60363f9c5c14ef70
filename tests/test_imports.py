"""The import rule of ARCHITECTURE.md, as contracts in pyproject.toml."""

from __future__ import annotations

import pytest


def test_imports_go_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    linter = pytest.importorskip("importlinter.cli", reason="import-linter comes with the check group")
    assert linter.lint_imports(no_cache=True) == 0, capsys.readouterr().out
