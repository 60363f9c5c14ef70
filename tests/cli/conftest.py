"""A real llmux with hooks that wait for a word, and its command line as processes."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmux.cli.progress import QUIET_SECS
from tests.cli.test_cli import DEADLINE, LLMUX, Server, serving

CONFIG = """
models:
  good: {port: 1, aliases: [gpt], wake: "echo loading; echo up", sleep: "echo bye", alive: "false"}
  org/other: {port: 1, wake: "true", sleep: "true", alive: "false"}
  bad: {port: 1, wake: "echo no memory >&2; exit 3", sleep: "true", alive: "false"}
  slow: {port: 1, wake: "./wait-for go", sleep: "true", alive: "false"}
  stuck: {port: 1, wake: "true", sleep: "test -e free", alive: "false"}
port: 0
"""

WAIT_FOR = """#!/bin/sh
echo waiting
until [ -e "$1" ]; do sleep 0.05; done
"""


PROGRESS = re.compile(
    r"(\S+: (waiting for its turn|\w+)|(waking|draining|putting|reading|looking) .*|\S+ waits for the switch to .*)$"
)


class Box:
    """A folder with a configuration and the llmux that serves it."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.server = server
        self.environment = {"LLMUX_URL": server.url}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            [*LLMUX, *arguments],
            cwd=self.folder,
            env=clean() | self.environment | environment,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE,
        )

    def order(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command to its end, whose order takes no time. If it takes more than a second all the same, as on a busy
        machine, what is shown meanwhile is left out of what it has said."""
        begun = time.monotonic()
        done = self.run(*arguments, **environment)
        if time.monotonic() > begun + QUIET_SECS:
            done.stderr = "".join(line for line in done.stderr.splitlines(keepends=True) if not PROGRESS.match(line))
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that takes its time."""
        return subprocess.Popen(
            [*LLMUX, *arguments],
            cwd=self.folder,
            env=clean() | self.environment | {"PYTHONUNBUFFERED": "1"},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def clean() -> dict[str, str]:
    """The environment without what a developer may have set for a llmux of their own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LLMUX_")}


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def lay_out(folder: Path, config: str = CONFIG) -> Path:
    """Write the configuration and the script that it names."""
    script = folder / "wait-for"
    script.write_text(WAIT_FOR)
    script.chmod(0o755)
    file = folder / "served.yaml"
    file.write_text(config)
    return file


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with serving("-c", str(lay_out(tmp_path))) as server:
        yield Box(tmp_path, server)
        (tmp_path / "go").touch()
        (tmp_path / "free").touch()
