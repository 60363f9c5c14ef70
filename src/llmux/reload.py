"""Reads the configuration file again: when told to, and when it changes.

Touches the file and its folder, and the application through `App.reload`. A file that cannot be used changes nothing;
the log has all its faults, and the metrics say that there are some. Nothing here may end llmux.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from llmux import logs
from llmux.app import App
from llmux.config import Config
from llmux.errors import ConfigError

LOOK_MS = 5000
"""The file is looked at this often, in milliseconds, whatever the system tells of changes: it tells of none on network
file systems."""

SETTLE_MS = 200
"""How long a file that changes again and again is waited for, in milliseconds."""

RETRY_SECS = 1.0

log = logs.get_logger("llmux.reload")


def warn_if_open(config: Config) -> None:
    """To be called where other machines can reach the port: say so if nothing keeps them from using it."""
    if not config.api_keys:
        log.warning(
            "public_bind",
            message="other machines can reach this port, and whoever does may use all models: set `api_keys`, or "
            "`host: 127.0.0.1`",
        )


class Reloader:
    """Keeps an application at what its file says.

    Args:
        app: was made from the file at `path`.
        overrides: keys that the command line has set, whatever the file says.
        port: that llmux listens on.
        public: other machines can reach that port.
        seen: the `digest` of the file when `app` was made from it; what changes from then on is noticed. None: when it
            begins to be watched.
    """

    def __init__(
        self,
        app: App,
        path: Path,
        *,
        overrides: Mapping[str, Any] | None = None,
        port: int = 0,
        public: bool = False,
        seen: bytes | None = None,
    ) -> None:
        self._app = app
        self._path = path
        self._overrides = dict(overrides or {})
        self._port = port
        self._public = public
        self._one_at_a_time = asyncio.Lock()
        self._seen = seen
        self.problems: tuple[str, ...] = ()
        """What is wrong with the file, as it was when it was last read."""

    async def reload(self, cause: str) -> bool:
        """Read the file and go on with what it says; returns whether it could be used. `cause` is for the log."""
        async with self._one_at_a_time:
            self._seen = await asyncio.to_thread(digest, self._path)
            try:
                config = await asyncio.to_thread(Config.from_file, self._path)
                config = config.model_copy(update=self._overrides)
                changes = await self._app.reload(config)
            except ConfigError as error:
                self._refuse(cause, str(error).splitlines())
                return False
            except Exception as error:  # a policy that cannot be made, or a bug: serving goes on as it was
                self._refuse(cause, [f"{type(error).__name__}: {error}"])
                return False
            for warning in [*config.warnings, *config.port_warnings(self._port)]:
                log.warning("config_warning", message=warning)
            self.problems = ()
            log.info(
                "config_reloaded",
                cause=cause,
                path=str(self._path),
                added=", ".join(changes.added),
                removed=", ".join(changes.removed),
                changed=", ".join(changes.changed),
            )
            if changes.at_start:
                log.warning("config_needs_restart", keys=", ".join(changes.at_start))
            if self._public:
                warn_if_open(self._app.config)
            return True

    def _refuse(self, cause: str, problems: Sequence[str]) -> None:
        self._app.reload_refused()
        self.problems = tuple(problems)
        log.error("config_reload_failed", cause=cause, path=str(self._path), problems=list(problems))

    async def watch(self) -> None:
        """Reload whenever the file's content changes: written anew, replaced, or behind another symbolic link, as in a
        mounted Kubernetes ConfigMap. Never returns."""
        if self._seen is None:
            self._seen = await asyncio.to_thread(digest, self._path)
        awatch = await asyncio.to_thread(_awatch)
        while True:
            folders = await asyncio.to_thread(_folders, self._path)
            try:
                # The folders, since a file that is replaced is another file.
                changes = awatch(
                    *folders,
                    watch_filter=None,
                    recursive=False,
                    debounce=SETTLE_MS,
                    rust_timeout=LOOK_MS,
                    yield_on_timeout=True,
                )
                async with aclosing(changes):
                    async for _ in changes:
                        await self._look()
                        if await asyncio.to_thread(_folders, self._path) != folders:
                            break
            except OSError as error:  # a folder is gone, or the system watches too many already
                log.warning("config_watch_failing", path=str(self._path), error=error.strerror or str(error))
                await self._look()
                await asyncio.sleep(RETRY_SECS)

    async def _look(self) -> None:
        content = await asyncio.to_thread(digest, self._path)
        if content is not None and content != self._seen:
            await self.reload("the file changed")


def _awatch() -> Any:
    """Imported when first needed: most llmuxes watch nothing."""
    from watchfiles import awatch

    return awatch


def digest(path: Path) -> bytes | None:
    """Of the file's content; None while there is none, as in the middle of its being replaced."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None


def _folders(path: Path) -> list[str]:
    """Every folder in which a change can give the file another content: its own, and those on the way from one symbolic
    link to the next."""
    folders: dict[str, None] = {}
    for _ in range(40):  # as many as Linux follows
        folders[str(path.parent)] = None
        folders[os.path.realpath(path.parent)] = None
        try:
            target = os.readlink(path)
        except OSError:
            break
        path = path.parent / target
    return [folder for folder in folders if os.path.isdir(folder)]
