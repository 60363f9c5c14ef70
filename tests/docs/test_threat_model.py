"""The threat model names tests: they exist, and every defence has one."""

from __future__ import annotations

import ast

import pytest

from tests.docs.documents import ROOT, code, rows

THREATS = [
    row
    for whose in ("clients", "web pages", "backends and hooks", "accident")
    for row in rows(ROOT / "THREAT_MODEL.md", f"threat by {whose}", "defence", "shown by")
]


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", THREATS, ids=lambda row: row[0][:40])
def test_every_defence_is_shown(row: tuple[str, str, str]) -> None:
    named = [name for name in code(row[2]) if "::" in name]
    assert named or "](docs/" in row[2]
    for name in named:
        path, _, test = name.partition("::")
        assert test in functions_of(path), name


def test_all_tables_were_read() -> None:
    assert len(THREATS) >= 20
