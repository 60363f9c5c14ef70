"""Serving, as the command line starts it: its options, and what becomes of an error.

Without typer, whose import takes as long as the rest of what serving needs before it can listen: 55 of 280 ms.
"""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmux import hangup

DEFAULT_CONFIG = Path("config.yaml")


class LogFormat(enum.StrEnum):
    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of serving, which may stand before or after ``serve``. None and False mean: not given."""

    config: Path | None = None
    port: int | None = None
    host: str | None = None
    verbose: bool = False
    log_format: LogFormat | None = None
    watch: bool = False

    def or_else(self, other: ServeOptions) -> ServeOptions:
        """These options, and those of `other` where nothing is given here."""
        chosen = {}
        for one in fields(self):
            value = getattr(self, one.name)
            chosen[one.name] = getattr(other, one.name) if value is None or value is False else value
        return ServeOptions(**chosen)

    @property
    def given(self) -> bool:
        return self != ServeOptions()


_FLAGS = {"--watch": "watch", "--verbose": "verbose", "-v": "verbose"}
_WITH_VALUE = {
    "--config": "config",
    "-c": "config",
    "--port": "port",
    "-p": "port",
    "--host": "host",
    "--log-format": "log_format",
}


def plainly(arguments: Sequence[str]) -> ServeOptions | None:
    """What `arguments` ask for, if they do nothing but serve and are written in the plainest way: each option and its
    value by themselves. None for anything else, errors too: that is for typer to say.
    """
    given: dict[str, Any] = {}
    rest = iter(arguments)
    serve = False
    for argument in rest:
        if argument == "serve" and not serve:
            serve = True
        elif argument in _FLAGS:
            given[_FLAGS[argument]] = True
        elif argument in _WITH_VALUE and (value := next(rest, "-")) and not value.startswith("-"):
            given[_WITH_VALUE[argument]] = value
        else:
            return None
    try:
        if "config" in given:
            given["config"] = Path(given["config"])
        if "log_format" in given:
            given["log_format"] = LogFormat(given["log_format"])
        if "port" in given:
            given["port"] = int(given["port"])
            if not 0 <= given["port"] <= 65535:
                return None
    except ValueError:
        return None
    return ServeOptions(**given)


def run(options: ServeOptions) -> int:
    """Serve until a signal; returns the exit status of the process, having said on stderr why it cannot."""
    import gc
    import logging

    hangup.note()
    gc.disable()  # until everything is there: see `llmux.garbage`

    from llmux.config import Config
    from llmux.errors import ConfigError

    try:
        config = Config.from_file(options.config or DEFAULT_CONFIG)

        with _no_rich():
            from llmux.serve import StartError, serve

        try:
            return serve(
                config,
                host=options.host,
                port=options.port,
                log_level=logging.DEBUG if options.verbose else logging.INFO,
                log_format=options.log_format or LogFormat.AUTO,
                watch=options.watch,
            )
        except StartError as error:
            return _failed(str(error), status=1)
    except ConfigError as error:
        return _failed(f"{error}{no_file_hint(options.config)}", status=2)


def no_file_hint(named: Path | None) -> str:
    """The end of a message about a configuration that cannot be used: what to do where there simply is none."""
    if named is not None or os.path.exists(DEFAULT_CONFIG):
        return ""
    return "\n`llmux init` writes one, -c names another, and `llmux demo` needs none."


def _failed(message: str, *, status: int) -> int:
    sys.stderr.write(f"llmux: {message}\n")
    return status


@contextmanager
def _no_rich() -> Iterator[None]:
    """Keeps structlog from importing rich while this process, which is llmux's own, imports structlog.

    structlog does so wherever rich is, for coloured tracebacks; llmux's have none (`llmux.logs`). It takes 60 ms, a
    tenth of the whole start.
    """
    absent = "rich" not in sys.modules
    if absent:
        sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        yield
    finally:
        if absent:
            del sys.modules["rich"]
