"""Which tests show which rows of the fault table, read off their marks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.docs.documents import ROOT

ROWS = range(1, 73)


def marked(root: Path = ROOT / "tests") -> dict[int, set[str]]:
    """Row to tests, as ``folder/test_file.py::test_name``. A mark on a file, or on a case of a table that a test is
    parametrised with, counts for the tests of that file, or for those that use the table."""
    found: dict[int, set[str]] = {row: set() for row in ROWS}
    for path in sorted(root.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        place = path.relative_to(root).as_posix()
        everywhere: set[int] = set()
        tables: dict[str, set[int]] = {}
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                rows = set(_rows(node.value))
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        tables[target.id] = rows
                        if target.id == "pytestmark":
                            everywhere |= rows
        for test in ast.walk(tree):
            if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) and test.name.startswith("test_"):
                rows = set(everywhere)
                for decorator in test.decorator_list:
                    rows |= set(_rows(decorator))
                    used = [name.id for name in ast.walk(decorator) if isinstance(name, ast.Name)]
                    rows |= set().union(*(tables.get(name, set()) for name in used))
                for row in rows:
                    found.setdefault(row, set()).add(f"{place}::{test.name}")
    return found


def _rows(node: ast.AST) -> Iterator[int]:
    """The arguments of every ``fault(…)`` in it."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name == "fault":
                values = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
                yield from (value for value in values if isinstance(value, int))
