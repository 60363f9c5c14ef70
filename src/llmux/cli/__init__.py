"""The command line. Nobody imports this room; it may import all others, each only when its command is called."""

from __future__ import annotations

from llmux.cli.start import main

__all__ = ["main"]
