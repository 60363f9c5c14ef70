"""Where there is no pidfd (macOS, sandboxes), exits are noticed by asking, and all else is the same."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from llmux.hooks import process
from llmux.messages import Outcome
from tests.hooks.conftest import Shop, alive

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "open_pidfd", lambda pid: None)


async def test_exits_are_noticed(shop: Shop) -> None:
    results = await asyncio.gather(*(shop.run(f"exit {code}") for code in range(5)), shop.run("sleep 0.2; exit 7"))
    assert [result.exit_code for result in results] == [0, 1, 2, 3, 4, 7]


async def test_deadline_and_kill(shop: Shop, tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 300 & echo $! > pid; echo ready; while :; do sleep 0.02; done"
    result = await shop.run_past_its_deadline(script, cwd=tmp_path)
    pid = await shop.pid_from(tmp_path / "pid")
    assert (result.outcome, result.exit_code, result.survivors) == (Outcome.TIMEOUT, -signal.SIGKILL, ())
    assert not alive(pid)


async def test_a_daemon_holding_the_pipe(shop: Shop, tmp_path: Path) -> None:
    result = await shop.run("sleep 300 & echo $! > pid; echo ready", cwd=tmp_path)
    assert (result.outcome, result.output) == (Outcome.OK, "ready\n")
    assert alive(await shop.pid_from(tmp_path / "pid"))
    await shop.runner.wait_closed()
