"""What every test gets: uvloop under the async ones, a failure for anything that blocks the loop, and none for what a
machine that has other things to do holds up for some seconds."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from llmux import logs
from llmux.logfile import writer

# What is made up is always the same, unless new examples are asked for; and how long one takes says nothing.
settings.register_profile(
    "llmux",
    derandomize="LLMUX_FUZZ" not in os.environ,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("llmux")

# All that is spoken to is on this machine, which a proxy of the web knows nothing of.
for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)


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


@pytest.fixture(scope="session", autouse=True)
def threads_that_write_are_waited_for() -> Iterator[None]:
    """llmux stops waiting for them sooner than a busy machine may let them write. What is lost then is no fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "WAIT_SECS", 60.0)
        patch.setattr(writer, "CLOSE_SECS", 60.0)
        yield


@pytest.fixture
def full_disk() -> Iterator[Path]:
    """A device that is always full. What llmux writes to it keeps all others from writing there, so that it is one
    test's at a time, those of other processes included."""
    with open(Path(tempfile.gettempdir()) / f"llmux-tests-{os.getuid()}-full-disk", "w", encoding="utf-8") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield Path("/dev/full")


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
