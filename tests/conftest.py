"""What every test gets: uvloop under the async ones, and a failure for anything that blocks the loop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Async tests are marked `pytest.mark.anyio` and run on the loop that llmux serves on."""
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """A blocking call made by llmux on a running loop raises (FAULTS row 72)."""
    with blockbuster_ctx("llmux") as guard:
        guard.functions["os.mkdir"].can_block_in("llmux/hooks/reported.py", "file")  # once, before the first wake
        yield guard


def pytest_configure(config: pytest.Config) -> None:
    """Tests interrupt processes. Where this one was started in the background of a script, SIGINT is ignored, and what
    it starts would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault", type=int, metavar="ROW", help="only the tests of this row of the fault table")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    row = config.getoption("--fault")
    if row is None:
        return
    wanted = [item for item in items if any(row in mark.args for mark in item.iter_markers("fault"))]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted
