"""Real processes for the end-to-end tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

DEADLINE = 30.0


class Server:
    """A running `llmux` process: its address, and the JSON log lines that it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self._grown = asyncio.Event()
        self._ended = False

    @property
    def url(self) -> str:
        return str(self.events("listening")[0]["url"])

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            self.raw.append(raw.decode())
            with contextlib.suppress(ValueError):
                self.lines.append(json.loads(raw))
            self._grown.set()
        self._ended = True
        self._grown.set()

    async def wait_for(self, name: str, count: int = 1) -> dict[str, Any]:
        """Wait until `count` events of that name were logged; returns the last of them."""
        async with asyncio.timeout(DEADLINE):
            while len(self.events(name)) < count:
                assert not self._ended, f"llmux ended with {self.process.returncode}:\n{''.join(self.raw)}"
                await self._more()
        return self.events(name)[count - 1]

    async def _more(self) -> None:
        self._grown.clear()
        await self._grown.wait()

    async def stop(self, *signals: signal.Signals) -> int:
        """Its exit status, once it has ended, and all that it has logged was read."""
        for number in signals or (signal.SIGTERM,):
            if self.process.returncode is None:
                self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE):
            status = await self.process.wait()
            while not self._ended:
                await self._more()
        return status


async def metric(server: Server, name: str) -> float:
    """The value of a series, which `name` gives with its labels."""
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:
        for line in (await client.get("/metrics")).text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    raise AssertionError(name)


@contextlib.asynccontextmanager
async def listening(process: asyncio.subprocess.Process) -> AsyncIterator[Server]:
    """Wait until llmux, which was just started with a pipe for its log, listens; end it at last."""
    server = Server(process)
    reader = asyncio.create_task(server.read())
    try:
        await server.wait_for("listening")
        yield server
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader


@contextlib.asynccontextmanager
async def llmux_process(*arguments: str, cwd: Path | None = None, **environment: str) -> AsyncIterator[Server]:
    """Run the command line, wait until it listens, and end it at last."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "llmux",
        *arguments,
        cwd=cwd,
        env=os.environ | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with listening(process) as server:
        yield server
