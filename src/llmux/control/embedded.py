"""uvicorn as a part of a process that belongs to somebody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

SHUTDOWN_SECS = 1
"""How long answers under way may take when the server stops, in seconds; then they are cut."""


class EmbeddedServer(uvicorn.Server):
    """Serves `app` until `stop` is set. Handles no signals and writes no access log.

    uvicorn's own loop looks ten times a second whether it should exit; this one wakes once a second, for the Date
    header, and when it is told to stop.
    """

    def __init__(self, app: Starlette, stop: asyncio.Event) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECS,
        )
        config.load()
        super().__init__(config)
        self._stop = stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not self._stop.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stop.wait()
