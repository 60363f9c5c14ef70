"""FAULTS 72: that the guard of conftest.py really fails a test in which llmux blocks the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from blockbuster import BlockingError

from llmux import Config

pytestmark = [pytest.mark.anyio, pytest.mark.fault(72)]


async def test_a_blocking_call_of_llmux_on_the_loop_raises(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("models: {}\n")  # the test itself may block
    with pytest.raises(BlockingError):
        Config.from_file(tmp_path / "config.yaml")
