"""The table of docs/reliability.md has every row, and names tests that exist and are marked with it."""

from __future__ import annotations

import pytest

from tests.docs.documents import ROOT, code, rows
from tests.docs.faults import ROWS, marked

TABLE = rows(ROOT / "docs" / "reliability.md", "#", "fault", "what one sees", "shown by")


def test_every_row_is_there_once() -> None:
    assert [int(row[0]) for row in TABLE] == list(ROWS)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_the_tests_named_show_the_row(row: list[str]) -> None:
    named = set(code(row[3]))
    assert named
    assert named <= MARKED[int(row[0])]


MARKED = marked()
