"""What a demo run may be told, and its front door. Light: the command line imports it to build its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """How to run the demo.

    Attributes:
        dir: folder for the files that it writes (config, hook script, logs, pid files); made if need be.
        serve: stay up afterwards, for the user's own requests.
        simulated: pretend to have models; needs no weights.
        port: where llmux listens; None: 3000, or any free port if that is taken.
        rounds: how many times each model is asked.
    """

    dir: Path = Path("llmux-demo")
    serve: bool = False
    simulated: bool = False
    port: int | None = None
    rounds: int = 3


def run_demo(options: DemoOptions, console: Console | None = None) -> int:
    """Run the demo on the terminal, or on `console`; returns the exit status: 0 if every question was answered.

    Blocks, and runs an event loop of its own. SIGINT and SIGTERM end it, with no process left behind.
    """
    from llmux.demo.driver import drive

    return drive(options, console)
