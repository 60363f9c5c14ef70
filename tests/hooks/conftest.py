"""Hooks run on both loops: llmux serves on uvloop, and the runner must not depend on it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from llmux.hooks import HookResult, HookRunner, HookSpec, survivors
from llmux.hooks import run as run_module
from llmux.messages import Hook

DEADLINE = 30.0
"""How long a test waits for what must happen, on a machine that may be busy."""


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"use_uvloop": request.param})


def alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descriptors() -> list[str]:
    """What this process has open, but for what tests before have left and is only not collected yet."""
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"))


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.005)


class Shop:
    """A runner, and what is needed to try it: every line it passed on, and a list of pids to clear away."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, Hook, str]] = []
        self.leftovers: list[int] = []
        self.runner = self.new_runner()
        self._ids = iter(range(1, 1_000_000))

    def new_runner(self, *, grace: float = 0.2, lines_per_second: int = 100, tail_bytes: int = 65536) -> HookRunner:
        self.runner = HookRunner(
            grace=grace,
            tail_bytes=tail_bytes,
            lines_per_second=lines_per_second,
            on_output=lambda model, hook, line: self.lines.append((model, hook, line)),
        )
        return self.runner

    def start(
        self,
        script: str,
        *,
        timeout: float | None = DEADLINE,
        model: str = "llama",
        hook: Hook = Hook.WAKE,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
    ) -> tuple[int, asyncio.Future[HookResult]]:
        """Start a hook; its result comes with the future, which fails the test if it is set twice."""
        run_id = next(self._ids)
        future: asyncio.Future[HookResult] = asyncio.get_running_loop().create_future()

        def on_end(ended: int, result: HookResult) -> None:
            assert ended == run_id
            future.set_result(result)

        self.runner.start(
            run_id,
            model,
            hook,
            HookSpec(script, cwd, env or {}),
            timeout=timeout,
            variables=variables or {},
            on_end=on_end,
        )
        assert not future.done(), "on_end was called from inside start"
        return run_id, future

    async def run(self, script: str, **options: Any) -> HookResult:
        return await asyncio.wait_for(self.start(script, **options)[1], DEADLINE)

    async def run_past_its_deadline(self, script: str, **options: Any) -> HookResult:
        """The result of a run that has said `ready` when its deadline came. On a machine so busy that it has not come
        so far, it has twice the time in another try."""
        timeout = 0.25
        while True:
            result = await asyncio.wait_for(self.start(script, timeout=timeout, **options)[1], 2 * DEADLINE)
            if "ready" in result.output.split() or timeout > DEADLINE:
                return result
            timeout *= 2

    async def pid_from(self, path: Path) -> int:
        """The pid that a script writes into `path`; it is cleared away after the test."""

        def written() -> bool:
            if not (path.exists() and path.read_text().endswith("\n")):
                return False
            self.leftovers.append(int(path.read_text()))
            return True

        await until(written)
        return self.leftovers[-1]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was killed may take its time to be gone, where others have the processors."""
    monkeypatch.setattr(run_module, "KILL_WAIT", DEADLINE)
    monkeypatch.setattr(survivors, "KILL_PATIENCE", DEADLINE)


@pytest.fixture(autouse=True)
def place_for_files(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where wake hooks say where their backend is: some llmuxes here are killed, and leave it behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("files")))


@pytest.fixture
async def shop(anyio_backend: object) -> AsyncIterator[Shop]:
    shop = Shop()
    yield shop
    shop.runner.kill_all()
    for pid in shop.leftovers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(shop.runner.wait_closed(), DEADLINE)
    assert (shop.runner.running, shop.runner.background) == (0, 0)
