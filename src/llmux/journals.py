"""Who wants to know of every request, by the configuration: the access log, and traces. None by default.

Makes them, begins and ends them. What they write is theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from llmux.accesslog import AccessLog, LoggedAccess
from llmux.config import Config
from llmux.records import Scribe

if TYPE_CHECKING:
    from llmux.driver import Driver
    from llmux.telemetry.tracing import Tracing


class Journals:
    """What a configuration wants written down. Making it may import OpenTelemetry, which takes a while.

    Raises:
        ConfigError: it wants traces, and OpenTelemetry is not installed.
    """

    def __init__(self, config: Config) -> None:
        self._file: AccessLog | None = None
        self._path = config.access_log_path
        self._tracing: Tracing | None = tracing(config)
        scribes: list[Scribe] = [] if self._tracing is None else [self._tracing]
        if config.access_log_path is not None:
            self._file = AccessLog(
                config.access_log_path, max_bytes=config.access_log_max_bytes, keep=config.access_log_keep
            )
            scribes.append(self._file)
        elif config.access_log:
            scribes.append(LoggedAccess())
        self.scribes = tuple(scribes)
        """In the order in which they are to be told: the access log has the trace's id."""

    @property
    def access_log_dropped(self) -> int:
        """How many requests are missing in the access log's file."""
        return 0 if self._file is None else self._file.dropped

    @contextlib.asynccontextmanager
    async def writing(self, driver: Driver) -> AsyncIterator[None]:
        """Write while this lasts.

        Raises:
            OSError: the access log cannot be opened.
        """
        if self._file is not None:
            try:
                await asyncio.to_thread(self._file.start)
            except OSError as error:
                raise OSError(f"`access_log` {self._path} cannot be written: {reason(error)}") from error
        unsubscribe = None if self._tracing is None else driver.subscribe(self._tracing.watch)
        try:
            yield
        finally:
            if unsubscribe is not None:
                unsubscribe()
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)
            if self._file is not None:
                await asyncio.to_thread(self._file.close)


def reason(error: OSError) -> str:
    """Why, without the number and the path: whoever says it names the path."""
    return error.strerror or str(error)


def tracing(config: Config) -> Tracing | None:
    """What makes traces, if the configuration wants some.

    Raises:
        ConfigError: OpenTelemetry is not installed, or its environment variables cannot be understood.
    """
    if not config.tracing:
        return None
    try:
        from llmux.telemetry.tracing import Tracing, provider
    except ImportError as error:
        raise config.fault(
            ("tracing",), f"needs OpenTelemetry: pip install 'llmux-server[otel]' ({error.name} is not installed)"
        ) from error
    try:
        made, ours = provider()
    except Exception as error:  # its environment variables are read by its own code, which raises what it likes
        raise config.fault(("tracing",), f"OpenTelemetry cannot be set up from the environment: {error}") from error
    return Tracing(made, ours=ours)
